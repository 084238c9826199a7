"""The HTML around a page's content: one file that needs nothing else, the same bytes for the same input."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from plotly.offline import get_plotlyjs

from ghost.report.script import COMMON
from ghost.report.style import CSS

# The page can't reach a network, whatever a name in it says.
CONTENT_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
DATA_ID = "page-data"


def document(title: str, content: str, data: Mapping[str, Any], scripts: Sequence[str] = ()) -> str:
    """The page as text, to be written as UTF-8; `data` is what its scripts draw, `scripts` run after the common one."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<main>
{content}
</main>
<script type="application/json" id="{DATA_ID}">{_json(data)}</script>
<script>window.PlotlyConfig = {{MathJaxConfig: "local"}};</script>
<script>{get_plotlyjs()}</script>
{"".join(f"<script>{script}</script>" for script in (COMMON, *scripts))}
</body>
</html>
"""


def section(heading: str, *parts: str) -> str:
    """A card of the page; empty parts are left out."""
    content = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(heading)}</h2>\n{content}\n</section>"


def text(words: str, kind: str = "muted") -> str:
    """A paragraph; `words` are plain text."""
    return f'<p class="{kind}">{escape(words)}</p>' if words else ""


def plot(name: str, label: str) -> str:
    """The place of a plot, which the page's scripts fill; `label` says what it shows to those who don't see it."""
    return (
        f'<div class="plot" id="{name}" role="img" aria-label="{escape(label)}"></div>\n'
        '<noscript><p class="note">The plot needs JavaScript.</p></noscript>'
    )


def select(name: str, label: str, options: Mapping[str, str]) -> str:
    """A choice of one of `options`, text by value; the first is chosen."""
    choices = "".join(f'<option value="{escape(value)}">{escape(words)}</option>' for value, words in options.items())
    return f'<label class="pick">{escape(label)} <select id="{name}">{choices}</select></label>'


def tile(label: str, before: str, after: str, detail: str) -> str:
    """A headline figure: dense before, pruned after."""
    figure = f'<span class="before">{escape(before)} → </span><span class="after">{escape(after)}</span>'
    return (
        f'<li><span class="label">{escape(label)}</span>'
        f'<span class="figure">{figure}</span>'
        f'<span class="detail">{escape(detail)}</span></li>'
    )


def _json(data: Mapping[str, Any]) -> str:
    """JSON that can't end its script element, whatever a name in it says."""
    return json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
