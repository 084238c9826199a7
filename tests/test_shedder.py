"""shedder against brute force: stock transformers without the state of some layers, every candidate tried anew."""

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ghost.errors import CheckpointError
from ghost.saliency.shedder import STAYS, candidate_losses, modules_to_remove, removals
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.stream import Stream
from ghost.walk import Walk, walk
from tests.models import load_stock, make_model, open_stack, random_tokens

LAYERS = 4
TOKENS = random_tokens(6, 20)
BATCHES = TOKENS.split(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), layers=LAYERS, d_state=8, n_groups=2)


@pytest.fixture(scope="module")
def stack(folder: Path) -> Stack:
    return open_stack(folder)


@pytest.fixture(scope="module")
def losses(folder: Path) -> dict[frozenset[int], float]:
    """Summed loss in stock transformers by the set of layers whose C is zero after the convolution."""
    sets = [frozenset(chosen) for size in range(LAYERS + 1) for chosen in combinations(range(LAYERS), size)]
    return {removed: stock_loss(folder, removed) for removed in sets}


@torch.inference_mode()
def stock_loss(folder: Path, removed: frozenset[int]) -> float:
    model: Any = load_stock(folder)
    for i in removed:
        mixer = model.backbone.layers[i].mixer
        C = mixer.n_groups * mixer.ssm_state_size
        mixer.conv1d.weight[-C:], mixer.conv1d.bias[-C:] = 0, 0
    logits = model(TOKENS.long(), use_cache=False).logits[:, :-1].double()
    return float(F.cross_entropy(logits.mT, TOKENS[:, 1:].long(), reduction="sum"))


@pytest.mark.parametrize("removed", [[], [2], [3, 0], [0, 1, 2]])
def test_candidates_lose_what_stock_transformers_loses_without_those_modules(
    stack: Stack, losses: dict[frozenset[int], float], removed: list[int]
) -> None:
    found_k = sum(candidate_losses(stack, removed, tokens_bl) for tokens_bl in BATCHES)
    expected = [losses[frozenset([*removed, i])] for i in range(LAYERS) if i not in removed]
    assert_close(found_k, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=0)


def test_the_order_of_removal_is_greedy_by_brute_force(stack: Stack, losses: dict[frozenset[int], float]) -> None:
    removed: list[int] = []
    for _ in range(3):
        candidates = [i for i in range(LAYERS) if i not in removed]
        removed.append(min(candidates, key=lambda i: losses[frozenset([*removed, i])]))
    ranks = {i: place.rank for i, place in removals(stack, BATCHES, 3).items()}
    assert sorted(range(LAYERS), key=ranks.__getitem__)[:3] == removed
    assert sorted(ranks.values()) == [0, 0.25, 0.5, STAYS]


@pytest.mark.parametrize(
    ("layers", "kept", "removed"),
    [(6, 64, 3), (6, 32, 5), (6, 16, 5), (6, 8, 6), (48, 64, 24), (5, 64, 3), (6, 127, 1)],
)
def test_as_many_modules_go_as_come_closest_to_the_budget(layers: int, kept: int, removed: int) -> None:
    assert modules_to_remove(layers, kept, 128) == removed


def test_the_walk_takes_all_channels_of_a_layer_or_none_and_computes_what_is_left(
    folder: Path, stack: Stack, losses: dict[frozenset[int], float]
) -> None:
    settings = RunSettings.make(method="shedder", sparsity=0.5, round_to=4)
    results = list(walk(stack, TOKENS, settings))
    removed = frozenset(result.layer for result in results if not result.selection.kept_gn.any())
    assert len(removed) == 2
    assert all(result.selection.kept_gn.all() for result in results if result.layer not in removed)
    assert len(TOKENS) == 6 and math.isclose(loss_of(folder, settings), losses[removed], rel_tol=1e-5)


@torch.inference_mode()
def loss_of(folder: Path, settings: Any) -> float:
    """Of the stock model with the tensors of `reduce` in it."""
    stack, model = open_stack(folder), load_stock(folder)
    steps = Walk(stack, TOKENS, settings)
    for i in range(LAYERS):
        statistics = steps.statistics(i)
        selection = steps.select(i, statistics)
        model.backbone.layers[i].mixer.load_state_dict(steps.reduce(i, statistics, selection))
        steps.restore(i, selection)
    logits = model(TOKENS.long(), use_cache=False).logits[:, :-1].double()
    return float(F.cross_entropy(logits.mT, TOKENS[:, 1:].long(), reduction="sum"))


def test_recovery_goes_on_from_the_removed_modules(stack: Stack) -> None:
    settings = RunSettings.make(method="shedder", round_to=4, recovery="lstsq")
    plain = list(walk(stack, TOKENS, settings.model_copy(update={"recovery": "none"})))
    for result, without in zip(walk(stack, TOKENS, settings), plain, strict=True):
        assert result.recovered is not None and result.changed is not None
        assert result.selection.kept_gn.equal(without.selection.kept_gn)
        dense = stack.checkpoint.mixer(result.layer)["in_proj.weight"]
        changed = result.changed["in_proj.weight"]
        assert changed.shape == dense.shape and changed.equal(dense) == bool(without.selection.kept_gn.all())


def test_losses_that_overflow_are_refused(tmp_path: Path) -> None:
    broken = open_stack(make_model(tmp_path / "model", layers=2, dtype=torch.float16))

    class Overflowing(Stack):
        def enter(self, tokens_bl: torch.Tensor) -> Stream:
            stream = super().enter(tokens_bl)
            return stream.moved(stream.hidden_blm * torch.inf)

    with pytest.raises(CheckpointError, match=r"^0 modules removed: the losses without one module are not finite"):
        removals(Overflowing(broken.checkpoint, broken.device, broken.dtype), BATCHES, 1)
