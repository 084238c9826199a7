"""`ghost eval` through the command line: side by side, as JSON and Parquet, and its refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from ghost.checkpoint.source import open_checkpoint
from tests.models import make_model, prune, text

pytest_plugins = ["tests.refusals"]

Execute = Callable[..., tuple[Any, str, str]]
SMALL = ("--contexts=4,16", "--segments=4", "--pairs=2", "--distances=0,5", "--samples=4", "--batch-sizes=1,2")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 32 state channels, `dense`; one of 8, `pruned`; a text."""
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "dense")
    prune(open_checkpoint(folder / "dense"), folder / "pruned", sparsity=0.75)
    (folder / "text.txt").write_text(text(400))
    (folder / "lambada.jsonl").write_text(json.dumps({"text": "The state of a recurrent model is read"}) + "\n")
    return folder


def figures(rows: list[dict[str, Any]], *case: str) -> dict[str, float]:
    """By model, of one part, case and metric."""
    return {row["model"]: row["value"] for row in rows if (row["part"], row["case"], row["metric"]) == case}


def test_two_models_side_by_side_in_json_and_parquet(models: Path, execute: Execute, tmp_path: Path):
    code, out, err = execute(
        ["eval", str(models / "pruned"), f"--against={models / 'dense'}", f"--text={models / 'text.txt'}", *SMALL,
         f"--tasks=local_lambada:{models / 'lambada.jsonl'}", f"--out={tmp_path / 'out'}", "--json"]
    )  # fmt: skip
    assert code == 0, err
    results = json.loads(out)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    rows, about, protocol = results["rows"], results["models"], results["protocol"]
    assert pq.read_table(tmp_path / "out" / "results.parquet").to_pylist() == rows
    assert [about[name]["d_state"] for name in ("dense", "pruned")] == [32, 8]
    assert protocol["predicted_tokens"] == 4 * 16 and protocol["task_details"]["local_lambada"]["samples"] == 1
    assert all(protocol[part] for part in ("context", "recall", "decode", "tasks", "tokenizer", "text_tokens"))
    for case in ("4", "16"):
        found = figures(rows, "context", case, "perplexity")
        assert found["change"] == pytest.approx(found["pruned"] / found["dense"] - 1)
    assert figures(rows, "decode", "batch 2", "ssm_bytes")["change"] == -0.75
    assert set(figures(rows, "recall", "2 pairs, distance 5", "choice")) == {"dense", "pruned", "change"}
    assert set(figures(rows, "task", "local_lambada", "acc")) == {"dense", "pruned", "change"}
    query = f"select count(*) from '{tmp_path / 'out' / 'results.parquet'}' where stderr is not null"
    with_errors = duckdb.connect().execute(query).fetchall()[0][0]
    assert with_errors == sum(row["stderr"] is not None for row in rows) > 0


def test_a_model_against_itself_changes_nothing(models: Path, execute: Execute):
    dense = str(models / "dense")
    argv = ["eval", dense, f"--against={dense}", f"--text={models / 'text.txt'}", *SMALL, "--batch-sizes=", "--json"]
    code, out, _ = execute(argv)
    changes = [row for row in json.loads(out)["rows"] if row["model"] == "change"]
    assert code == 0 and len(changes) == 2 + 2 * 3
    assert all((row["value"], row["stderr"]) == (0, 0) for row in changes)


def test_one_model_alone_as_a_table_with_its_protocol(models: Path, execute: Execute, monkeypatch: Any):
    monkeypatch.setenv("COLUMNS", "200")
    argv = ["eval", str(models / "dense"), f"--text={models / 'text.txt'}", *SMALL, "--pairs=", "--batch-sizes=",
            "--state-dtype=int8"]  # fmt: skip
    code, out, err = execute(argv)
    assert code == 0, err
    assert "model: dense (d_state 32)" in out and "perplexity" in out and "±" in out and "change" not in out
    assert "64 predicted; float32 on cpu" in out and "\nrecall:" not in out and "\ndecode:" not in out
    assert "\nstate: the recurrent state of every mixer" in out and "perplexity_rise" in out and "%" in out


def test_states_in_fewer_bits_are_measured_by_chunks_and_by_steps(models: Path, execute: Execute):
    argv = ["eval", str(models / "pruned"), f"--against={models / 'dense'}", f"--text={models / 'text.txt'}", *SMALL,
            "--contexts=80", "--distances=5", "--batch-sizes=", f"--tasks=local_lambada:{models / 'lambada.jsonl'}",
            "--state-dtype=float32,int8", "--json"]  # fmt: skip
    code, out, err = execute(argv)
    assert code == 0, err
    rows, d_inner = json.loads(out)["rows"], open_checkpoint(models / "dense").mixer_layout.d_inner
    sizes, unrounded = figures(rows, "state", "int8", "ssm_bytes"), figures(rows, "state", "float32", "perplexity")
    assert [sizes[model] for model in ("dense", "pruned")] == [3 * d_inner * (n + 4) for n in (32, 8)]
    for every in ("every 64 steps", "every step"):
        rounded, rise = (figures(rows, "state", f"int8, {every}", m) for m in ("perplexity", "perplexity_rise"))
        for model in ("dense", "pruned"):
            assert rise[model] == pytest.approx(rounded[model] / unrounded[model] - 1, abs=1e-9) and rise[model]
    assert set(figures(rows, "state", "int8, every step, 2 pairs, distance 5", "log_likelihood")) == set(sizes)
    assert set(figures(rows, "state", "int8, every step, local_lambada", "acc")) == set(sizes)
    assert not figures(rows, "state", "float32", "perplexity_rise")


REFUSED = {
    "no list of numbers": (["--contexts=16,many"], "contexts: '16,many' is no list of whole numbers; give such as"),
    "a context of nothing": (["--contexts=0,16"], "contexts: 0 is less than 1; give such as 16,64"),
    "a context as long as the text": (["--contexts=99999"], "shorter than a context of 99999 and the 16 tokens"),
    "more pairs than words": (["--pairs=5000"], "pairs: 5000 pairs need 10000 words, but the vocabulary has"),
    "a precision of no state": (["--state-dtype=int4"], "state_dtype: 'int4' is no precision of a state; give some of"),
    "code without leave": (["--tasks=humaneval"], "humaneval runs code that the model writes; allow it with --allow"),
    "another device": (["--device=tpu"], "device: 'tpu' is not a device"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_measured_is_refused_in_one_line(
    options: list[str], message: str, models: Path, execute: Execute, tmp_path: Path
):
    code, out, err = execute(["eval", str(models / "dense"), f"--text={models / 'text.txt'}", *SMALL, *options])
    assert code == 2 and not out and "Traceback" not in err
    line = err.strip().splitlines()[-1]
    assert line.startswith("ghost: error: ") and message in line


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(models: Path, execute: Execute, tmp_path: Path):
    make_model(tmp_path / "small", vocab_size=100)
    argv = ["eval", str(models / "dense"), f"--against={tmp_path / 'small'}", f"--text={models / 'text.txt'}", *SMALL]
    code, _, err = execute(argv)
    assert code == 2 and "vocab_size is 100; give the tokenizer that belongs to it" in err
