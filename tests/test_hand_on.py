"""Stages hand on what they found: nothing is read back that a stage before held, what is read is what the records vouch
for, and runs that prune alike share their layers."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import ghost
from artifacts.store import Store
from flows.options import flow_parameters
from ghost.errors import SettingsError
from ghost.settings import RunSettings
from tasks.run import open as opening
from tasks.watch.recipe import Recipe
from tests.by_hand import ByHand, small_settings, through_layers, through_report
from tests.chaos import contents
from tests.models import text

pytest_plugins = ["tests.refusals"]


class CountingStore:
    """A store that counts how often the content of each object is asked for."""

    def __init__(self, store: Store) -> None:
        self._store, self.reads = store, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in ("record", "get", "fetch"):
            return method

        def counted(key: str, *rest: Any) -> Any:
            found = method(key, *rest)
            self.reads[key] += 1
            return found

        return counted


def counted(settings: RunSettings) -> tuple[ByHand, Counter[str]]:
    """A run to its end, and what was read of the store after it was opened."""
    run = ByHand(settings)
    store: Any = CountingStore(run.store)
    run.run.store = run.store = store
    run.prune()
    for stage in (run.export, run.evaluate, run.report, run.finish):
        stage()
    return run, store.reads


@pytest.mark.parametrize("changes", [{}, {"recovery": "lstsq"}, {"method": "balanced"}, {"method": "wanda"}], ids=str)
def test_what_a_run_has_written_it_reads_once_at_most(tmp_path: Path, changes: dict[str, Any]) -> None:
    run, reads = counted(small_settings(tmp_path, **changes))
    layers = range(len(run.layers))
    assert {run.pruning.weights(layer): 1 for layer in layers}.items() <= reads.items()
    assert not {run.pruning.stats(n) for n in layers} & reads.keys()
    assert not {run.pruning.selection(n) for n in layers} & reads.keys()
    assert not {run.keys.evaluation, run.keys.report, run.keys.manifest} & reads.keys()
    assert max(count for key, count in reads.items() if "timings" not in key) == 1


def test_a_second_run_reads_statistics_selections_and_figures_once_and_no_weights(tmp_path: Path) -> None:
    counted(small_settings(tmp_path))
    run, reads = counted(small_settings(tmp_path))
    assert set(run.states.values()) == {"Cached"}
    for layer in range(len(run.layers)):
        assert reads[run.pruning.stats(layer)] == reads[run.pruning.selection(layer)] == 1
        assert not reads[run.pruning.weights(layer)]
    assert reads[run.keys.evaluation] == 1


def test_another_evaluation_prunes_nothing_again(tmp_path: Path) -> None:
    first = through_report(small_settings(tmp_path))
    (tmp_path / "other.txt").write_text(text(500, seed=5))
    layers = {key: data for key, data in contents(tmp_path / "store").items() if key.startswith(first.pruning.root)}
    for changes in ({"evaluation": str(tmp_path / "other.txt")}, {"window": 64}, {"evaluation_timeout": 60.0}):
        run = through_report(small_settings(tmp_path, **changes))
        assert run.pruning == first.pruning and run.cached == {0, 1}
        assert {run.states[stage] for stage in ("calibrate_layer", "score_layer", "prune_layer")} == {"Cached"}
        assert (run.keys == first.keys) == (run.states["evaluate"] == "Cached") == ("evaluation_timeout" in changes)
        assert {key: contents(tmp_path / "store")[key] for key in layers} == layers


@pytest.mark.parametrize("whose", ["ghost", "torch", "transformers"])
def test_another_version_takes_no_layers_of_the_one_before(
    tmp_path: Path, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = through_layers(small_settings(tmp_path))
    version = opening.version
    names = {"ghost": "ghost-ssm", "transformers": "transformers"}
    if whose == "torch":
        monkeypatch.setattr(torch, "__version__", "2.99.0")
    else:
        monkeypatch.setattr(opening, "version", lambda name: "99.0" if name == names[whose] else version(name))
    after = through_layers(small_settings(tmp_path))
    assert after.pruning != before.pruning and after.cached == set()
    assert after.run.prune_determinants[whose] != before.run.prune_determinants[whose]


IMPOSSIBLE = [
    ({"method": "best"}, "method 'best' is unknown; choose one of ghost"),
    ({"method": "balanced", "soft": True}, "soft: balanced cuts no channels out that could be zeroed"),
    ({"sparsity": 1.5}, r"sparsity: 1.5 is outside \(0, 1\)"),
    ({"device": "gpu"}, "device: 'gpu' is not a device; give auto, cpu, cuda or cuda:N"),
    ({"recovery": "fit", "samples": 1}, "recovery: fit holds calibration windows back and samples is 1"),
]


@pytest.mark.parametrize(("fields", "words"), IMPOSSIBLE, ids=str)
def test_impossible_settings_are_refused_in_the_same_words_before_a_model_is_opened(
    fields: dict[str, Any], words: str, command: Any
) -> None:
    for refuse in (
        lambda: RunSettings.make(**fields),
        lambda: ghost.prune("/no/such/model", **fields),
        lambda: flow_parameters(RunSettings)(lambda settings: settings)(model="/no/such/model", **fields),
    ):
        with pytest.raises(SettingsError, match=f"^{words}"):
            refuse()
    recipe = {"name": "half", "source": "/new", "publish": "/pruned", "settings": fields}
    with pytest.raises(ValueError, match=words):
        Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe)))
    options = [option for name, value in fields.items() for option in _option(name, value)]
    assert command("run", "/no/such/model", *options).startswith("ghost: error: " + words.split("\\")[0].split("(")[0])


def _option(name: str, value: object) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    return [flag] if value is True else [flag, str(value)]
