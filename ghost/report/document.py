"""Pages and model cards from their templates. A page is one file: styles, scripts, data and plotly.js are in it."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from plotly.offline import get_plotlyjs

from ghost.report.figures import NOISE_NOTE, percent, plural, signed

TEMPLATES, STATIC = (Path(__file__).parent / name for name in ("templates", "static"))
JSON = {"ensure_ascii": True, "separators": (",", ":"), "allow_nan": False}
"""Keys keep their order: the page's scripts show things in it."""


def from_template(template: str, **values: Any) -> str:
    """The text that a file of templates/ makes of these values; what it names and doesn't get is an error.

    In HTML every value is escaped. The same bytes for the same values.
    """
    return _environment().get_template(template).render(values)


def static(name: str) -> str:
    """A style sheet or a script of ours."""
    return (STATIC / name).read_text(encoding="utf-8")


def _sentence(words: str) -> str:
    """With an end where they have none."""
    return words if words.endswith((".", "!", "?")) else f"{words}."


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(disabled_extensions=["md.j2"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.policies["json.dumps_kwargs"] = JSON
    made.globals |= {"static": static, "plotly_js": get_plotlyjs, "noise_meant": NOISE_NOTE}
    made.filters |= {"percent": percent, "plural": plural, "signed": signed, "sentence": _sentence}
    return made
