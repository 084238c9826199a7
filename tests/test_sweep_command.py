"""`ghost sweep` through the command line: killed and continued, a table and a page, and cells that fail."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.chaos import Bench, ghost_here
from tests.sweeps import options

pytest_plugins = ["tests.refusals"]

Execute = Callable[..., tuple[Any, str, str]]
AXES = ("--methods=ghost,magnitude", "--calibration-lengths=32", "--windows=128")
HALF_AND_LESS = "--sparsity=0.5,0.75"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), prefect_api, layers=2)


def arguments(bench: Bench, *more: str) -> list[str]:
    given = options(bench.folder, bench.folder / "store")
    named = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return ["sweep", str(bench.folder / "model"), *AXES, *named, *more]


def start(bench: Bench) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "flows.cli", *arguments(bench, HALF_AND_LESS)]
    env = os.environ | {"PREFECT_API_URL": bench.api}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def written(store: Path) -> dict[Path, int]:
    """When each file of the finished runs was written last."""
    runs = [manifest.parent for manifest in store.glob("runs/*/manifest.json")]
    return {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def swept(bench: Bench) -> tuple[dict[str, Any], dict[Path, int]]:
    """What a sweep printed that was killed after its first cell and started again; the cell's files before that."""
    store = bench.folder / "store"
    killed = start(bench)
    while not written(store) and killed.poll() is None:
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = written(store)
    code, out, err = ghost_here(bench.api, arguments(bench, HALF_AND_LESS, "--json"))
    assert code == 0, err
    return json.loads(out), before


def test_a_killed_sweep_continues_and_computes_nothing_twice(swept: Any, bench: Bench) -> None:
    result, before = swept
    after = written(bench.folder / "store")
    assert before and {path: after[path] for path in before} == before
    assert len(result["cells"]) == 4 > len({path.parent for path in before if path.name == "manifest.json"})
    assert result["failed"] == {}


def test_the_rows_are_in_the_store_described_and_those_of_the_runs(swept: Any, bench: Bench) -> None:
    result, store = swept[0], bench.folder / "store"
    folder = Path(result["page"]).parent
    assert folder == store / "sweeps" / result["sweep_id"]
    table = pq.read_table(folder / "cells.parquet")
    assert table.to_pylist() == result["cells"]
    assert all((field.metadata or {})[b"description"] for field in table.schema)
    for row in result["cells"]:
        figures = json.loads((store / "runs" / row["run_id"] / "evaluation" / "results.json").read_text())
        assert [row["perplexity_dense"], row["perplexity"]] == list(figures["perplexity"].values())
        assert row["rise"] == row["perplexity"] / row["perplexity_dense"] - 1
        assert row["rise_stderr"] == figures["nll_change_stderr"] * (1 + row["rise"]) > 0
        best = min(cell["perplexity"] for cell in result["cells"] if cell["sparsity"] == row["sparsity"])
        assert (row["over_best"] is None) == (row["perplexity"] == best)
        if row["over_best"] is not None:
            assert row["over_best"] == pytest.approx(row["perplexity"] / best - 1) and row["over_best_stderr"] > 0
        assert (row["d_state"], row["kept"]) == ((16, 32) if row["sparsity"] == 0.5 else (8, 16))
        assert row["seconds"] > 0 and row["peak_memory_bytes"] > 50e6
    assert len({row["perplexity_dense"] for row in result["cells"]}) == 1 == len(list((store / "dense").iterdir()))
    about = json.loads((folder / "sweep.json").read_text())
    assert [cell["run_id"] for cell in about["cells"]] == [row["run_id"] for row in result["cells"]]
    assert str(bench.folder) not in (folder / "sweep.json").read_text() + Path(result["page"]).read_text()


def test_cells_that_fail_stop_no_others_and_are_named(swept: Any, bench: Bench) -> None:
    before = written(bench.folder / "store")
    code, out, err = ghost_here(bench.api, arguments(bench, "--sparsity", "0.5", "--sparsity", "0.99"))
    assert code == 1 and "Traceback" not in err
    told = " ".join(out.split())
    for method in ("ghost", "magnitude"):
        assert (
            f"failed: model: {method} at 0.99, length 32, window 128: sparsity 0.99 of d_state 32 rounds to 0" in told
        )
    assert sum(word.endswith("%)") for word in told.replace("│", " ").split()) == 2, told
    page = Path(told.split("page: ")[1].split()[0])
    assert "2 cells failed" in page.read_text() and written(bench.folder / "store") == before
    errors = pq.read_table(page.parent / "cells.parquet")["error"].to_pylist()
    assert [error is None for error in errors] == [True, True, False, False]


REFUSED = {
    "no number": (["--sparsity=half"], "sparsity: 'half' is no list of numbers; give such as 0.25,0.5"),
    "an unknown method": (["--methods=ghost,best"], "method 'best' is unknown; choose one of ghost"),
    "a bad option": (["--samples=0"], "samples: Input should be greater than or equal to 1"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_no_run_takes_is_refused_in_one_line(options: list[str], message: str, execute: Execute) -> None:
    code, out, err = execute(["sweep", "demo", *options])
    assert code == 2 and not out and err.startswith("ghost: error: ") and message in err
