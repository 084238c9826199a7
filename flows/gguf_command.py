"""`ghost gguf`: one file for llama.cpp."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from flows.arguments import EndpointUrl, expand_home
from flows.units import in_bytes
from ghost.llama_cpp import FileType


def gguf(
    model: Annotated[str, typer.Argument(help="demo, a folder, s3://bucket/prefix or a hub name.")],
    out: Annotated[
        Path | None,
        typer.Argument(callback=expand_home, help="File to write; NAME-TYPE.gguf in this folder where it is left out."),
    ] = None,
    type: Annotated[FileType, typer.Option(help="What matrices are stored in.")] = "f16",
    tokenizer: Annotated[str | None, typer.Option(help="For a model folder that has none.")] = None,
    converter: Annotated[
        Path | None,
        typer.Option(callback=expand_home, help="llama.cpp's folder: hybrids are written by the converter in it."),
    ] = None,
    endpoint_url: EndpointUrl = None,
) -> None:
    """Write a checkpoint, pruned or not, as a GGUF file for llama.cpp and what is built on it.

    What llama.cpp would compute in another way than transformers is refused.
    """
    from tasks.gguf import write_gguf

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def written(size: int, total: int) -> None:
            bar = bars.task_ids[0] if bars.tasks else bars.add_task(f"writing {type}", total=None)
            bars.update(bar, advance=size, total=total or None)

        file = write_gguf(model, out, type, tokenizer=tokenizer, converter=converter, progress=written)
    print(f"wrote {file} ({in_bytes(file.stat().st_size)}); try llama-completion -m {file} -p 'Once upon a time'")
