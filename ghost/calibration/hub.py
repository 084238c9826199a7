"""Rows of a dataset on the hub, or in a folder: as `datasets` streams them, or as it downloads and keeps them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from ghost.calibration.files import FORMS, Row, no_column, parquet_rows
from ghost.errors import CorpusError, reason

COLON = re.compile(r":(?![^\[\]]*\])")
"""Between the parts of a dataset's address; that of a slice, as in train[:1%], is none."""
ROWS = re.compile(r"([\w.-]+)(?:\[(\d*):(\d*)\])?")
"""A split, or a slice of one in rows."""


def hub_rows(spec: str, whole: bool) -> Iterator[Row]:
    """One column of `hf:dataset:config:split:column`; config and column may be empty (default, text), the split may be
    a slice, as in train[:1%]. A folder works as a dataset.

    Streamed, unless it is to be read `whole` or the split is more than a name and rows (train[:1000]): a share, or
    a sum, which `datasets` counts off in what it has prepared. CorpusError where there is no such column, or it can't
    be read.
    """
    parts = COLON.split(spec)
    if len(parts) != 5 or not parts[1] or not parts[3]:
        raise CorpusError(f"corpus {spec[:100]} has {len(parts) - 1} parts after hf; {FORMS}")
    _, name, config, split, column = parts
    named = None if whole else ROWS.fullmatch(split)
    with _refusing(spec):
        if named is None:
            values, first, last = _prepared(spec, name, config, split, column or "text"), 0, None
        else:
            values = _streamed(spec, name, config, named[1], column or "text")
            first, last = int(named[2] or 0), int(named[3]) if named[3] else None
        yield from islice(enumerate(values, start=1), first, last)


def _prepared(spec: str, name: str, config: str, split: str, column: str) -> Iterator[Any]:
    from datasets import load_dataset

    return _column(spec, load_dataset(name, config or None, split=split), column)


def _streamed(spec: str, name: str, config: str, split: str, column: str) -> Iterator[Any]:
    from datasets import load_dataset_builder

    builder = load_dataset_builder(name, config or None)
    files = list(map(str, (builder.config.data_files or {}).get(split, [])))
    if files and all(file.endswith(".parquet") for file in files):
        return _of_parquet(files, column)
    return _column(spec, builder.as_streaming_dataset(split), column)


def _of_parquet(files: list[str], column: str) -> Iterator[Any]:
    """By ghost's own hand: the stream of `datasets` reads ahead without bound while a tokenizer is at work."""
    import fsspec

    for name in files:
        opened: Any = fsspec.open(name, "rb")
        with opened as file:
            yield from (value for _, value in parquet_rows(name, column, file))


def _column(spec: str, rows: Any, column: str) -> Iterator[Any]:
    names = rows.column_names or list(next(iter(rows), {}))
    if column not in names:
        raise no_column(spec, column, names)
    return (row[column] for row in rows.select_columns([column]))


@contextmanager
def _refusing(spec: str) -> Iterator[None]:
    try:
        yield
    except CorpusError:
        raise
    except Exception as error:
        raise CorpusError(
            f"corpus {spec} can't be loaded as a dataset ({reason(error)}); check name, config and split"
        ) from None
