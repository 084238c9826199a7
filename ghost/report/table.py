"""Tables whose rows a click on a heading sorts, as data; macros.html.j2 and tables.js have the rest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ghost.report.figures import NOT_FINITE, is_finite

BLANK = "–"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a cell shows, and the number that it sorts by; by its text where no cell of the column has one."""

    text: str
    value: float | None = None

    @property
    def is_figure(self) -> bool:
        """A number, or what stands in place of one."""
        return self.value is not None or self.text in (BLANK, NOT_FINITE)


def figure_cell(value: float | None, text: str) -> Cell:
    """Of a figure that may not be finite, or not be there."""
    return Cell(text=text, value=value if is_finite(value) else None)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Headings over rows of as many cells; `caption` says what it is to those who hear the page."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def columns(self) -> Iterator[tuple[str, bool]]:
        """Each heading, and whether numbers stand under it."""
        for heading, cells in zip(self.headings, zip(*self.rows, strict=True), strict=True):
            yield heading, all(cell.is_figure for cell in cells)
