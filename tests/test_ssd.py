"""`ssd` and `energies` against the step-by-step recurrence in float64, closed forms and the method's identities."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ghost.ssd import Energies, energies, recurrence, ssd

FP32 = 1e-6
FP64 = 1e-12  # sums of dt A reach 2,000 here, and `ssd` takes differences of them in float64
WELL_CONDITIONED = 10
DECAYS = {"none": (0.0, 0.0), "weak": (0.0, 0.05), "mixed": (0.0, 16.0), "strong": (5.0, 25.0)}


class Inputs(NamedTuple):
    x_blhp: Tensor
    dt_blh: Tensor
    A_h: Tensor
    B_blgn: Tensor
    C_blgn: Tensor
    D_h: Tensor

    def to(self, dtype: torch.dtype) -> "Inputs":
        return Inputs(*(tensor.to(dtype) for tensor in self))

    def steps(self, start: int, stop: int) -> "Inputs":
        x, dt, A, B, C, D = self
        return Inputs(x[:, start:stop], dt[:, start:stop], A, B[:, start:stop], C[:, start:stop], D)


class Sizes(NamedTuple):
    batch: int = 2
    length: int = 21
    groups: int = 2
    heads_per_group: int = 2
    headdim: int = 3
    d_state: int = 5


SIZES = st.builds(Sizes, *(st.integers(1, largest) for largest in (3, 100, 3, 3, 8, 12)))


def draw(decay: str = "mixed", seed: int = 0, **sizes: int) -> Inputs:
    """Random fp32 inputs; dt is log-uniform in [0.01, 1], -A uniform in the range of `decay`."""
    b, length, g, r, p, n = Sizes(**sizes)
    random = torch.Generator().manual_seed(seed)
    low, high = DECAYS[decay]
    return Inputs(
        x_blhp=torch.randn(b, length, g * r, p, generator=random),
        dt_blh=100 ** (torch.rand(b, length, g * r, generator=random) - 1),
        A_h=-low - (high - low) * torch.rand(g * r, generator=random),
        B_blgn=torch.randn(b, length, g, n, generator=random),
        C_blgn=torch.randn(b, length, g, n, generator=random),
        D_h=torch.randn(g * r, generator=random),
    )


def draw_state(*bhpn: int) -> Tensor:
    return torch.randn(*bhpn, generator=torch.Generator().manual_seed(1))


def cancelling(inputs: Inputs) -> Inputs:
    """The same sizes with inputs that alternate in sign and nearly undo each other, step by step."""
    sign = (-1.0) ** torch.arange(inputs.x_blhp.shape[1])
    return inputs._replace(
        x_blhp=inputs.x_blhp[:, :1] * sign[:, None, None] + 0.01 * inputs.x_blhp,
        dt_blh=inputs.dt_blh[:, :1].expand_as(inputs.dt_blh),
        B_blgn=inputs.B_blgn[:, :1] + 0.01 * inputs.B_blgn,
    )


def statistics(found: Energies) -> tuple[Tensor, Tensor, Tensor]:
    return found.energy_gn, found.controllability_gn, found.observability_gn


def assert_equal(found: Energies, expected: Energies, rtol: float = 1e-12) -> None:
    assert found.tokens == expected.tokens
    assert_close(statistics(found), statistics(expected), rtol=rtol, atol=0)


def assert_exact(inputs: Inputs, chunk: int, bound: float) -> None:
    """y and statistics are within `bound` of the float64 recurrence, at the scale on which rounding happens.

    All are sums of products of x, dt, B and C, so the scale is the same sum over |x|, |B| and |C|; in fp32 the largest
    error in 2,500 draws, cancelling inputs included, was 4e-7 of it. Where a sum keeps a tenth of its scale, `bound`
    holds relative to the sum itself: for each channel's statistics, and for y against its maximum.
    """
    x, dt, A, B, C, D = double = inputs.to(torch.float64)
    y_blhp, _ = ssd(*inputs, chunk=chunk)
    found = energies(*inputs[:5], chunk=chunk)
    expected_y_blhp, expected = recurrence(*double)
    scale_y_blhp, scale = recurrence(x.abs(), dt, A, B.abs(), C.abs(), D.abs())

    error_y_blhp, largest = (y_blhp - expected_y_blhp).abs(), expected_y_blhp.abs().max()
    assert (error_y_blhp <= bound * scale_y_blhp).all()
    if scale_y_blhp.max() <= WELL_CONDITIONED * largest:
        assert error_y_blhp.max() <= bound * largest
    for found_gn, expected_gn, scale_gn in zip(*map(statistics, (found, expected, scale)), strict=True):
        error_gn, well_gn = (found_gn - expected_gn).abs(), scale_gn <= WELL_CONDITIONED * expected_gn
        assert (error_gn <= bound * scale_gn).all()
        assert (error_gn[well_gn] <= bound * expected_gn[well_gn]).all()
    assert found.tokens == x.shape[0] * x.shape[1]


@settings(max_examples=40)
@given(SIZES, st.integers(1, 70), st.sampled_from(sorted(DECAYS)), st.booleans(), st.integers(0, 10**6))
def test_chunks_agree_with_the_recurrence(sizes: Sizes, chunk: int, decay: str, cancel: bool, seed: int):
    inputs = draw(decay, seed, **sizes._asdict())
    inputs = cancelling(inputs) if cancel else inputs
    assert_exact(inputs, chunk, FP32)
    assert_exact(inputs.to(torch.float64), chunk, FP64)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 23])
def test_any_length_against_chunks_of_eight(length: int):
    assert_exact(draw(length=length), 8, FP32)


def test_strong_decay_then_weak_decay_in_one_chunk_keeps_every_digit():
    """A chunk that begins with 32 steps of decay e^-60 has cumulative sums near -2,000, whose last digit in fp32 is
    1e-4; the weak decays after them are differences of such sums."""
    inputs = draw(length=64)._replace(A_h=torch.full((4,), -0.025))
    inputs.dt_blh[:, :32] = 2400.0
    inputs.x_blhp[:, :32] /= 2400.0
    assert_exact(inputs, 64, FP32)


def test_bf16_inputs_compute_as_the_same_values_in_fp32():
    rounded, state_bhpn = draw().to(torch.bfloat16), draw_state(2, 4, 3, 5).to(torch.bfloat16)
    same, same_bhpn = rounded.to(torch.float32), state_bhpn.float()
    found = ssd(*rounded, chunk=8, state_bhpn=state_bhpn)
    expected = ssd(*same, chunk=8, state_bhpn=same_bhpn)
    assert_close(found, expected, rtol=0, atol=0)
    assert found[0].dtype == found[1].dtype == torch.float32
    expected = energies(*same[:5], chunk=8, state_bhpn=same_bhpn)
    assert_equal(energies(*rounded[:5], chunk=8, state_bhpn=state_bhpn), expected, rtol=0)


@pytest.mark.parametrize(("length", "cut", "chunk"), [(40, 16, 8), (37, 13, 8), (9, 1, 4), (9, 8, 16)])
def test_two_parts_with_the_carried_state_equal_the_whole(length: int, cut: int, chunk: int):
    whole = draw("weak", length=length).to(torch.float64)
    first, second = whole.steps(0, cut), whole.steps(cut, length)
    y_blhp, state_bhpn = ssd(*whole, chunk=chunk)
    first_y, carried = ssd(*first, chunk=chunk)
    second_y, final = ssd(*second, chunk=chunk, state_bhpn=carried)
    assert_close(torch.cat([first_y, second_y], dim=1), y_blhp, rtol=1e-12, atol=1e-13)
    assert_close(final, state_bhpn, rtol=1e-12, atol=1e-13)
    parts = energies(*first[:5], chunk=chunk) + energies(*second[:5], chunk=chunk, state_bhpn=carried)
    assert_equal(parts, energies(*whole[:5], chunk=chunk))


def test_final_state_is_what_c_reads_at_the_last_step():
    inputs = draw("weak").to(torch.float64)
    entry_bhpn = draw_state(2, 4, 3, 5).double()
    _, state_bhpn = ssd(*inputs, chunk=8, state_bhpn=entry_bhpn)
    for n, one_n in enumerate(torch.eye(5, dtype=torch.float64)):
        reads_n = inputs._replace(C_blgn=one_n.expand_as(inputs.C_blgn))
        y_blhp, _ = recurrence(*reads_n[:5], state_bhpn=entry_bhpn)
        assert_close(state_bhpn[..., n], y_blhp[:, -1], rtol=1e-12, atol=1e-13)


def one_channel(length: int, *, x: float, dt: float, A: float, B: float, C: float, samples: int = 1) -> Inputs:
    """One head, element and state channel, with the same input at every step."""
    along, one = torch.ones(samples, length, 1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    return Inputs(x * along, dt * along[..., 0], A * one, B * along, C * along, 0 * one)


def test_constant_input_without_decay_grows_linearly():
    """H_t = t B u, so the energies are sums of squares, T(T+1)(2T+1)/6."""
    T, u = 50, 0.5 * 3.0
    inputs = one_channel(T, x=3.0, dt=0.5, A=0.0, B=0.7, C=-1.1)
    y_blhp, _ = ssd(*inputs, chunk=16)
    found = energies(*inputs[:5], chunk=16)
    squares = T * (T + 1) * (2 * T + 1) / 6
    assert y_blhp.flatten().tolist() == pytest.approx([-1.1 * 0.7 * u * t for t in range(1, T + 1)], rel=1e-13)
    assert found.controllability_gn.item() == pytest.approx((0.7 * u) ** 2 * squares, rel=1e-13)
    assert found.energy_gn.item() == pytest.approx((1.1 * 0.7 * u) ** 2 * squares, rel=1e-13)


def test_constant_input_with_decay_is_a_geometric_series():
    """H_t = B u (1 - a^t) / (1 - a) with a = exp(dt A)."""
    T, u, a = 50, 0.5 * 3.0, math.exp(0.5 * -0.3)
    inputs = one_channel(T, x=3.0, dt=0.5, A=-0.3, B=0.7, C=2.0)
    y_blhp, state_bhpn = ssd(*inputs, chunk=16)
    found = energies(*inputs[:5], chunk=16)
    H = [0.7 * u * (1 - a**t) / (1 - a) for t in range(1, T + 1)]
    assert y_blhp.flatten().tolist() == pytest.approx([2.0 * h for h in H], rel=1e-13)
    assert state_bhpn.item() == pytest.approx(H[-1], rel=1e-13)
    assert found.controllability_gn.item() == pytest.approx(sum(h**2 for h in H), rel=1e-13)
    assert found.energy_gn.item() == pytest.approx(sum((2.0 * h) ** 2 for h in H), rel=1e-13)


def test_permuted_channels_permute_the_energies_and_leave_y():
    inputs, order = draw().to(torch.float64), torch.tensor([3, 0, 4, 1, 2])
    permuted = inputs._replace(B_blgn=inputs.B_blgn[..., order], C_blgn=inputs.C_blgn[..., order])
    assert_close(ssd(*permuted)[0], ssd(*inputs)[0], rtol=1e-12, atol=1e-13)
    expected = tuple(statistic_gn[:, order] for statistic_gn in statistics(energies(*inputs[:5])))
    assert_close(statistics(energies(*permuted[:5])), expected, rtol=1e-12, atol=0)


def test_permuted_heads_of_a_group_permute_y_and_leave_the_energies():
    inputs, order = draw(heads_per_group=3).to(torch.float64), torch.tensor([2, 0, 1, 4, 5, 3])
    x, dt, A, B, C, D = inputs
    permuted = Inputs(x[:, :, order], dt[..., order], A[order], B, C, D[order])
    assert_close(ssd(*permuted)[0], ssd(*inputs)[0][:, :, order], rtol=1e-12, atol=1e-13)
    assert_equal(energies(*permuted[:5]), energies(*inputs[:5]))


def test_head_h_reads_group_h_over_heads_per_group():
    inputs = draw(heads_per_group=3)
    inputs.B_blgn[:, :, 1] = 0
    y_blhp, _ = ssd(*inputs[:5])
    assert (y_blhp[:, :, :3] != 0).all()
    assert (y_blhp[:, :, 3:] == 0).all()


@pytest.mark.parametrize("zeroed", ["B_blgn", "C_blgn"])
def test_energy_is_the_squared_change_of_y_from_zeroing_the_channel(zeroed: str):
    inputs = draw("weak").to(torch.float64)
    y_blhp, _ = ssd(*inputs)
    energy_gn = energies(*inputs[:5]).energy_gn
    for g, n in torch.cartesian_prod(torch.arange(2), torch.arange(5)).tolist():
        without = getattr(inputs, zeroed).clone()
        without[:, :, g, n] = 0
        changed_blhp, _ = ssd(*inputs._replace(**{zeroed: without}))
        assert (changed_blhp - y_blhp).square().sum().item() == pytest.approx(energy_gn[g, n].item(), rel=1e-12)


def test_statistics_accumulate_in_float64():
    """One step of one sample has energy 1e8, 1,999 have 1: in fp32 the sum stays at 1e8, whose neighbour is 8 away."""
    inputs = one_channel(1000, x=1.0, dt=1.0, A=-1000.0, B=1.0, C=1.0, samples=2).to(torch.float32)
    inputs.x_blhp[0, 0] = 1e4
    found = statistics(energies(*inputs[:5], chunk=1))
    assert {statistic_gn.dtype for statistic_gn in found} == {torch.float64}
    assert [statistic_gn.item() for statistic_gn in found] == [1e8 + 1999, 1e8 + 1999, 2000]


def test_gradients_flow_through_ssd():
    """Also where a head decays so fast that the decays above the diagonal of a chunk would overflow."""
    inputs = draw("weak", length=5, headdim=2, d_state=3).to(torch.float64)
    inputs.A_h[0] = -1e5
    variables = tuple(variable.requires_grad_() for variable in (*inputs, draw_state(2, 4, 2, 3).double()))
    assert torch.autograd.gradcheck(lambda *v: ssd(*v[:6], chunk=2, state_bhpn=v[6]), variables)
