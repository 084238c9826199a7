"""A file that is there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_when_whole(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to, which becomes `file` at the end, and is removed where that is not reached."""
    file.parent.mkdir(parents=True, exist_ok=True)
    path = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        yield path
        os.replace(path, file)
    finally:
        path.unlink(missing_ok=True)
