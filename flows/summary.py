"""The headline figures of a run, for a terminal and for Prefect's run page."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ghost.report.figures import error_of_rise, in_form, noted, rise, task_change, with_noise
from ghost.report.run_form import unit

HEADINGS = ("", "dense", "pruned", "change")


def rows(summary: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Quantity, dense, pruned, change; perplexity and state first."""
    kept = f"{summary['kept_channels']:,} of {summary['channels']:,}"
    return [
        _perplexity_row(summary),
        _row("state bytes per sequence", summary["state_bytes"], "{:,}"),
        _row("d_state", summary["d_state"], "{}"),
        _row("parameters", summary["parameters"], "{:,}"),
        (
            f"kept {unit(summary)}s",
            f"{summary['channels']:,}",
            kept,
            f"{summary['kept_channels'] / summary['channels'] - 1:+.1%}",
        ),
        *(_task_row(score) for score in summary.get("tasks", {}).get("scores", ()) if score["main"]),
    ]


def _perplexity_row(summary: dict[str, Any]) -> tuple[str, str, str, str]:
    name, dense, pruned, _ = _row("perplexity", summary["perplexity"], "{:.3f}")
    return name, dense, pruned, with_noise(rise(summary["perplexity"]), error_of_rise(summary), "{:+.1%}")


def _task_row(score: dict[str, Any]) -> tuple[str, str, str, str]:
    """A task's main metric with its standard error; the change in points, or as a share where low is good."""
    dense, pruned = (_with_error(score["value"][name], score["stderr"][name]) for name in ("dense", "pruned"))
    return f"{score['task']}, {score['metric']}", dense, pruned, task_change(score)


def _with_error(value: float | None, error: float | None) -> str:
    figure = in_form(value, "{:,.3f}")
    return figure if error is None else f"{figure} ± {error:,.3f}"


def _row(name: str, values: dict[str, float | None], form: str) -> tuple[str, str, str, str]:
    dense, pruned = (in_form(values[model], form) for model in ("dense", "pruned"))
    return name, dense, pruned, in_form(rise(values), "{:+.1%}")


def _title(summary: dict[str, Any]) -> str:
    return f"{summary['model']}: {summary['method']} at sparsity {summary['sparsity']}"


def as_table(summary: dict[str, Any]) -> Table:
    table = Table(title=_title(summary), title_justify="left")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows(summary):
        table.add_row(*row)
    return table


def headline(summary: dict[str, Any]) -> str:
    """What matters most, short enough for a card on the run page."""
    perplexity, state, *_ = rows(summary)
    return f"perplexity {perplexity[-1]}, state {state[-1]}"


def as_markdown(summary: dict[str, Any], checkpoint: str, page: str) -> str:
    """The headline table with links for Prefect's run page; `page` is where the report lies, a path or an address."""
    figures, lines = rows(summary), ["| " + " | ".join(HEADINGS) + " |", "|---|---:|---:|---:|"]
    lines += ["| " + " | ".join(row) + " |" for row in figures]
    if note := noted(row[-1] for row in figures):
        lines.append(f"\n{note}")
    lines += [f"\n**Warning**: {warning}" for warning in summary.get("warnings", [])]
    places = f"- checkpoint: `{checkpoint}`\n- report: {_linked(page)}\n- run: `{summary['run_id']}`\n"
    return f"# {_title(summary)}\n\n" + "\n".join(lines) + f"\n\n{places}"


def _linked(page: str) -> str:
    """A link where a browser can follow one. Never a signed address: run pages are kept, and read by many."""
    if not page.startswith("s3://"):
        return f"[{page}]({Path(page).as_uri()})"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if not endpoint or "@" in endpoint:  # user:password@host
        return f"`{page}`"
    address = f"{endpoint.rstrip('/')}/{quote(page.removeprefix('s3://'))}"
    return f"`{page}` ([over HTTP]({address}), for those who may read it)"


def print_summary(result: dict[str, Any], *, as_json: bool) -> None:
    """The headline table on stdout, and where things lie; or the whole result as one JSON object."""
    if as_json:
        print(json.dumps(_machine_readable(result)))
        return
    console = Console()
    console.print(as_table(result))
    print_note(console, (row[-1] for row in rows(result)))
    print_warnings(result, console)
    layers, mixers = result["layers"], result["layers"]["computed"] + result["layers"]["cached"]
    every = result.get("decoder_layers", mixers)
    some = "" if mixers == every else f"{mixers} of {every} have a Mamba2 state; "
    done = f"{layers['computed']} computed, {layers['cached']} cached; {result['seconds']} seconds"
    console.print(f"layers: {some}{done}")
    console.print(f"checkpoint: {result['checkpoint']}", soft_wrap=True, highlight=False)
    console.print(f"summary page: {result['page']}", soft_wrap=True, highlight=False)


def print_note(console: Console, cells: Iterable[str]) -> None:
    """What the cells of a table don't say for themselves."""
    if note := noted(cells):
        console.print(Text(note), soft_wrap=True)


def print_warnings(result: dict[str, Any], console: Console) -> None:
    """What the figures should not be read without, each sentence on a line of its own."""
    for warning in result.get("warnings", []):
        console.print(Text(f"warning: {warning}"), soft_wrap=True, style="yellow")


def _machine_readable(result: dict[str, Any]) -> dict[str, Any]:
    names = ("run_id", "checkpoint", "page", "perplexity", "state_bytes", "d_state", "parameters", "layers", "seconds")
    some = ("nll_change_stderr", "decoder_layers", "tasks", "warnings")
    return {name: result[name] for name in names} | {name: result[name] for name in some if name in result}


def print_layers(title: str, layers: list[dict[str, Any]]) -> None:
    """One line per layer."""
    table = Table(title=title, title_justify="left")
    for name in layers[0]:
        table.add_column(name, justify="right")
    for row in layers:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
