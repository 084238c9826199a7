"""`ghost compare`: several runs beside each other, in the terminal and as a page."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.arguments import AsJson, EndpointUrl, StoreUrl, expand_home
from ghost.report.figures import in_form

HEADINGS = ("run", "model", "method", "sparsity", "recovery", "perplexity", "rise", "state, bytes", "parameters")
SHORT_ID = 8
NARROWEST = 110
"""Columns that the table takes even where the terminal has fewer: lines that break are better than figures cut off."""
FIRST_FIGURE = HEADINGS.index("perplexity")


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Run ids, or the first characters of them.")],
    store: StoreUrl = "ghost-runs",
    out: Annotated[Path, typer.Option(callback=expand_home, help="Where to write the page.")] = Path("compare.html"),
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Compare finished runs: figures, perplexity against state, and which channels they have in common."""
    from tasks.store.comparison import compare_runs, machine_readable, write_page

    found = compare_runs(store, runs)
    page, figures = str(write_page(found, out)), machine_readable(found)
    if as_json:
        print(json.dumps(figures | {"page": page}, ensure_ascii=False))
        return
    console = Console()
    console.width = max(console.width, NARROWEST)
    console.print(_table(figures["runs"]))
    console.print(Text(f"page: {page}"), soft_wrap=True)


def _table(runs: list[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE)
    for number, heading in enumerate(HEADINGS):
        table.add_column(
            heading,
            justify="right" if number >= FIRST_FIGURE else "left",
            overflow="fold",
            no_wrap=heading == HEADINGS[0],
        )
    for run in runs:
        table.add_row(*map(Text, _cells(run)))
    return table


def _cells(run: dict[str, Any]) -> list[str]:
    return [
        run["run_id"][:SHORT_ID],
        *(str(run[name]) for name in ("model", "method", "sparsity", "recovery")),
        in_form(run["perplexity"]["pruned"], "{:.3f}"),
        in_form(run["perplexity_rise"], "{:+.1%}"),
        f"{run['state_bytes']['pruned']:,}",
        f"{run['parameters']['pruned']:,}",
    ]
