"""The methods against their definitions, computed directly, on a real mixer of two groups."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ghost.errors import CheckpointError, SettingsError
from ghost.mixer import MixerInputs, mixer_inputs
from ghost.saliency import METHODS, LayerStatistics, find_method, row_norms
from ghost.settings import RunSettings
from ghost.ssd import energies, recurrence
from ghost.stack import Stack
from ghost.stream import Stream
from ghost.walk import Walk
from tests.families import D_STATE, HEADDIM, HEADS, hidden_states, tiny_mixer
from tests.models import make_model, open_stack, random_tokens

GROUPS = 2
TINY = tiny_mixer("mamba2", GROUPS)


def inputs_of_the_mixer() -> MixerInputs:
    return mixer_inputs(TINY.layout, TINY.weights, hidden_states())


def score(name: str, statistics: LayerStatistics, layer: int = 0, seed: int = 0) -> Tensor:
    return find_method(name).score(statistics, layer, seed)


@pytest.fixture(scope="module")
def calibrated() -> LayerStatistics:
    inputs = inputs_of_the_mixer()
    sums = energies(inputs.x_blhp, inputs.dt_blh, inputs.A_h, inputs.B_blgn, inputs.C_blgn, chunk=8)
    return row_norms(TINY.layout, TINY.weights).with_energies(sums, where="layer 0")


@pytest.fixture(scope="module")
def states() -> tuple[Tensor, Tensor]:
    """The definition's |H_t[g,n]|^2, summed over the heads of a group, and C_t[g,n]^2; float64 (b, l, g, n)."""
    _, x_blhp, dt_blh, A_h, B_blgn, C_blgn, _ = (tensor.double() for tensor in inputs_of_the_mixer())
    H_bhnp = torch.zeros(len(x_blhp), HEADS, D_STATE, HEADDIM, dtype=torch.float64)
    energy = []
    for x_bhp, dt_bh, B_bgn in zip(x_blhp.unbind(1), dt_blh.unbind(1), B_blgn.unbind(1), strict=True):
        B_bhn = B_bgn.repeat_interleave(HEADS // GROUPS, dim=1)
        decay_bh = (dt_bh * A_h).exp()
        H_bhnp = decay_bh[..., None, None] * H_bhnp + torch.einsum("bhn,bhp,bh->bhnp", B_bhn, x_bhp, dt_bh)
        energy.append(H_bhnp.square().sum(-1).unflatten(1, (GROUPS, -1)).sum(2))
    return torch.stack(energy, dim=1), C_blgn.square()


def test_the_registry_names_the_methods_and_which_of_them_calibrate():
    assert {name: method.calibrates for name, method in METHODS.items()} == {
        "ghost": True,
        "ghost-mean": True,
        "ghost-joint": True,
        "rrqr": True,
        "balanced": True,
        "sparsessm": True,
        "taylor": True,
        "taylor2": True,
        "shedder": True,
        "wanda": True,
        "sparsegpt": True,
        "magnitude": False,
        "random": False,
    }
    assert all(find_method(name).name == name for name in METHODS)


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"^method 'best' is unknown; choose one of ghost, ghost-mean, ghost-j"):
        find_method("best")


def test_ghost_is_the_root_mean_square_of_state_times_readout(calibrated: LayerStatistics, states: Any):
    H2_blgn, C2_blgn = states
    assert_close(score("ghost", calibrated), (H2_blgn * C2_blgn).mean((0, 1)).sqrt(), rtol=1e-5, atol=0)


def test_ghost_mean_averages_state_and_readout_apart(calibrated: LayerStatistics, states: Any):
    H2_blgn, C2_blgn = states
    expected_gn = (H2_blgn.mean((0, 1)) * C2_blgn.mean((0, 1))).sqrt()
    assert_close(score("ghost-mean", calibrated), expected_gn, rtol=1e-5, atol=0)
    assert (score("ghost-mean", calibrated) / score("ghost", calibrated) - 1).abs().min() > 1e-3


@pytest.mark.parametrize(("group", "channel"), [(0, 0), (0, 7), (1, 3), (1, D_STATE - 1)])
def test_ghost_is_the_change_of_the_output_from_zeroing_one_channel(
    calibrated: LayerStatistics, group: int, channel: int
):
    _, *inputs = (tensor.double() for tensor in inputs_of_the_mixer())
    without = [tensor.clone() for tensor in inputs]
    without[4][:, :, group, channel] = 0
    change_blhp = recurrence(*inputs)[0] - recurrence(*without)[0]
    per_step = change_blhp.square().sum() / calibrated.tokens
    assert_close(score("ghost", calibrated)[group, channel], per_step.sqrt(), rtol=1e-5, atol=0)


def test_magnitude_is_the_product_of_the_norms_of_the_rows_that_make_b_and_c():
    rows, d_inner, bc = TINY.module.state_dict()["in_proj.weight"].double(), HEADS * HEADDIM, GROUPS * D_STATE
    expected_gn = torch.empty(GROUPS, D_STATE, dtype=torch.float64)
    for group in range(GROUPS):
        for channel in range(D_STATE):
            row = 2 * d_inner + group * D_STATE + channel
            expected_gn[group, channel] = rows[row].square().sum().sqrt() * rows[row + bc].square().sum().sqrt()
    assert_close(score("magnitude", row_norms(TINY.layout, TINY.weights)), expected_gn, rtol=1e-12, atol=0)


def test_random_depends_on_seed_and_layer_alone(calibrated: LayerStatistics):
    norms = row_norms(TINY.layout, TINY.weights)
    draws = [score("random", norms, layer, seed) for layer in range(3) for seed in (0, 1, 1 << 16, 1 << 64)]
    assert all((a != b).all() for i, a in enumerate(draws) for b in draws[:i])
    assert score("random", norms, 2, 1).equal(score("random", calibrated, 2, 1))
    assert draws[0].shape == (GROUPS, D_STATE) and draws[0].dtype == torch.float64
    assert all(draw.min() >= 0 and draw.max() < 1 for draw in draws)


@pytest.mark.parametrize("statistic", ["energy_gn", "controllability_gn", "observability_gn"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_energies_that_overflowed_are_refused_by_layer(statistic: str, value: float):
    inputs = inputs_of_the_mixer()
    sums = energies(inputs.x_blhp, inputs.dt_blh, inputs.A_h, inputs.B_blgn, inputs.C_blgn)
    getattr(sums, statistic)[1, 3] = value
    with pytest.raises(CheckpointError, match=r"^layer 5: the state's energies are not finite; try --dtype float32"):
        row_norms(TINY.layout, TINY.weights).with_energies(sums, where="layer 5")


class Blind(Stack):
    """Reads no tokens."""

    def enter(self, tokens_bl: Tensor) -> Stream:
        raise EOFError


def test_only_the_methods_that_calibrate_read_tokens(tmp_path: Path):
    source = open_stack(make_model(tmp_path / "model")).checkpoint
    blind = Blind(source, torch.device("cpu"), torch.float32)
    for name, method in METHODS.items():
        walk = Walk(blind, random_tokens(1, 8), RunSettings.make(method=name, round_to=8))
        if method.calibrates:
            with pytest.raises(EOFError):
                walk.statistics(0)
            continue
        statistics = walk.statistics(0)
        assert statistics.tokens == 0 and statistics.energy_gn is None
        assert int(walk.select(0, statistics).kept_gn.sum()) == walk.kept
