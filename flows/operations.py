"""Commands for whoever runs ghost unattended: is everything in place, and what may go."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.arguments import AsJson, EndpointUrl, StoreUrl
from flows.guard import start_guard

COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}
UNITS = ("bytes", "kB", "MB", "GB", "TB")


def doctor(
    store: Annotated[
        str | None,
        typer.Option(envvar="GHOST_STORE", help="Folder or s3://bucket/prefix to try; without it none is written to."),
    ] = None,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Check versions, device, kernels, store, Prefect and disk, and say what to do about each. Exit code 1 where there
    is a problem."""
    from tasks.doctor import examine

    start_guard()  # of the embedded server that is tried
    checks = examine(store)
    if as_json:
        print(json.dumps({"checks": checks}))
    else:
        _print_checks(checks)
    if any(check["status"] == "problem" for check in checks):
        raise typer.Exit(1)


def _print_checks(checks: list[dict[str, str]]) -> None:
    """A table for people; a line each for logs and for grep."""
    console, table = Console(), Table("", "", "found, and what to do")
    for check in checks:
        status, name, found, remedy = (check[field] for field in ("status", "name", "found", "remedy"))
        if console.is_terminal:
            table.add_row(Text(status, COLOURS[status]), name, Text(f"{found}\n-> {remedy}" if remedy else found))
        else:
            print(f"{status:8} {name}: {found}" + (f"; {remedy}" if remedy else ""))
    if console.is_terminal:
        console.print(table)


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


def in_bytes(size: float) -> str:
    """Such as `1.4 GB`."""
    for unit in UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {UNITS[-1]}"
