"""`keep`: so many channels of every group, exactly, whichever way it is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ghost
from ghost.errors import SettingsError
from ghost.pruning import Pruning
from ghost.selection import kept_count
from ghost.settings import RunSettings
from tasks.run.open import open_run
from tasks.run.serving import runtime_warnings
from tests.by_hand import through_report
from tests.models import make_model, random_tokens, text

pytest_plugins = ["tests.refusals"]

D_STATE = 32


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a small run on a model of 32 channels."""
    folder = tmp_path_factory.mktemp("keep")
    make_model(folder / "model")
    (folder / "text.txt").write_text(text(400))
    texts = dict.fromkeys(("calibration", "evaluation"), str(folder / "text.txt"))
    return {"model": str(folder / "model"), "samples": 4, "length": 16, "window": 64} | texts | {
        "store": str(folder / "store")
    }  # fmt: skip


@pytest.mark.parametrize("d_state", [1 << n for n in range(1, 9)] + [3, 7, 10, 48, 96, 100, 240])
def test_exactly_so_many_are_kept(d_state: int) -> None:
    for keep in range(1, d_state):
        for round_to in (1, 8, 16):
            settings = Pruning(keep=keep, round_to=round_to).resolved(d_state)
            assert settings.keep is None and kept_count(d_state, settings.sparsity, settings.round_to) == keep
            assert keep % settings.round_to == 0  # an exporter rounds the state up to it


def test_both_ways_to_say_it_are_one() -> None:
    same = [(64, 128, {"sparsity": 0.5}), (32, 128, {"sparsity": 0.75}), (30, 100, {"sparsity": 0.7, "round_to": 2}),
            (40, 128, {"sparsity": 0.6875, "round_to": 8})]  # fmt: skip
    for keep, d_state, other in same:
        assert Pruning(keep=keep).resolved(d_state).digested() == Pruning.make(**other).digested()


def test_a_run_that_keeps_half_is_the_run_at_a_half(given: dict[str, Any]) -> None:
    kept, half = (open_run(RunSettings.make(**given, **how)) for how in ({"keep": 16}, {"sparsity": 0.5}))
    assert kept.pruning.prune_id == half.pruning.prune_id and kept.keys.run_id == half.keys.run_id
    other = open_run(RunSettings.make(**given, keep=17))
    assert other.walk.kept == 17 and other.pruning.prune_id != half.pruning.prune_id


def test_the_library_keeps_them_too(given: dict[str, Any]) -> None:
    tokens_bl = random_tokens(2, 16)
    kept = ghost.prune(given["model"], keep=13, calibration=tokens_bl)
    assert kept.model.config.state_size == 13
    same = ghost.prune(given["model"], keep=16, calibration=tokens_bl)
    half = ghost.prune(given["model"], calibration=tokens_bl)
    for name, tensor in half.model.state_dict().items():
        assert torch.equal(same.model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"keep": 0}, "keep: Input should be greater than or equal to 1 (got 0)"),
     ({"keep": 32}, "keep: 32 of d_state 32 drops nothing or leaves nothing; give 1 to 31"),
     ({"keep": 64}, "keep: 64 of d_state 32 drops nothing or leaves nothing; give 1 to 31"),
     ({"keep": 16, "sparsity": 0.75}, "keep: 16 and sparsity 0.75 both say how much goes; give one of them"),
     ({"keep": 16, "sparsity": 0.5}, "keep: 16 and sparsity 0.5 both say how much goes; give one of them"),
     ({"keep": 16, "energy": 0.9, "method": "balanced"}, "keep: 16 and energy 0.9 both say how much goes"),
     ({"keep": "half"}, "Invalid value for '--keep'")],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(
    execute: Any, arguments: Any, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    code, out, err = execute(arguments(tmp_path, **options))
    assert code == 2 and not out and said in err and "Traceback" not in err


def test_a_recipe_says_one_of_both() -> None:
    from tasks.watch.recipe import Recipe

    def recipe(**settings: Any) -> Recipe:
        return Recipe.make(name="kept", source="/models", publish="/pruned", settings=settings)

    assert recipe(keep=64).parameters("m", "o")["keep"] == 64
    with pytest.raises(SettingsError, match="keep and sparsity both say how much goes; give one of them"):
        recipe(keep=64, sparsity=0.5)
    with pytest.raises(SettingsError, match="keep: Input should be greater than or equal to 1"):
        recipe(keep=0)


def test_the_form_asks_for_it() -> None:
    from flows.prune import ghost as flow

    field = flow.parameters.properties["keep"]
    assert {"type": "integer", "minimum": 1} in _bounds(field)


def _bounds(field: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = field.get("anyOf", [field])
    return [{name: kind[name] for name in ("type", "minimum") if name in kind} for kind in kinds]


def test_a_run_is_warned_before_it_begins(given: dict[str, Any]) -> None:
    """The tiny model breaks most of the rules already: what is new with 13 channels are tiles and convolutions."""

    def warned(**how: Any) -> list[str]:
        lines = runtime_warnings(open_run(RunSettings.make(**given, **how)))
        return [line.partition(" (")[0] for line in lines]

    assert warned(keep=13) == [
        "vLLM, Triton scan", "vLLM, bf16 convolution on a CPU", "llama.cpp, CUDA convolution", "mamba-ssm, Triton scan",
    ]  # fmt: skip
    assert warned(keep=16) == ["llama.cpp, CUDA convolution"]
    for unknown in ({"policy": "pooled"}, {"method": "balanced", "energy": 0.9}, {"soft": True}):
        assert warned(**unknown) == []


def test_a_sweep_over_sizes_notes_the_sparsity_that_each_came_to(tmp_path: Path, given: dict[str, Any]) -> None:
    from tasks.sweep.collect import collect
    from tasks.sweep.outcome import Outcome, failed
    from tasks.sweep.settings import RunOptions, make_sweep

    options = {name: value for name, value in given.items() if name not in ("model", "length", "window")}
    axes = {"models": [given["model"]], "methods": ["magnitude"], "keep": [8, 32], "calibration_lengths": [16],
            "windows": [64]}  # fmt: skip
    sweep = make_sweep(axes, RunOptions.make(**options | {"store": str(tmp_path)}))
    done = through_report(sweep.cells[0].settings)
    done.finish()
    told = collect(
        sweep, [Outcome(cell=sweep.cells[0], run_id=done.keys.run_id), failed(sweep.cells[1], "keep: 32 ...")]
    )
    assert [row["sparsity"] for row in told["cells"]] == [0.75, None]
    assert list(told["failed"]) == ["model: magnitude keeps 32, length 16, window 64"]
    assert json.loads(json.dumps(told["cells"]))[0]["d_state"] == 8
