"""`ghost gc`, for whoever runs ghost unattended: what may go."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.arguments import AsJson, EndpointUrl, StoreUrl
from flows.units import in_bytes


def gc(
    store: StoreUrl = "ghost-runs",
    days: Annotated[float, typer.Option(min=0, help="Only runs that stored nothing for so many days.")] = 7,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; otherwise they are listed.")] = False,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """List unfinished runs that nobody continues, or remove them. A finished run is never touched."""
    from tasks.store.gc import collect

    runs = collect(store, days, remove=yes)
    if as_json:
        print(json.dumps({"runs": runs, "removed": yes}))
    else:
        _print_runs(runs, days, removed=yes)


def _print_runs(runs: list[dict[str, Any]], days: float, *, removed: bool) -> None:
    console = Console()
    if not runs:
        console.print(f"no unfinished run has been idle for {days:g} days")
        return
    table = Table("run", "model", title=f"unfinished runs, idle for {days:g} days or more", title_justify="left")
    for name in ("idle days", "layers done", "size"):
        table.add_column(name, justify="right")
    for run in runs:
        table.add_row(
            run["run_id"], Text(run["model"]), f"{run['days']:.1f}", str(run["layers"]), in_bytes(run["size"])
        )
    console.print(table)
    total = in_bytes(sum(run["size"] for run in runs))
    console.print(f"{len(runs)} removed, {total}" if removed else f"{len(runs)} listed, {total}; --yes removes them")
