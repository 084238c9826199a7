"""Tables whose rows a click on a heading sorts; script.py has the other half."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

BLANK = "–"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a cell shows, and the number that it sorts by; by its text where there is none."""

    text: str
    value: float | None = None


def sortable(caption: str, headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """The table of at least one row as HTML; `caption` says what it is to those who hear the page."""
    head = "".join(map(_heading, headings, zip(*rows, strict=True)))
    body = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f"""<div class="scroll">
<table class="sortable">
<caption>{escape(caption)}</caption>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>"""


def _heading(heading: str, column: Sequence[Cell]) -> str:
    kind = ' class="number"' if any(cell.value is not None for cell in column) else ""
    return f'<th scope="col"{kind} aria-sort="none"><button type="button">{escape(heading)}</button></th>'


def _cell(cell: Cell) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    kind = "" if cell.value is None and cell.text != BLANK else ' class="number"'
    return f"<td{kind}{value}>{escape(cell.text)}</td>"
