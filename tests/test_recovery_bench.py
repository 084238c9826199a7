"""The benchmark of recovery: cells of a tiny model, its rises, and a table that goes on from what is known."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from bench.recovery import Cell, Figures, measure, report, rises, table
from ghost.calibration.tokens import tokenize
from ghost.evaluation.perplexity import perplexity
from ghost.stack import Stack
from tests.models import make_model, open_stack, text


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    """A dense model, read on two texts at two windows."""
    folder = tmp_path_factory.mktemp("bench")
    texts = [folder / "near.txt", folder / "far.txt"]
    for seed, path in enumerate(texts):
        path.write_text(text(100, seed=seed))
    return Cell(
        model=str(make_model(folder / "model", layers=2, d_state=16)),
        calibration=str(texts[0]),
        samples=4,
        length=32,
        evaluation=tuple(map(str, texts)),
        tokens=256,
        windows=(32, 128),
        device="cpu",
    )


@pytest.fixture(scope="module")
def dense(cell: Cell) -> Figures:
    return measure(cell)


def test_dense_figures_are_the_models_perplexities(cell: Cell, dense: Figures) -> None:
    stack: Stack = open_stack(Path(cell.model))
    for path, nlls in dense["nll"].items():
        tokens = tokenize(cell.model, Path(path).read_text())[:257]
        assert nlls == {str(window): perplexity(stack, tokens, window).nll for window in (32, 128)}


@pytest.mark.parametrize("method", ["ghost", "balanced"])
def test_a_pruned_model_is_worse_than_dense_and_keeping_all_of_it_is_not(
    cell: Cell, dense: Figures, method: str
) -> None:
    cut = {kept: measure(replace(cell, method=method, kept=kept)) for kept in (4, 15)}
    small, large = ([abs(rise) for rise in rises(figures, dense).values()] for figures in (cut[4], cut[15]))
    assert sum(large) < sum(small)


def test_a_recovered_model_is_not_the_plain_one(cell: Cell) -> None:
    plain, recovered = (measure(replace(cell, kept=4, level=level))["nll"] for level in ("none", "lstsq"))
    assert plain != recovered


def test_known_cells_are_not_measured_again_and_lines_say_what_share_of_the_rise_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = Cell(model="no such model", evaluation=("here",), windows=(512,)), tmp_path / "out.json"

    def figures(perplexity: float) -> Figures:
        return {"nll": {"here": {"512": math.log(perplexity)}}, "seconds": 2.0, "peak_rss": 3 << 20}

    cells = {base: 10.0, replace(base, kept=8, level="none"): 12.0, replace(base, kept=8, level="lstsq"): 11.5}
    out.write_text(json.dumps({cell.key: figures(perplexity) for cell, perplexity in cells.items()}))
    report(table(base, [8], ["none", "lstsq"], out))
    assert capsys.readouterr().out.splitlines() == [
        "dense, here, windows of 512: perplexity 10.00",
        "ghost, none, 8 kept, here, windows of 512: +20.0%",
        "ghost, none, 8 kept: 2 processor s, 3 MiB",
        "ghost, lstsq, 8 kept, here, windows of 512: +15.0% (0.75 of the first level's)",
        "ghost, lstsq, 8 kept: 2 processor s, 3 MiB",
    ]


def test_an_unknown_cell_is_measured_in_a_process_of_its_own_and_kept(cell: Cell, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    ((found, figures),) = table(cell, [], [], out)
    assert found == cell and json.loads(out.read_text()) == {cell.key: figures}
    assert figures["peak_rss"] > 1 << 20
