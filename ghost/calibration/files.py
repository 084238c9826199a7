"""Text out of files, piece by piece, so that a file of any size takes the memory of a piece."""

import codecs
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import chain, count
from pathlib import Path
from typing import IO, Any

from ghost.errors import CorpusError, reason

FORMS = "give stdlib, a .txt, .jsonl or .parquet path (path:column), or hf:dataset:config:split:column"
GZIPPED = ".gz"
"""Ending of texts and JSON lines that are compressed."""
BLOCK = 1 << 20
"""Bytes of a text file that are read at once."""
HEAD = 1 << 16
"""Bytes in which a file that is no text shows a zero."""
LONGEST_LINE = 1 << 27
"""Bytes of a line of JSON: a file of one long array is refused before it fills the memory. A line takes about twice its
size while it is read."""
BATCH_ROWS = 256
BOM = "\ufeff"
"""What some editors put before UTF-8; no part of the text."""
Row = tuple[int, Any]
"""Number, counted from 1, and what the column holds there: None where there is nothing."""


def local_path(spec: str) -> Path:
    """The path that a user names, `~` and all. Never an error: what can't be a path is not there either."""
    return Path(os.path.expanduser(spec))


def kind_of(path: Path) -> str:
    """The ending that says what a file is, in small letters and beneath any compression."""
    plain = path.with_suffix("") if path.suffix.lower() == GZIPPED else path
    return plain.suffix.lower()


@contextmanager
def _opened(path: Path) -> Iterator[gzip.GzipFile | BufferedReader]:
    """The bytes of a file, decompressed. CorpusError where it can't be read."""
    try:
        with gzip.open(path) if path.suffix.lower() == GZIPPED else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"corpus {path} can't be read ({reason(error)}); mend the file or its permissions") from None


def text_blocks(path: Path) -> Iterator[str]:
    """A UTF-8 text in blocks, without its byte order mark. CorpusError where it is no such text."""
    decoder, done = codecs.getincrementaldecoder("utf-8-sig")(), 0
    with _opened(path) as file:
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

    CorpusError where a line is no JSON object, or longer than LONGEST_LINE.
    """
    with _opened(path) as file:  # bytes end their lines at \n alone: a JSON string may hold U+2028 and its like
        for number in count(1):
            line = file.readline(LONGEST_LINE + 1)
            if not line:
                return
            if len(line) > LONGEST_LINE:
                raise CorpusError(
                    f"corpus {path}, line {number} is longer than {LONGEST_LINE:,} bytes; give one JSON object per line"
                )
            text = _decoded(line, number, path)
            del line  # of a long one no more copies than must be
            if text := text.strip():
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


def parquet_rows(path: str | Path, column: str, opened: IO[bytes] | None = None) -> Iterator[Row]:
    """One column of a Parquet file, of which nothing else is read; of the file that is `opened` already, if it is.
    CorpusError where there is no such column, or it can't be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # buffered: otherwise a file of one row group would be in memory whole
        with pq.ParquetFile(opened or path, buffer_size=BLOCK, pre_buffer=False) as file:
            if column not in file.schema_arrow.names:
                raise no_column(path, column, file.schema_arrow.names)
            batches = file.iter_batches(BATCH_ROWS, columns=[column])
            scalars = chain.from_iterable(batch.column(column) for batch in batches)
            for number, scalar in enumerate(scalars, start=1):
                yield number, _value(scalar, number, path)
    except (pa.ArrowException, OSError) as error:
        what = " ".join(str(error).split())
        raise CorpusError(f"corpus {path} is not a readable Parquet file ({what}); write it again") from None


def _value(scalar: Any, number: int, path: str | Path) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"corpus {path}, row {number} is not UTF-8 text (byte {error.start} of it); write it again"
        ) from None


def no_column(corpus: object, column: str, columns: list[str]) -> CorpusError:
    """The refusal of a table that lacks the column."""
    return CorpusError(f"corpus {corpus} has no column {column!r}; choose one of {', '.join(columns)} as path:column")
