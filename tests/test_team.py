"""Several processes find what one finds, to the last byte."""

import hashlib
from collections.abc import Iterator
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save
from torch import Tensor

from ghost.evaluation.perplexity import perplexity
from ghost.following import Computed, LedPerplexity, LedWalk
from ghost.recovery import fit, local
from ghost.saliency import METHODS
from ghost.settings import RunSettings
from ghost.team import ALONE, Gang, Team
from ghost.walk import Walk
from tasks.run.processes import hire
from tests.hybrids import make_hybrid
from tests.models import make_model, random_tokens

TOKENS = random_tokens(5, 24)
"""In batches of two windows, so that the last one has a single window."""
SETTINGS: dict[str, dict[str, Any]] = {
    **{method: {"method": method} for method in METHODS},
    "not sequential": {"sequential": False},
    "energy": {"method": "balanced", "energy": 0.9},
    "lstsq": {"recovery": "lstsq"},
    "fit": {"method": "balanced", "recovery": "fit"},
    "local": {"recovery": "local"},
}
CPU = Computed("cpu", "float32", 48)
HYBRIDS = ("ghost", "taylor", "wanda", "lstsq")
"""Of these, on a hybrid too."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    mamba = make_model(folder / "mamba2", layers=2, d_state=16, n_groups=2)
    return {"mamba2": mamba, "zamba2": make_hybrid(folder / "zamba2", "zamba2")}


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    """Of Adam, which takes them in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "STEPS", 25)
        patch.setattr(fit, "STEPS", 50)
        yield


@pytest.fixture(scope="module", params=[2, 3])
def gang(request: pytest.FixtureRequest) -> Iterator[Gang]:
    with hire(request.param, threads=1) as team:
        assert isinstance(team, Gang)
        yield team


@pytest.fixture(scope="module")
def alone(models: dict[str, Path]) -> Any:
    return cache(lambda model, name: found_by(models[model], name, ALONE))


def found_by(model: Path, name: str, team: Team) -> str:
    """A digest of all that the walk finds out."""
    settings, stack = RunSettings.make(round_to=4, **SETTINGS[name]), CPU.stack(str(model), 0)
    walk = LedWalk(stack, TOKENS, settings, team) if isinstance(team, Gang) else Walk(stack, TOKENS, settings)
    total = hashlib.sha256()
    for layer in stack.mixers:
        statistics = walk.statistics(layer)
        selection = walk.select(layer, statistics)
        pruned = walk.reduce(layer, statistics, selection)
        if walk.recovers:
            pruned = walk.recover(layer, pruned).mixer
        walk.restore(layer, selection, partial(dict, pruned) if walk.changes else None)
        known = [getattr(statistics, field.name) for field in fields(statistics)]
        for found in (*known, selection.saliency_gn, selection.kept_gn, *pruned.values()):
            total.update(save({"": found}) if isinstance(found, Tensor) else repr(found).encode())
    return total.hexdigest()


CASES = [("mamba2", name) for name in SETTINGS] + [("zamba2", name) for name in HYBRIDS]


@pytest.mark.parametrize(("model", "name"), CASES)
def test_any_number_of_processes_finds_the_same(
    gang: Gang, alone: Any, models: dict[str, Path], model: str, name: str
) -> None:
    assert found_by(models[model], name, gang) == alone(model, name)


def test_so_does_perplexity(gang: Gang, models: dict[str, Path]) -> None:
    text, done = random_tokens(1, 5 * 24 + 7)[0], list[int]()
    led = LedPerplexity(gang, CPU, text, 24)
    found = [led.perplexity(str(folder), done.append) for folder in models.values()]
    assert found == [perplexity(CPU.stack(str(folder), 0), text, 24) for folder in models.values()]
    assert sum(done) == 2 * (len(text) - 1)
