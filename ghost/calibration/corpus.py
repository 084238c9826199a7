"""Texts to calibrate and to evaluate on: the embedded corpus, local files, or hub datasets."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from ghost.calibration import stdlib
from ghost.calibration.files import (
    BLOCK,
    BOM,
    FORMS,
    Row,
    json_rows,
    kind_of,
    local_path,
    no_column,
    parquet_rows,
    text_blocks,
)
from ghost.calibration.hub import hub_rows
from ghost.errors import CorpusError

SEPARATOR = "\n\n"
Split = Literal["calibration", "evaluation"]
LONGEST_NAME = 100
PATIENCE = 1000
"""Rows of a JSON lines file that may lack the column before it is taken to be another one's name."""
FIRST_PLACES = 5


class Corpus:
    """A text as a stream. `parts` reads it from the start; `warnings` then says in sentences what was left out of it.

    Of files no more is read than is asked for; of a hub dataset neither, unless it is to be read `whole`, which
    `datasets` then downloads and keeps. CorpusError, at once or on the way, where there is no such text or nothing in
    it.
    """

    def __init__(self, spec: str, split: Split, *, whole: bool = True) -> None:
        self.name = shortened(spec)
        self._rows: tuple[str, int, list[int]] = "row", 0, []
        self._stream = self._open(spec, split, whole)

    def parts(self) -> Iterator[str]:
        """Pieces which make up the whole text; documents or rows are joined by an empty line. To be called once."""
        blank = True
        for text in self._stream:
            for start in range(0, len(text), BLOCK):
                part = text[start : start + BLOCK]
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

    def _open(self, spec: str, split: Split, whole: bool) -> Iterator[str]:
        if spec == "stdlib":
            return joined(text for _, text in stdlib.documents(split))
        if spec.startswith("hf:"):
            return joined(self._texts(hub_rows(spec, whole), "row"))
        path, column = path_and_column(spec)
        if not os.path.isfile(path):
            what = "is a folder, not a file" if os.path.isdir(path) else "no such file"
            raise CorpusError(f"corpus {self.name}: {what}; {FORMS}")
        match kind_of(path):
            case ".txt":
                return text_blocks(path)
            case ".jsonl":
                return joined(self._texts(_json_column(path, column), "line"))
            case ".parquet":
                return joined(self._texts(parquet_rows(path, column), "row"))
            case kind:
                raise CorpusError(
                    f"corpus {self.name}: a {kind or 'nameless'} file is not a text that ghost reads; {FORMS}"
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
        if number:
            yield SEPARATOR
        yield text.removeprefix(BOM)


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
