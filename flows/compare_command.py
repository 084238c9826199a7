"""`ghost compare`: several runs beside each other, in the terminal and as a page."""

import json
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.arguments import AsJson, EndpointUrl, StoreUrl, expand_home
from flows.summary import print_note
from ghost.report.figures import in_form, with_noise

HEADINGS = (
    "run", "model", "method", "sparsity", "recovery", "perplexity", "rise", "against the first", "state, bytes",
    "parameters",
)  # fmt: skip
SHORT_ID = 8
NARROWEST = 140
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
    console.print(_table(rows := _rows(figures)))
    print_note(console, chain.from_iterable(rows))
    console.print(Text(f"page: {page}"), soft_wrap=True)


def _rows(figures: dict[str, Any]) -> list[list[str]]:
    """Cells of each run."""
    against = _against_first(figures)
    return [_cells(run, against.get(run["run_id"])) for run in figures["runs"]]


def _against_first(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What perplexity changes by from the first run to each of the others, by run."""
    first = figures["runs"][0]["run_id"]
    return {
        change["runs"][1]: change
        for change in figures["changes"]
        if change["part"] == "perplexity" and change["runs"][0] == first
    }


def _table(rows: list[list[str]]) -> Table:
    table = Table(box=SIMPLE)
    for number, heading in enumerate(HEADINGS):
        table.add_column(
            heading,
            justify="right" if number >= FIRST_FIGURE else "left",
            overflow="fold",
            no_wrap=heading == HEADINGS[0],
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _cells(run: dict[str, Any], against: dict[str, Any] | None) -> list[str]:
    return [
        run["run_id"][:SHORT_ID],
        *(str(run[name]) for name in ("model", "method", "sparsity", "recovery")),
        in_form(run["perplexity"]["pruned"], "{:.3f}"),
        with_noise(run["perplexity_rise"], run["perplexity_rise_stderr"], "{:+.1%}"),
        "" if against is None else against["why_not"] or with_noise(against["change"], against["stderr"], "{:+.1%}"),
        f"{run['state_bytes']['pruned']:,}",
        f"{run['parameters']['pruned']:,}",
    ]
