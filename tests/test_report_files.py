"""The report's templates, style sheet and scripts as files: what a linter of each would find."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from ghost.report.document import STATIC, TEMPLATES
from tests.report_samples import node_command

ROOT = Path(__file__).parent.parent
SCRIPTS, SHEETS = sorted(STATIC.glob("*.js")), sorted(STATIC.glob("*.css"))
PAGES = sorted(TEMPLATES.glob("*.html.j2"))
MARKUP, CODE, STYLE = ("\n".join(path.read_text() for path in paths) for paths in (PAGES, SCRIPTS, SHEETS))
CLASS = r"\.([a-z][a-z-]*)"
OF_PLOTLY = {"js-plotly-plot"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_javascript(script: Path) -> None:
    """Parsed, not run: most need a browser's document."""
    ended = subprocess.run([*node_command(), "--check", str(script)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert script.read_text().startswith('"use strict";\n')


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda path: path.name)
def test_braces_of_a_style_sheet_match_and_every_declaration_ends(sheet: Path) -> None:
    depth, rules = 0, re.sub(r'/\*.*?\*/|"[^"]*"', "", sheet.read_text(), flags=re.DOTALL)
    for brace in re.findall("[{}]", rules):
        depth += 1 if brace == "{" else -1
        assert depth in (0, 1, 2), "one media query around rules is all the nesting there is"
    assert depth == 0
    for declarations in re.findall(r"{([^{}]*)}", rules):
        assert all(re.fullmatch(r"\s*-{0,2}[a-z][a-z-]*:[^:;]+", one) for one in declarations.split(";")[:-1])
        assert not declarations.split(";")[-1].strip()


def test_every_class_of_a_template_is_styled_or_looked_up_and_none_is_left_over() -> None:
    used = {name for names in re.findall(r'class="([^"]*)"', MARKUP) for name in names.split()}
    styled = set(re.findall(CLASS + r"(?=[^{}]*{)", re.sub(r"\d\.\d|\.\d", "", STYLE)))
    looked_up = {
        name for query in re.findall(r'querySelector(?:All)?\("(.*?)"\)', CODE) for name in re.findall(CLASS, query)
    }
    assert used == (styled | looked_up) - OF_PLOTLY


def test_every_element_that_a_script_asks_for_is_in_a_template() -> None:
    asked = set(re.findall(r'getElementById\("(.*?)"\)', CODE)) | set(re.findall(r'\bdraw\("(.*?)"', CODE))
    assert asked
    for name in asked:
        assert re.search(rf'(id="|\(")({name})"', MARKUP), name


def test_every_macro_is_used_and_every_file_is_included() -> None:
    macros = re.findall(r"{% macro (\w+)\(", MARKUP)
    assert macros and all(re.search(rf"{{{{ {name}\(|{{{{ .*? {name}\(", MARKUP) for name in macros)
    included = set(re.findall(r'static\("(.*?)"\)', MARKUP))
    assert included == {path.name for path in (*SCRIPTS, *SHEETS)} == {path.name for path in STATIC.iterdir()}


@pytest.mark.parametrize("path", [*SCRIPTS, *SHEETS], ids=lambda path: path.name)
def test_what_is_written_into_an_element_cannot_end_it(path: Path) -> None:
    assert not re.search("</(script|style)|<!--", path.read_text(), re.IGNORECASE)


def test_an_installed_ghost_has_all_these_files() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["ghost"]
    shipped = {path for pattern in data for path in (ROOT / "ghost").glob(pattern)}
    assert {path for folder in (STATIC, TEMPLATES) for path in folder.rglob("*")} <= shipped
