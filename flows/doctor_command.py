"""`ghost doctor`: is everything in place on this machine, and what a run would do with a model."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.arguments import AsJson, EndpointUrl
from flows.guard import start_guard
from flows.units import in_bytes, in_time
from tasks.wording import layers_in_words

COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}
EVALUATED = 10_000
"""Tokens of evaluation text that its time is told for."""


def doctor(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Say what a run would do with this model: demo, a folder, s3://bucket/prefix or a hub name."
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(envvar="GHOST_STORE", help="Folder or s3://bucket/prefix to try; without it none is written to."),
    ] = None,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Check versions, device, kernels, store, Prefect and disk, and say what to do about each. With MODEL, look at that
    instead: its layers and state, and what memory and time a run with default settings would take here. Exit code 1
    where there is a problem."""
    if model is not None:
        _examine_model(model, as_json=as_json)
        return
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


def _examine_model(model: str, *, as_json: bool) -> None:
    from tasks.doctor.model import examine_model

    found = examine_model(model)
    if as_json:
        print(json.dumps({"model": found}))
    else:
        _print_model(found)
    if "refused" in found:
        raise typer.Exit(1)


def _print_model(found: dict[str, Any]) -> None:
    console, table = Console(), Table("", "what a run with default settings would find and do")
    for name, said in model_rows(found):
        if console.is_terminal:
            table.add_row(name, Text(said))
        else:
            print(f"{name}: {' '.join(said.split())}")
    if console.is_terminal:
        console.print(table)


def model_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What was found out about a model, in words."""
    return [
        ("model", found["model"]),
        ("family", f"{found['family']}, weights in {' and '.join(found['dtypes'])}"),
        ("layers", _layers(found)),
        ("mixers", _mixers(found)),
        ("state", _state(found)),
        ("parameters", f"{found['parameters']:,}"),
        ("largest layer", f"{found['largest_layer']}: {_by_dtype(found['largest_layer_bytes'])}"),
        ("embeddings", _by_dtype(found["embedding_bytes"])),
        ("head", _by_dtype(found["head_bytes"])),
        ("memory", _memory(found)),
        ("time", _time(found)),
        ("methods", _methods(found)),
        ("tokenizer", found["tokenizer"] or "in the folder"),
    ]


def _layers(found: dict[str, Any]) -> str:
    words, kinds = layers_in_words(found["layers"], found["mixers"]), found["layer_kinds"]
    return words if len(kinds) == 1 else f"{words}: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"


def _mixers(found: dict[str, Any]) -> str:
    groups = f"{found['n_groups']} group{'s' if found['n_groups'] > 1 else ''}"
    return (
        f"d_state {found['d_state']} in {groups}, {found['nheads']} heads of {found['headdim']}, "
        f"d_model {found['d_model']}"
    )


def _state(found: dict[str, Any]) -> str:
    states, convolutions = found["state_bytes"], found["conv_state_bytes"]
    caches = any("attention" in kind for kind in found["layer_kinds"])
    return (
        f"{in_bytes(states['dense'])} a sequence, in fp32; {in_bytes(states['pruned'])} at sparsity "
        f"{found['sparsity']:g}, with d_state {found['pruned_d_state']}\n"
        f"beside it {in_bytes(convolutions['dense'])} of the convolutions, then {in_bytes(convolutions['pruned'])}"
        f"{'; attention keeps its caches as they are' if caches else ''}"
    )


def _by_dtype(sizes: dict[str, int]) -> str:
    return ", ".join(f"{in_bytes(size)} in {dtype}" for dtype, size in sizes.items())


def _memory(found: dict[str, Any]) -> str:
    taken = found["memory_bytes"]
    there = f"{in_bytes(found['free_bytes'])} free on {found['device']}"
    if "refused" in found:
        return f"too little: {found['refused']}"
    verdict = "" if taken["total"] <= found["free_bytes"] else "\n-> it may not be enough: see docs/operations.md"
    return (
        f"about {in_bytes(taken['total'])} of {there}, in {found['dtype']}: walk {in_bytes(taken['walk'])}, "
        f"evaluation {in_bytes(taken['evaluation'])}, Python {in_bytes(taken['process'])}{verdict}"
    )


def _time(found: dict[str, Any]) -> str:
    if "refused" in found:
        return "not tried"
    evaluation = in_time(EVALUATED * found["evaluation_seconds_per_token"])
    return (
        f"about {in_time(found['walk_seconds'])} for the walk over {found['calibration_tokens']:,} tokens, and "
        f"{evaluation} for every {EVALUATED:,} tokens of evaluation\n"
        f"an estimate: one mixer of this shape tried on {found['tried_tokens']:,} tokens, here and now"
    )


def _methods(found: dict[str, Any]) -> str:
    refused = {name: why for name, why in found["methods"].items() if why}
    if not refused:
        return f"all {len(found['methods'])}"
    return "\n".join([f"all but {', '.join(refused)}", *dict.fromkeys(refused.values())])
