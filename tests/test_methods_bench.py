"""The table of methods: which cells it has, what they measure, and how it goes on, past a cell that fails too."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import bench.methods
from bench.methods import Cell, cells, report, table
from ghost.calibration.tokens import tokenize
from ghost.evaluation.perplexity import perplexity
from tests.models import make_model, open_stack, text


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    folder = tmp_path_factory.mktemp("bench")
    (corpus := folder / "text.txt").write_text(text(100))
    model = str(make_model(folder / "model", layers=2, d_state=16))
    small = Cell(model=model, samples=4, length=32, tokens=256, window=64, device="cpu")
    return replace(small, calibration=str(corpus), evaluation=str(corpus))


def test_methods_that_no_seed_changes_are_run_once() -> None:
    chosen = list(cells(Cell(), ["wanda", "random", "magnitude"], [64, 8], [0, 1]))
    assert chosen[0] == Cell() and len(set(chosen)) == 1 + 4 + 4 + 2
    with pytest.raises(Exception, match="method 'best' is unknown"):
        list(cells(Cell(), ["best"], [8], [0]))


def test_the_table_tells_what_it_measured_and_goes_on_from_its_file(
    base: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [*cells(base, ["ghost", "shedder", "wanda"], [8], [0]), replace(base, method="wanda", kept=16)]
    apart = [chosen[0], chosen[-1]]  # as all cells are for a user; a process takes seconds to import torch
    assert [figures is None for _, figures in table(base, apart, tmp_path / "out.json")] == [False, True]
    monkeypatch.setattr(bench.methods, "ProcessPoolExecutor", lambda size, mp_context: ThreadPoolExecutor(size))
    report(table(base, chosen, tmp_path / "out.json"))
    printed, told = capsys.readouterr()
    assert told.startswith("wanda, 16 kept, seed 0: failed, sparsity: 0.0 is outside")
    known = json.loads((tmp_path / "out.json").read_text())
    assert [known[cell.key].get("state") for cell in chosen[:4]] == [None, 0.5, 0.5, 1.0]
    tokens = tokenize(base.model, Path(base.evaluation).read_text())[:257]
    nll = known[base.key]["nll"]
    assert nll == perplexity(open_stack(Path(base.model)), tokens, 64).nll
    assert f"dense: perplexity {math.exp(nll):.3f}" in printed
    rises = [math.expm1(known[cell.key]["nll"] - nll) for cell in chosen[1:4]]
    rows = [line for line in printed.splitlines() if line.startswith("| ")][1:]
    left = ("as kept", "50% of whole layers; the folder keeps d_state", "all of it")
    for row, rise, state in zip(rows, rises, left, strict=True):
        assert f"| {rise:+.1%} | {state} |" in row
    known[base.key]["nll"] += 1
    (tmp_path / "out.json").write_text(json.dumps(known))
    assert next(table(base, chosen, tmp_path / "out.json"))[1] == {"nll": nll + 1}
