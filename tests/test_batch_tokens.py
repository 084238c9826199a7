"""How many tokens are computed at once changes memory, and the last digits; what is held changes neither."""

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ghost.budget import BATCH_TOKENS, MOST_TOKENS, bytes_to_hold, tokens_within
from ghost.checkpoint.families import family_of
from ghost.errors import SettingsError
from ghost.evaluation.perplexity import perplexity
from ghost.mixer import MixerLayout
from ghost.pruned_path import PrunedPath
from ghost.recovery.pairs import FITTED_MOST, HELD_MOST
from ghost.recovery.room import calibration_bytes
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.walk import LayerResult, Walk, walk
from tests.hybrids import make_hybrid
from tests.models import open_stack, random_tokens, stack_logits

ROWS, LENGTH = 3, 150
TOKENS = random_tokens(ROWS, LENGTH, seed=8)
BUDGETS = [1, 37, 64, 256, 2048]
"""Pieces of a step, of an odd number and of one chunk; a batch for each window, and one of all."""
MEASURED = ["ghost", "ghost-joint", "balanced", "sparsessm"]
"""A method for each statistic of what enters the recurrence."""


@pytest.fixture(scope="module", params=["mamba2-8-groups", "zamba2-2-blocks-rope", "falcon_h1"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hybrid(tmp_path_factory.mktemp("model") / "model", request.param)


@pytest.fixture(scope="module")
def at_once(folder: Path) -> Stack:
    """All windows are computed at once."""
    return open_stack(folder, batch_tokens=TOKENS.numel())


def statistics(results: list[LayerResult]) -> list[dict[str, Tensor]]:
    return [{name: t for name, t in vars(r.statistics).items() if isinstance(t, Tensor)} for r in results]


def differ(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("batch_tokens", BUDGETS)
def test_logits_and_perplexity_agree(batch_tokens: int, folder: Path, at_once: Stack) -> None:
    stack = open_stack(folder, batch_tokens=batch_tokens)
    assert differ(stack_logits(stack, TOKENS), stack_logits(at_once, TOKENS)) < 2e-5
    text = TOKENS.flatten()
    assert perplexity(stack, text, 200).nll == pytest.approx(perplexity(at_once, text, 200).nll, rel=1e-5)


@pytest.mark.parametrize("batch_tokens", BUDGETS[1:])
def test_what_is_measured_agrees(batch_tokens: int, folder: Path, at_once: Stack) -> None:
    settings = RunSettings(sparsity=0.5, round_to=1, sequential=False)
    found = walk(open_stack(folder, batch_tokens=batch_tokens), TOKENS, settings)
    for ours, theirs in zip(statistics(list(found)), statistics(list(walk(at_once, TOKENS, settings))), strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=0)


def test_gradients_of_a_window_in_pieces_are_of_the_whole_window(folder: Path, at_once: Stack) -> None:
    settings = RunSettings(sparsity=0.5, round_to=1, method="taylor")
    found = walk(open_stack(folder, batch_tokens=37), TOKENS, settings)
    for ours, theirs in zip(statistics(list(found)), statistics(list(walk(at_once, TOKENS, settings))), strict=True):
        scale = float(theirs["fisher_gn"].max())
        assert_close(ours["fisher_gn"], theirs["fisher_gn"], rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("batch_tokens", [37, 150, 300])
def test_what_is_computed_again_has_the_bits_of_what_was_held(
    batch_tokens: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = open_stack(folder, batch_tokens=batch_tokens)
    able = family_of(stack.checkpoint.config).projects
    asked = [RunSettings(sparsity=0.5, round_to=1, method=name) for name in MEASURED if able or name != "balanced"]
    held = [list(walk(stack, TOKENS, settings)) for settings in asked]
    for most, number in product((0, one_batch(stack)), range(len(asked))):
        monkeypatch.setattr("ghost.budget.HELD_BYTES", most)
        for ours, theirs in zip(walk(stack, TOKENS, asked[number]), held[number], strict=True):
            assert ours.selection.kept_gn.equal(theirs.selection.kept_gn)
            for a, b in zip(statistics([ours]), statistics([theirs]), strict=True):
                assert a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def one_batch(stack: Stack) -> int:
    """Bytes of what enters one batch's recurrence, and some more."""
    inputs = PrunedPath(stack, TOKENS)
    while inputs.position not in stack.mixers:
        inputs.advance()
    first = next(iter(inputs.inputs()))
    return first.nbytes * 3 // 2


@torch.inference_mode()
def test_no_more_is_held_than_may_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = open_stack(folder, batch_tokens=LENGTH)
    for most, batches in ((0, 0), (one_batch(stack), 1), (1 << 30, ROWS)):
        monkeypatch.setattr("ghost.budget.HELD_BYTES", most)
        path = PrunedPath(stack, TOKENS)
        while path.position not in stack.mixers:
            path.advance()
        inputs = path.inputs()
        first, second = list(inputs), list(inputs)
        assert len(inputs.held) == batches and len(first) == len(second) == ROWS
        assert all(
            a.equal(b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
        )


LARGE = MixerLayout(d_model=2048, nheads=64, headdim=64, n_groups=1, d_state=128, d_conv=4, norm_eps=1e-5)
"""mamba2-1.3b's."""


def test_a_gpu_computes_what_a_share_of_all_its_memory_holds() -> None:
    sizes = [int(gib * 2**30) for gib in (8, 40, 79.1, 79.6, 139, 10_000)]
    assert [tokens_within(size, LARGE) for size in sizes] == [BATCH_TOKENS, 2048, 4096, 4096, 8192, MOST_TOKENS]


def test_on_a_cpu_the_default_stays_and_a_constant_is_held(folder: Path) -> None:
    assert open_stack(folder).batch_tokens == BATCH_TOKENS == 2048
    assert bytes_to_hold(torch.device("cpu"), resident=False) == 1 << 30


@pytest.mark.parametrize("recovery", ["none", "lstsq", "fit"])
def test_calibration_tokens_that_no_machine_holds_are_refused_up_front(recovery: str, at_once: Stack) -> None:
    tokens = torch.zeros((), dtype=torch.int32).expand(1 << 30, 1 << 20)
    levers = "--samples or --length" + ("" if recovery == "none" else ", or --recovery none")
    asked = "" if recovery == "none" else f" with recovery {recovery}"
    with pytest.raises(SettingsError, match=rf"^{1 << 50:,} calibration tokens{asked} take .* {levers}$"):
        Walk(at_once, tokens, RunSettings.model_validate({"recovery": recovery, "round_to": 1}))


def test_what_recovery_keeps_of_the_calibration_tokens() -> None:
    plain, ridge, fitted = (calibration_bytes(LARGE, torch.bfloat16, 1 << 18, r) for r in ("none", "lstsq", "fit"))
    assert (plain, ridge) == (4 * 2048 << 18, 2 * (4 + 2) * 2048 << 18)
    taken = (FITTED_MOST + HELD_MOST) * (2 * (3 * 4096 + 2048) + 4 * 64)
    assert fitted == ((4 + 2) * 2048 << 18) + taken
