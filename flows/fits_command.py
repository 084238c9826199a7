"""`ghost fits`: what a model, and smaller states of it, would cost where people serve it."""

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.arguments import AsJson, EndpointUrl, numbers
from flows.units import in_binary, in_bytes
from ghost.report.figures import plural
from ghost.serving.runtimes import RUNTIMES, spelled
from tasks.wording import layers_in_words

SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def fits(
    model: Annotated[str, typer.Argument(help="demo, a folder, s3://bucket/prefix or hub name; config.json will do.")],
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="LIST", help="State sizes to compare with the model's own; by default 96,64,32,16."),
    ] = None,
    server: Annotated[str | None, typer.Option(help=f"Only this one of {', '.join(RUNTIMES)}.")] = None,
    memory: Annotated[str, typer.Option(help="Memory of the device that serves, such as 24GiB or 80GB.")] = "24GiB",
    context: Annotated[
        int, typer.Option(min=1, help="Tokens of each sequence, which attention's caches in a hybrid grow with.")
    ] = 4096,
    dtype: Annotated[
        str,
        typer.Option(
            help="Precision to serve in: bfloat16, float16, float32; auto takes the config's, and bfloat16 for float32."
        ),
    ] = "auto",
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Say before any pruning what a smaller state is worth: bytes of a sequence in each runtime, how many sequences fit
    beside the weights, and which state sizes its kernels take. No weight is read."""
    from tasks.fits import examine_fits

    kept = numbers("keep", keep or [], int, "64,32")
    found = examine_fits(model, keep=kept, server=server, memory=memory, dtype=dtype, context=context)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    console, known = Console(), [runtime for runtime in found["runtimes"] if not runtime["refused"]]

    def say(lines: Iterable[str]) -> None:
        for line in lines:
            console.print(Text(line), soft_wrap=True, highlight=False)

    say(_about(found))
    if known:
        console.print(_room(found, known))
        say(_explained(found, known))
        console.print(_kernels(found, known))
        say(_reasons(known))
    say(f"{_named(runtime)} {runtime['refused']}" for runtime in found["runtimes"] if runtime["refused"])


def _about(found: dict[str, Any]) -> Iterator[str]:
    groups = plural(found["n_groups"], "group")
    yield f"{found['model']}: {found['family']}, {layers_in_words(found['layers'], found['mixers'])}"
    yield f"state of a layer: {found['nheads']} heads of {found['headdim']}, times N = {found['d_state']}; {groups}"
    if found["attention_layers"]:
        yield f"{found['attention_layers']} layers of attention beside it, which keep keys and values of every token"


def _room(found: dict[str, Any], known: list[dict[str, Any]]) -> Table:
    """What a sequence takes, a column for each state size."""
    length = f" of {found['context']:,} tokens" if found["attention_layers"] else ""
    title = f"sequences{length} that fit into {in_binary(found['memory_bytes'])}, and what one takes"
    sizes = known[0]["sizes"]
    table = _by_size([size["d_state"] for size in sizes], title)
    table.add_row(f"weights, {SHORT[found['dtype']]}", *(in_bytes(size["weights"]) for size in sizes))
    for runtime in known:
        table.add_section()
        for row in _rows(runtime):
            table.add_row(*row)
    return table


def _by_size(sizes: Iterable[int], title: str) -> Table:
    table = Table("N", title=title, title_justify="left", padding=(0, 1, 0, 0))
    for number, size in enumerate(sizes):
        table.add_column(f"{size}" if number else f"{size} (now)", justify="right", no_wrap=True)
    return table


def _rows(runtime: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    sizes, first = runtime["sizes"], runtime["sizes"][0]
    yield _named(runtime), *(_gain(size["sequences"], first["sequences"]) for size in sizes)
    yield f"  state, {SHORT[first['state_dtype']]}", *(in_bytes(size["state"]) for size in sizes)
    yield f"  conv, {SHORT[first['conv_dtype']]}", *(in_bytes(size["conv"]) for size in sizes)
    if first["token"]:
        yield f"  cache a token, {SHORT[first['token_dtype']]}", *(in_bytes(size["token"]) for size in sizes)
    if first["blocks"]:
        yield "  tokens in a block", *(f"{size['blocks']['tokens']:,}" for size in sizes)
        yield "  page of a layer", *(in_bytes(size["blocks"]["page"]) for size in sizes)


def _gain(fit: int, now: int) -> str:
    return f"{fit:,}" if fit == now or not now else f"{fit:,} x{fit / now:.1f}"


def _explained(found: dict[str, Any], known: list[dict[str, Any]]) -> Iterator[str]:
    counted = "counted in the headers of its files" if found["counted"] else "reckoned from config.json"
    yield f"weights: {counted}. What activations and graphs take goes off the room: runtimes measure it when they start"
    if known[0]["sizes"][0]["blocks"]:
        yield (
            "vLLM: a block of attention is made as large as a state, and both draw from one pool; with prefix caching, "
            "on by default for hybrids, a sequence holds 2 states"
        )
    for runtime in known:
        yield f"{spelled(runtime['runtime'])}: {runtime['raises']}"
    yield ""


def _kernels(found: dict[str, Any], known: list[dict[str, Any]]) -> Table:
    """Which N each kernel takes."""
    sizes = [size["d_state"] for size in known[0]["sizes"]]
    table = _by_size(sizes, "which N each kernel takes")
    for runtime in known:
        table.add_section()
        how = "tried" if runtime["known"] == "tried" else "read"
        table.add_row(f"{_named(runtime)}, {how}", *("runs" if how == "tried" else "known" for _ in sizes))
        for kernel in runtime["kernels"]:
            marks = (kernel["mark"] if kernel["otherwise"][str(size)] else "yes" for size in sizes)
            table.add_row(f"  {kernel['kernel']}", *marks)
    return table


def _reasons(known: list[dict[str, Any]]) -> Iterator[str]:
    """Each rule that some size does not keep, with what becomes of it."""
    for runtime in known:
        for kernel in runtime["kernels"]:
            said: dict[str, list[str]] = {}
            for size, otherwise in kernel["otherwise"].items():
                if otherwise:
                    said.setdefault(otherwise, []).append(size)
            becomes = "; ".join(f"at N = {', '.join(sizes)} {otherwise}" for otherwise, sizes in said.items())
            if becomes:
                name = f"{spelled(runtime['runtime'])}, {kernel['kernel']} ({kernel['version']})"
                remedy = f"; {kernel['remedy']}" if kernel["remedy"] else ""
                yield f"{name} takes {kernel['wants']}; {becomes}{remedy}"


def _named(runtime: dict[str, Any]) -> str:
    return f"{spelled(runtime['runtime'])} {runtime['version']}"
