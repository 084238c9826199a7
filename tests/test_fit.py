"""`fit`: what makes B and C, fitted to the dense mixer's output, and nothing else."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ghost.decoder_layer import DecoderLayer
from ghost.mixer import mixer_forward, mixer_inputs
from ghost.pruned_path import PrunedPath
from ghost.recovery import Judge, Pairs, recover
from ghost.recovery.fit import fit, parts_of, readings
from ghost.selection import select
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.surgery import project_mixer, slice_mixer, zero_mixer
from ghost.walk import Walk, walk
from tests.by_hand import small_settings, through_layers
from tests.chaos import contents
from tests.families import tiny_mixer
from tests.models import make_model, open_stack, random_tokens

LAYERS, ROWS, LENGTH, N = 2, 16, 24, 16
TOKENS = random_tokens(ROWS, LENGTH)
FIRST = select(-torch.arange(float(N)).expand(2, -1), 4)
"""The first four channels of each of two groups."""
IN, TAPS, BIAS = "in_proj.weight", "conv1d.weight", "conv1d.bias"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    return open_stack(make_model(tmp_path_factory.mktemp("model"), layers=LAYERS, d_state=N, n_groups=2))


def entry(stack: Stack) -> Pairs:
    """At layer 0."""
    inputs_blm = torch.cat(list(PrunedPath(stack, TOKENS).mixer_inputs()))
    return Pairs(stack, inputs_blm, None, torch.arange(ROWS))


@pytest.fixture(scope="module")
def pairs(stack: Stack) -> Pairs:
    return entry(stack)


def pruned(stack: Stack) -> DecoderLayer:
    source = stack.checkpoint
    return stack.layer(0, slice_mixer(source.mixer_layout, source.mixer(0), FIRST)[1])


def misses(layer: DecoderLayer, dense: DecoderLayer, pairs: Pairs) -> float:
    """Squared error of the mixer's output on the same inputs, relative to the dense one's."""
    inputs_blm = pairs.inputs_blm[pairs.rows]
    ours, theirs = (mixer_forward(one.layout, one.mixer, inputs_blm) for one in (layer, dense))
    return float((ours - theirs).square().sum() / theirs.square().sum())


def of_b_and_c(layer: DecoderLayer) -> dict[str, torch.Tensor]:
    """Which entries of each tensor make B and C, by hand: in_proj has [z | x | B | C | dt], conv1d [x | B | C]."""
    inner, bc = layer.layout.d_inner, 2 * layer.layout.n_groups * layer.layout.d_state
    masks = {name: torch.zeros_like(tensor, dtype=torch.bool) for name, tensor in layer.mixer.items()}
    masks[IN][2 * inner : 2 * inner + bc] = True
    masks[TAPS][inner : inner + bc] = masks[BIAS][inner : inner + bc] = True
    return masks


@pytest.mark.parametrize("family", ["mamba2", "falcon_h1", "nemotron_h"])
@pytest.mark.parametrize("bias", [True, False])
def test_readings_are_the_b_and_c_of_the_whole_mixer(family: str, bias: bool) -> None:
    tiny = tiny_mixer(family, n_groups=2, bias=bias)
    normed_blm = torch.randn(2, 9, tiny.layout.d_model, generator=torch.Generator().manual_seed(0))
    expected = mixer_inputs(tiny.layout, tiny.weights, normed_blm)
    B_blgn, C_blgn = readings(tiny.layout, parts_of(tiny.layout, tiny.weights), normed_blm)
    assert_close(B_blgn, expected.B_blgn)
    assert_close(C_blgn, expected.C_blgn)


def test_the_error_falls_on_windows_that_were_never_seen_and_only_b_and_c_move(stack: Stack, pairs: Pairs) -> None:
    layer, dense, (fitted, held) = pruned(stack), stack.layer(0), pairs.split()
    moved = fit(layer, dense, fitted, held, seed=0)
    assert misses(moved, dense, held) < 0.9 * misses(layer, dense, held)
    for name, mask in of_b_and_c(layer).items():
        assert moved.mixer[name][~mask].equal(layer.mixer[name][~mask]), name
        assert mask.any() == (not moved.mixer[name].equal(layer.mixer[name])), name
    again = fit(layer, dense, fitted, held, seed=0)
    assert all(again.mixer[name].equal(tensor) for name, tensor in moved.mixer.items())
    assert not fit(layer, dense, fitted, held, seed=1).mixer[IN].equal(moved.mixer[IN])


def test_what_a_mixer_of_this_size_can_say_is_found_again(stack: Stack, pairs: Pairs) -> None:
    """B and C of a small mixer are disturbed: the undisturbed one is a perfect fit, and the fit comes near it."""
    small, random = pruned(stack), torch.Generator().manual_seed(1)
    disturbed = dict(small.mixer)
    for name, mask in of_b_and_c(small).items():
        noise = torch.randn(mask.shape, generator=random) * small.mixer[name].std()
        disturbed[name] = torch.where(mask, small.mixer[name] + 0.3 * noise, small.mixer[name])
    start, (fitted, held) = small.with_mixer(disturbed), pairs.split()
    moved = fit(start, small, fitted, held, seed=0)
    assert misses(moved, small, held) < 0.2 * misses(start, small, held)


def test_a_layer_that_lost_nothing_stays_what_it_is(stack: Stack, pairs: Pairs) -> None:
    dense, (fitted, held) = stack.layer(0), pairs.split()
    assert misses(fit(dense, dense, fitted, held, seed=0), dense, held) < 1e-10


def test_zeroed_channels_stay_at_zero(stack: Stack, pairs: Pairs) -> None:
    source = stack.checkpoint
    zeroed = zero_mixer(source.mixer_layout, source.mixer(0), FIRST)
    moved = fit(stack.layer(0, zeroed), stack.layer(0), *pairs.split(), seed=0).mixer
    gone = zeroed[BIAS] == 0
    assert int(gone.sum()) == 2 * 2 * 12
    assert not moved[BIAS][gone].any() and not moved[TAPS][gone].any()
    assert not moved[TAPS].equal(zeroed[TAPS])


def test_of_a_projected_mixer_the_projections_move(stack: Stack, pairs: Pairs) -> None:
    source, dense, (fitted, held) = stack.checkpoint, stack.layer(0), pairs.split()
    some_grn = torch.eye(N)[:4].expand(2, -1, -1) + 0.1
    layer = stack.layer(0, project_mixer(source.mixer_layout, source.mixer(0), some_grn, some_grn))
    moved = fit(layer, dense, fitted, held, seed=0)
    assert misses(moved, dense, held) < 0.9 * misses(layer, dense, held)
    changed = {name for name, tensor in layer.mixer.items() if not moved.mixer[name].equal(tensor)}
    assert changed == {"B_proj", "C_proj"}


def test_the_stored_precision_is_kept_and_what_is_not_fitted_is_not_rounded(stack: Stack) -> None:
    layer, low = pruned(stack), Stack(stack.checkpoint, stack.device, torch.bfloat16)
    pairs, stream = entry(low), low.enter(TOKENS)
    judge = Judge(low, TOKENS, pairs.split()[1].rows, dict.fromkeys(range(LAYERS), FIRST))
    found = recover(pairs, judge, 0, stream, layer.mixer, level="fit", seed=0)
    assert found.kl.keys() == {"none", "fit"} and found.kl[found.chosen] == min(found.kl.values())
    assert all(found.mixer[name].dtype == tensor.dtype for name, tensor in layer.mixer.items())
    for name, mask in of_b_and_c(layer).items():
        assert found.mixer[name][~mask].equal(layer.mixer[name][~mask]), name


def test_a_walk_continued_after_its_first_layer_gives_the_same_bits(stack: Stack) -> None:
    settings = RunSettings.make(round_to=4, recovery="fit")
    first, second = walk(stack, TOKENS, settings)
    steps = Walk(stack, TOKENS, settings)
    assert first.changed is not None and second.recovered is not None
    steps.restore(0, first.selection, lambda: first.changed or {})
    source = stack.checkpoint
    cut = slice_mixer(source.mixer_layout, source.mixer(1), steps.select(1, steps.statistics(1)))[1]
    assert all(second.recovered.mixer[name].equal(t) for name, t in steps.recover(1, cut).mixer.items())


def test_a_run_that_lost_a_layer_ends_in_the_same_bytes(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, recovery="fit")
    run = through_layers(settings)
    before = contents(tmp_path / "store")
    (tmp_path / "store" / run.pruning.weights(1)).unlink()
    assert through_layers(settings).cached == {0}
    assert contents(tmp_path / "store") == before
