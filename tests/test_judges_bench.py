"""The benchmark of the two judges of recovery."""

import math
import sys
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from bench.judges import cells, differences, tables
from bench.recovery import Cell, LikelihoodJudge, measure
from ghost.evaluation.perplexity import Perplexity
from ghost.recovery.judge import Judge
from ghost.walk import walk
from tests.models import make_model, text


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    folder = tmp_path_factory.mktemp("judges")
    (folder / "text.txt").write_text(text(100, seed=0))
    model, path = str(make_model(folder / "model", layers=2, d_state=16)), str(folder / "text.txt")
    return Cell(
        model=model, calibration=path, samples=4, length=32, evaluation=(path,), tokens=256, windows=(32,), kept=4,
        device="cpu",
    )  # fmt: skip


def test_cells_are_the_dense_model_then_no_recovery_and_fit_by_each_judge(base: Cell) -> None:
    found = list(cells(base, [4, 8], [0, 1], ["nll", "kl"]))
    assert found[0].kept == 0
    assert len(set(found)) == 1 + 2 * 2 * 3
    assert {(cell.level, cell.judge) for cell in found[1:]} == {("none", "kl"), ("fit", "nll"), ("fit", "kl")}


def test_the_likelihood_judges_what_it_is_asked_to_and_nothing_after_it(
    base: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = list[float]()
    scored = LikelihoodJudge._divergence

    def counted(judge: LikelihoodJudge, *parts: object) -> float:
        judged.append(scored(judge, *parts))  # pyright: ignore[reportArgumentType]
        return judged[-1]

    monkeypatch.setattr(LikelihoodJudge, "_divergence", counted)
    measure(replace(base, level="lstsq", judge="nll"))
    # of a model that knows nothing: some nats a token, where KL of two alike is next to none
    assert min(judged) > 1
    before = len(judged)
    measure(replace(base, level="lstsq", judge="kl"))
    assert len(judged) == before
    assert vars(sys.modules[walk.__module__])["Judge"] is Judge


def test_a_table_has_a_row_for_every_number_of_windows_and_judge(
    base: Cell, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {cell: {"nll": {"here": {"32": 2.0 + 0.01 * i}}} for i, cell in enumerate(cells(base, [4], [0, 1], ["kl"]))}
    (table,) = tables(found)
    Console(width=120).print(table)
    printed = capsys.readouterr().out
    assert table.row_count == 2
    for rise in ("+1.01%", "+2.02%", "+3.05%", "+4.08%"):
        assert rise in printed


def score(*nats: float) -> dict[str, Any]:
    nll = sum(nats) / (32 * len(nats))
    return Perplexity(math.exp(nll), nll, 32 * len(nats), 32, nats).as_dict()


def test_what_recovery_brings_has_the_error_of_its_pairs_and_a_word_for_noise(
    base: Cell, capsys: pytest.CaptureFixture[str]
) -> None:
    nats = {("none", "kl"): (60.0, 80.0, 40.0, 100.0), ("fit", "nll"): (61.0, 79.0, 40.5, 99.8),
            ("fit", "kl"): (58.0, 78.0, 38.0, 98.1)}  # fmt: skip
    found = {
        cell: {"nll": {}, "scores": {base.evaluation[0]: {"32": score(*nats[cell.level, cell.judge])}}}
        for cell in cells(base, [4], [0], ["nll", "kl"])
    }
    (table,) = differences(found)
    Console(width=200).print(table)
    nll, kl = (line for line in capsys.readouterr().out.splitlines() if "%" in line)
    assert "nll" in nll and "noise" in nll and "kl" in kl and "noise" not in kl
    assert f"{math.exp(-7.9 / 128) - 1:+.2%}" in kl, "the dense model is as good as the plain one here"
    assert not [*differences({cell: {"nll": {}} for cell in found})]
