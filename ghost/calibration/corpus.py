"""Texts to calibrate and to evaluate on: the embedded corpus, local files, or hub datasets."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ghost.calibration import stdlib
from ghost.errors import CorpusError

SEPARATOR = "\n\n"
FORMS = "give stdlib, a .txt, .jsonl or .parquet path (path:column), or hf:dataset:config:split:column"


def read_text(spec: str, split: Literal["calibration", "evaluation"]) -> str:
    """The whole text of a corpus; documents or rows are joined by an empty line. CorpusError where there is none."""
    if spec == "stdlib":
        text = SEPARATOR.join(text for _, text in stdlib.documents(split))
    elif spec.startswith("hf:"):
        text = _join(_hub_rows(spec), spec)
    else:
        text = _read_file(spec)
    if not text.strip():
        raise CorpusError(f"corpus {spec} is empty; give a text with some content")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"corpus {spec} is not valid Unicode ({error}); mend that character") from None
    return text


def _read_file(spec: str) -> str:
    path, column = _path_and_column(spec)
    if not path.is_file():
        raise CorpusError(f"corpus {spec}: no such file; {FORMS}")
    match path.suffix:
        case ".txt":
            return _decode(path.read_bytes(), path)
        case ".jsonl":
            return _join(_column(_json_rows(path), column, spec), spec)
        case ".parquet":
            return _join(_column(_parquet_rows(path), column, spec), spec)
        case suffix:
            raise CorpusError(f"corpus {spec}: a {suffix or 'nameless'} file is not a text that ghost reads; {FORMS}")


def _path_and_column(spec: str) -> tuple[Path, str]:
    """`path:column`; without a column it is `text`. A colon that belongs to an existing path stays in the path."""
    path, colon, column = spec.rpartition(":")
    if not colon or Path(spec).exists():
        return Path(spec), "text"
    return Path(path), column


def _decode(data: bytes, path: Path) -> str:
    if b"\0" in data[:65536]:
        raise CorpusError(f"corpus {path} is binary, not text; {FORMS}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(f"corpus {path} is not UTF-8 text (byte {error.start}); convert it first") from None


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    # not splitlines: a JSON string may hold U+2028 and its like as they are
    for number, line in enumerate(_decode(path.read_bytes(), path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorpusError(
                f"corpus {path}, line {number} is not JSON ({error}); give one JSON object per line"
            ) from None
        if not isinstance(row, dict):
            raise CorpusError(f"corpus {path}, line {number} is not a JSON object; give one JSON object per line")
        yield row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        yield from pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"corpus {path} is not a readable Parquet file ({error}); write it again") from None


def _column(rows: Iterator[dict[str, Any]], column: str, spec: str) -> Iterator[Any]:
    for row in rows:
        if column not in row:
            raise CorpusError(f"corpus {spec} has no column {column!r}; choose one of {', '.join(row)} as path:column")
        yield row[column]


def _hub_rows(spec: str) -> Iterator[Any]:
    """`hf:dataset:config:split:column`; config and column may be empty (default, text). A folder works as a dataset."""
    parts = spec.split(":")
    if len(parts) != 5 or not parts[1] or not parts[3]:
        raise CorpusError(f"corpus {spec} has {len(parts) - 1} parts after hf; {FORMS}")
    _, name, config, split, column = parts
    from datasets import load_dataset

    try:
        rows = load_dataset(name, config or None, split=split)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CorpusError(
            f"corpus {spec} can't be loaded as a dataset ({reason}); check name, config and split"
        ) from None
    column = column or "text"
    if column not in (rows.column_names or []):
        raise CorpusError(f"corpus {spec} has no column {column!r}; choose one of {', '.join(rows.column_names or [])}")
    yield from rows[column]


def _join(values: Iterator[Any], spec: str) -> str:
    texts = []
    for value in values:
        if not isinstance(value, str):
            raise CorpusError(
                f"corpus {spec} has a row of type {type(value).__name__}; name a column of text as path:column"
            )
        texts.append(value)
    return SEPARATOR.join(texts)
