"""Text out of files, piece by piece, so that a file of any size takes the memory of a piece."""

import codecs
import json
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ghost.errors import CorpusError

FORMS = "give stdlib, a .txt, .jsonl or .parquet path (path:column), or hf:dataset:config:split:column"
BLOCK = 1 << 20
"""Bytes of a text file that are read at once."""
HEAD = 1 << 16
"""Bytes in which a file that is no text shows a zero."""
BATCH_ROWS = 256
BOM = "\ufeff"
"""What some editors put before UTF-8; no part of the text."""
Row = tuple[int, Any]
"""Number, counted from 1, and what the column holds there: None where there is nothing."""


def local_path(spec: str) -> Path:
    """The path that a user names, `~` and all. Never an error: what can't be a path is not there either."""
    return Path(os.path.expanduser(spec))


def text_blocks(path: Path) -> Iterator[str]:
    """A UTF-8 text in blocks, without its byte order mark. CorpusError where it is no such text."""
    decoder, done = codecs.getincrementaldecoder("utf-8-sig")(), 0
    with path.open("rb") as file:
        while True:
            data, pending = file.read(BLOCK), len(decoder.getstate()[0])
            if not done and b"\0" in data[:HEAD]:
                raise CorpusError(f"corpus {path} is binary, not text; {FORMS}")
            try:
                yield decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                at = done - pending + error.start
                raise CorpusError(f"corpus {path} is not UTF-8 text (byte {at}); convert it first") from None
            done += len(data)
            if not data:
                return


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with the numbers of their lines; empty lines count, and give nothing.

    CorpusError where a line is no JSON object.
    """
    with path.open("rb") as file:  # bytes end their lines at \n alone: a JSON string may hold U+2028 and its like
        for number, line in enumerate(file, start=1):
            if text := _decoded(line, number, path).strip():
                yield number, _json_object(text, number, path)


def _decoded(line: bytes, number: int, path: Path) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"corpus {path}, line {number} is not UTF-8 text (byte {error.start} of it); convert the file first"
        ) from None


def _json_object(text: str, number: int, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            f"corpus {path}, line {number} is not JSON ({error}); give one JSON object per line"
        ) from None
    if not isinstance(row, dict):
        raise CorpusError(f"corpus {path}, line {number} is not a JSON object; give one JSON object per line")
    return row


def parquet_rows(path: Path, column: str) -> Iterator[Row]:
    """One column of a Parquet file, of which nothing else is read. CorpusError where there is no such column, or it
    can't be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # buffered: otherwise a file of one row group would be in memory whole
        with pq.ParquetFile(path, buffer_size=BLOCK, pre_buffer=False) as file:
            if column not in file.schema_arrow.names:
                raise no_column(path, column, file.schema_arrow.names)
            batches = file.iter_batches(BATCH_ROWS, columns=[column])
            scalars = chain.from_iterable(batch.column(column) for batch in batches)
            for number, scalar in enumerate(scalars, start=1):
                yield number, _value(scalar, number, path)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise CorpusError(f"corpus {path} is not a readable Parquet file ({reason}); write it again") from None


def _value(scalar: Any, number: int, path: Path) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"corpus {path}, row {number} is not UTF-8 text (byte {error.start} of it); write it again"
        ) from None


def no_column(corpus: object, column: str, columns: list[str]) -> CorpusError:
    """The refusal of a table that lacks the column."""
    return CorpusError(f"corpus {corpus} has no column {column!r}; choose one of {', '.join(columns)} as path:column")
