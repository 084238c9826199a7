"""Every documented command is one that the command line takes, and every documented data set one that can be loaded."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from flows import cli
from ghost.calibration.hub import COLON
from tests.datasets_stub import datasets_stub

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GROUP: Any = typer.main.get_command(cli.app)
COMMAND = re.compile(r"^(?:\w+=\S* )*ghost (?=[a-z-]+\b)")
PLACEHOLDERS = {"options of ghost run": "", "N": "3", "NAME,...": "default"}
DATASET = re.compile(r"hf:[\w.-]+(?:/[\w.-]+)?:[\w.-]*:[\w.%+:\[\]-]+?:[\w-]*(?![\w:\[\]%])")
COUNT_ROWS = """
import sys
from ghost.calibration.corpus import Corpus
whole, *specs = sys.argv[1:]
texts = ("".join(Corpus(spec, "calibration", whole=whole == "whole").parts()) for spec in specs)
print(*(text.count(" ") for text in texts))
"""
CARD = """---
configs:
- config_name: wikitext-2-raw-v1
  data_files:
  - {split: test, path: wikitext-2-raw-v1/test-*}
  - {split: train, path: wikitext-2-raw-v1/train-*}
---
"""


def told() -> Iterator[tuple[str, str]]:
    """Documents and help texts, by name."""
    yield from ((path.name, path.read_text()) for path in DOCUMENTS)
    for name, command in {"": GROUP, **GROUP.commands}.items():
        options = (getattr(option, "help", None) or "" for option in command.params)
        yield f"ghost {name} --help", "\n".join([command.help or "", *options])


def commands(written: str) -> Iterator[str]:
    """In blocks, a line each with what follows after a backslash or an indent; in the text between backticks."""
    for block in re.findall(r"^\s*```\w*\n(.*?)^\s*```", written, re.DOTALL | re.MULTILINE):
        joined = re.sub(r"\\?\n {4,}", " ", block)
        yield from (line.strip().removeprefix("$ ") for line in joined.splitlines() if COMMAND.match(line.strip()))
    prose = re.sub(r"^\s*```.*?^\s*```", "", written, flags=re.DOTALL | re.MULTILINE)
    yield from (code for code in re.findall(r"`([^`]+)`", prose) if COMMAND.match(code))


def words(command: str) -> list[str]:
    """What the shell would give to ghost, with something for every placeholder."""
    text = re.sub(r"(--[\w-]+) \.\.\.", r"\1 value", COMMAND.sub("", " ".join(command.split())))
    text = re.sub(r"(?<!\w)\[|\](?=\s|$)|\.\.\.(?=\s|$)", " ", text)
    for placeholder, value in PLACEHOLDERS.items():
        text = re.sub(rf"(?<![\w-]){re.escape(placeholder)}(?![\w-])", value, text)
    return (
        list(shlex.shlex(text, posix=True, punctuation_chars=True)) if "|" in text else shlex.split(text, comments=True)
    )


DOCUMENTED = [(name, command) for name, written in told() for command in dict.fromkeys(commands(written))]


@pytest.mark.parametrize(("name", "command"), DOCUMENTED, ids=[f"{n}: {c[:60]}" for n, c in DOCUMENTED])
def test_a_documented_command_is_one(name: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    subcommand, *arguments = words(command)
    assert subcommand in GROUP.commands, f"{name}: {command}"
    parsed = GROUP.commands[subcommand]
    options = {"--help", *(name for option in parsed.params for name in (*option.opts, *option.secondary_opts))}
    assert {word.partition("=")[0] for word in arguments if word.startswith("-")} <= options, f"{name}: {command}"
    if not all(word.startswith("-") for word in arguments):  # otherwise it is only named
        parsed.make_context(subcommand, arguments)


def test_there_are_commands_in_blocks_in_prose_and_in_help_texts() -> None:
    sources = {name for name, _ in DOCUMENTED}
    assert {"README.md", "evaluation.md", "sweep.md", "projected.md", "operations.md"} <= sources
    assert any(name.endswith("--help") for name in sources) and len(DOCUMENTED) > 30


def datasets_told() -> set[str]:
    found = {spec for _, written in told() for spec in DATASET.findall(written)}
    return {spec for spec in found if not spec.lower().startswith("hf:dataset:")}


def test_documented_data_sets_are_loaded_by_the_pinned_library_as_they_stand(tmp_path: Path) -> None:
    """From a stub of the hub's routes; names without an owner, which once worked, it refuses."""
    specs, folder = sorted(datasets_told()), tmp_path / "wikitext"
    assert {COLON.split(spec)[1] for spec in specs} == {"Salesforce/wikitext"} and len(specs) > 2
    (folder / "wikitext-2-raw-v1").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for split in ("train", "test"):
        rows = pa.table({"text": [f"{split} {number}" for number in range(200)]})
        pq.write_table(rows, folder / "wikitext-2-raw-v1" / f"{split}-00000-of-00001.parquet")
    with datasets_stub({"Salesforce/wikitext": folder, "wikitext": folder}) as (endpoint, _):
        env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        env |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
        gone = ["hf:wikitext:wikitext-2-raw-v1:train:text"]
        for how, (wanted, code) in product(("streamed", "whole"), ((specs, 0), (gone, 1))):
            ended = subprocess.run(
                [sys.executable, "-c", COUNT_ROWS, how, *wanted], env=env, capture_output=True, text=True, timeout=120
            )
            assert ended.returncode == code, ended.stderr
            rows = [200 if "[" not in spec else 2 for spec in wanted] if code == 0 else []
            assert list(map(int, ended.stdout.split())) == rows
    assert "namespace/name" in ended.stderr.splitlines()[-1]
