"""The quality gate: off by default, absolute or relative to the dense model; what is no number does not pass."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ghost.errors import QualityGateError, SettingsError
from ghost.settings import RunSettings
from tasks.run.gate import check_gate, failed_limits
from tasks.run.open import open_run
from tests.by_hand import ByHand, small_settings, through_report
from tests.chaos import contents


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def finished(folder: Path) -> ByHand:
    """A run without limits, to its end."""
    run = through_report(small_settings(folder))
    run.finish()
    return run


def perplexities(run: ByHand) -> tuple[float, float]:
    scores = json.loads(run.store.record(run.keys.evaluation))["perplexity"]
    return scores["dense"], scores["pruned"]


@pytest.mark.parametrize(
    ("limits", "dense", "pruned", "failed"),
    [
        ({}, 10.0, math.inf, 0),
        ({"max_perplexity": 12.0}, 10.0, 12.0, 0),
        ({"max_perplexity": 12.0}, 10.0, 12.0001, 1),
        ({"max_perplexity": 12.0}, 10.0, math.nan, 1),
        ({"max_perplexity": 12.0}, 10.0, math.inf, 1),
        ({"max_perplexity_rise": 0.25}, 8.0, 10.0, 0),
        ({"max_perplexity_rise": 0.25}, 8.0, 10.01, 1),
        ({"max_perplexity_rise": 0.25}, 8.0, 7.0, 0),
        ({"max_perplexity_rise": 0.25}, 8.0, math.nan, 1),
        ({"max_perplexity_rise": 0.25}, math.inf, math.inf, 1),
        ({"max_perplexity_rise": 0.25}, math.nan, 8.0, 1),
        ({"max_perplexity": 12.0, "max_perplexity_rise": 0.25}, 10.0, 13.0, 2),
    ],
)
def test_a_limit_fails_what_is_over_it_or_no_number(
    limits: dict[str, float], dense: float, pruned: float, failed: int
) -> None:
    assert len(failed_limits(RunSettings.make(**limits), dense, pruned)) == failed


@pytest.mark.parametrize("limits", [{"max_perplexity": 0}, {"max_perplexity_rise": -0.1}])
def test_limits_that_nothing_can_keep_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(limits))):
        RunSettings.make(**limits)


def test_a_run_over_the_limit_keeps_its_checkpoint_and_publishes_nothing(folder: Path, finished: ByHand) -> None:
    expected, (_, pruned) = contents(folder / "store"), perplexities(finished)
    run = through_report(small_settings(folder, out=str(folder / "published"), max_perplexity=pruned / 2))
    assert set(run.states.values()) == {"Cached"}
    with pytest.raises(QualityGateError) as refused:
        run.finish()
    line = str(refused.value)
    assert "\n" not in line and f"perplexity {pruned:.6g} is over {pruned / 2:.6g} (--max-perplexity)" in line
    assert f"the checkpoint is kept in {run.store.locate(run.keys.checkpoint)} and was not published" in line
    assert "give a lower --sparsity or a higher limit" in line
    assert not (folder / "published").exists() and contents(folder / "store") == expected


def test_with_another_limit_a_finished_run_is_published_from_the_store(folder: Path, finished: ByHand) -> None:
    expected, (dense, pruned) = contents(folder / "store"), perplexities(finished)
    limits: dict[str, Any] = {"max_perplexity": pruned, "max_perplexity_rise": max(pruned / dense - 1, 1e-9)}
    run = through_report(small_settings(folder, out=str(folder / "out"), **limits))
    assert set(run.states.values()) == {"Cached"} and run.cached == {0, 1}
    run.finish()
    weights = f"{run.keys.checkpoint}/model.safetensors"
    assert (folder / "out" / "model.safetensors").read_bytes() == run.store.record(weights)
    assert contents(folder / "store") == expected


def test_without_limits_any_figure_passes(folder: Path) -> None:
    run = open_run(small_settings(folder, store=str(folder / "empty")))
    check_gate(run, {"perplexity": {"dense": 1.0, "pruned": math.inf}})
