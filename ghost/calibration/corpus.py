"""Texts to calibrate and to evaluate on: the embedded corpus, local files, or hub datasets."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from ghost.calibration import stdlib
from ghost.calibration.files import BOM, FORMS, Row, json_rows, local_path, no_column, parquet_rows, text_blocks
from ghost.errors import CorpusError, reason

SEPARATOR = "\n\n"
Split = Literal["calibration", "evaluation"]
LONGEST_NAME = 100
PATIENCE = 1000
"""Rows of a JSON lines file that may lack the column before it is taken to be another one's name."""
FIRST_PLACES = 5
COLON = re.compile(r":(?![^\[\]]*\])")
"""Between the parts of a hub dataset's address; that of a slice, as in train[:1%], is none."""


class Corpus:
    """A text as a stream. `parts` reads it from the start; `warnings` then says in sentences what was left out of it.

    CorpusError, at once or on the way, where there is no such text or nothing in it.
    """

    def __init__(self, spec: str, split: Split) -> None:
        self.name = shortened(spec)
        self._rows: tuple[str, int, list[int]] = "row", 0, []
        self._stream = self._open(spec, split)

    def parts(self) -> Iterator[str]:
        """Pieces which make up the whole text; documents or rows are joined by an empty line. To be called once."""
        blank = True
        for part in self._stream:
            self._check_unicode(part)
            blank = blank and not part.strip()
            yield part
        if blank:
            raise CorpusError(f"corpus {self.name} is empty; give a text with some content")

    @property
    def warnings(self) -> list[str]:
        unit, count, first = self._rows
        if not count:
            return []
        places = ", ".join(map(str, first)) + (", ..." if count > len(first) else "")
        rows = f"{count:,} rows have" if count > 1 else "1 row has"
        return [f"{rows} no text (null, or without the column) and went unread: {unit} {places}"]

    def _open(self, spec: str, split: Split) -> Iterator[str]:
        if spec == "stdlib":
            return joined(text for _, text in stdlib.documents(split))
        if spec.startswith("hf:"):
            return joined(self._texts(_hub_rows(spec), "row"))
        path, column = path_and_column(spec)
        if not os.path.isfile(path):
            raise CorpusError(f"corpus {self.name}: no such file; {FORMS}")
        match path.suffix:
            case ".txt":
                return text_blocks(path)
            case ".jsonl":
                return joined(self._texts(_json_column(path, column), "line"))
            case ".parquet":
                return joined(self._texts(parquet_rows(path, column), "row"))
            case suffix:
                raise CorpusError(
                    f"corpus {spec}: a {suffix or 'nameless'} file is not a text that ghost reads; {FORMS}"
                )

    def _texts(self, rows: Iterator[Row], unit: str) -> Iterator[str]:
        """Those rows that have one; the others are counted."""
        with_text, without, first = 0, 0, list[int]()
        for number, value in rows:
            if isinstance(value, str):
                with_text += 1
                yield value
            elif value is None:
                without += 1
                first += [number] if without <= FIRST_PLACES else []
                self._rows = unit, without, first
            else:
                raise CorpusError(
                    f"corpus {self.name} has a row of type {type(value).__name__} ({unit} {number}); name a column of "
                    "text as path:column"
                )
        if without and not with_text:
            raise CorpusError(f"corpus {self.name}: all of its {without:,} rows are null; name a column of text")

    def _check_unicode(self, part: str) -> None:
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise CorpusError(f"corpus {self.name} is not valid Unicode ({error}); mend that character") from None


def read_text(spec: str, split: Split) -> str:
    """The whole text of a corpus. CorpusError where there is none."""
    return "".join(Corpus(spec, split).parts())


def joined(texts: Iterable[str]) -> Iterator[str]:
    """Documents or rows as one text, piece by piece: an empty line between them, no byte order mark before any."""
    for number, text in enumerate(texts):
        yield (SEPARATOR if number else "") + text.removeprefix(BOM)


def shortened(spec: str) -> str:
    """A name for messages: somebody may have given a whole text where a path or name belongs."""
    if len(spec) <= LONGEST_NAME and spec.isprintable():
        return spec
    return f"{spec[:LONGEST_NAME]!r}... ({len(spec):,} characters)"


def path_and_column(spec: str) -> tuple[Path, str]:
    """`path:column`; without a column it is `text`. A colon that belongs to an existing path stays in the path."""
    path, colon, column = spec.rpartition(":")
    if not colon or os.path.exists(local_path(spec)):
        return local_path(spec), "text"
    return local_path(path), column


def _json_column(path: Path, column: str) -> Iterator[Row]:
    """None where a line lacks the column; CorpusError where all do, or the first PATIENCE of them."""
    columns, found = dict[str, None](), False
    for read, (number, row) in enumerate(json_rows(path), start=1):
        found = found or column in row
        columns |= {} if found else dict.fromkeys(row)
        if not found and read == PATIENCE:
            break
        yield number, row.get(column)
    if columns and not found:
        raise no_column(path, column, list(columns))


def _hub_rows(spec: str) -> Iterator[Row]:
    """`hf:dataset:config:split:column`; config and column may be empty (default, text), the split may be a slice, as in
    train[:1%]. A folder works as a dataset."""
    parts = COLON.split(spec)
    if len(parts) != 5 or not parts[1] or not parts[3]:
        raise CorpusError(f"corpus {shortened(spec)} has {len(parts) - 1} parts after hf; {FORMS}")
    _, name, config, split, column = parts
    from datasets import load_dataset

    try:
        rows: Any = load_dataset(name, config or None, split=split)
    except Exception as error:
        raise CorpusError(
            f"corpus {spec} can't be loaded as a dataset ({reason(error)}); check name, config and split"
        ) from None
    column = column or "text"
    if column not in (rows.column_names or []):
        raise no_column(spec, column, rows.column_names or [])
    yield from enumerate(rows[column], start=1)
