"""`python -m bench.runtimes`: a row a checkpoint and runtime, held against transformers; rows that have to fail do."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from bench.runtimes.__main__ import main
from bench.runtimes.runtime import Runtime, RuntimeFailed, runtimes
from ghost.errors import SettingsError
from tests.models import make_model, text

TABLES = """
[transformers]
script = "run_transformers.py"
projected = true
within = 1e-5
[rounded]
script = "{folder}/rounded.py"
within = 1e-5
[loose]
script = "{folder}/rounded.py"
[gone]
script = "{folder}/no_such_file.py"
"""
ROUNDED = """
    import json, sys
    asked = json.load(open(sys.argv[2]))
    answered = dict(version="2", greedy=asked["continuations"], logprobs=None, perplexity=None, note="no scores")
    answered["greedy"][3][-1] += 1
    print(json.dumps(answered))
"""


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("runtimes")
    (corpus := folder / "text.txt").write_text(text(100))
    (tables := folder / "runtimes.toml").write_text(TABLES.format(folder=folder))
    (folder / "rounded.py").write_text(textwrap.dedent(ROUNDED))
    prose = [str(make_model(folder / "model", layers=2, d_state=16)), str(corpus), str(corpus)]
    sizes = ["--kept", "8", "--samples", "4", "--windows", "2", "--window", "64"]
    out = folder / "out.json"
    ended = main(["--model", "none", "--prose", *prose, *sizes, "--tables", str(tables), "--out", str(out)])
    assert ended == 1
    return json.loads(out.read_text())["rows"]


def test_transformers_answers_as_it_is_asked(figures: Any) -> None:
    rows = figures["transformers"]
    assert [row["model"] for row in rows] == ["prose, dense 16", "prose, sliced 8", "prose, projected 8"]
    assert all(row["passed"] and row["identical"] == 20 and row["difference"] < 1e-5 for row in rows)
    # its own forward against ghost's path by ghost's protocol
    assert all(row["perplexity"] > 1 and abs(row["perplexity_difference"]) < 1e-5 for row in rows)
    assert len({row["perplexity"] for row in rows}) == 3
    states = [row["state_bytes"] for row in rows]
    assert states[1] < states[2] < states[0], "a projected mixer's convolution keeps its size"


def test_an_answer_beyond_its_bound_fails_and_one_without_a_bound_is_reported(figures: Any) -> None:
    for name, passed in (("rounded", False), ("loose", None)):
        assert [row["model"] for row in figures[name]] == ["prose, dense 16", "prose, sliced 8"]
        for row in figures[name]:
            assert (row["identical"], row["difference"], row["passed"]) == (19, None, passed)


def test_a_runtime_that_fails_is_a_row_and_the_others_go_on(figures: Any) -> None:
    assert all(not row["passed"] and "no_such_file.py" in row["error"] for row in figures["gone"])


def test_what_can_not_be_installed_or_is_unknown_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"runtime 'vlm' has no table in runtimes.toml; choose from transformers,"):
        runtimes(["vlm"])
    absent = Runtime(name="absent", script="-", packages=[str(tmp_path / "absent.whl")])
    with pytest.raises(RuntimeFailed, match=r"absent: -m pip install ended with 1: .*absent.whl"):
        absent.install(tmp_path)
