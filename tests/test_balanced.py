"""Gramians against the step recurrence, and balanced truncation against what theory says of it."""

from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ghost.mixer import MixerInputs, mixer_inputs
from ghost.saliency.balanced import Balanced, balance, smallest_rank
from ghost.saliency.gramians import gramians
from ghost.ssd import energies, ssd, states
from tests.families import D_STATE, hidden_states, tiny_mixer

GROUPS = 2
INPUTS = mixer_inputs((TINY := tiny_mixer("mamba2", GROUPS)).layout, TINY.weights, hidden_states())


def double(inputs: MixerInputs) -> MixerInputs:
    return MixerInputs(*(tensor.double() for tensor in inputs))


def turned(inputs: MixerInputs, basis_gnn: Tensor) -> MixerInputs:
    """The same mixer with the state axis in another basis: B -> T B, C -> T^-T C, after the convolution."""
    inverse_gnn = torch.linalg.inv(basis_gnn).mT
    B_blgn, C_blgn = (torch.einsum("blgn,grn->blgr", *pair) for pair in
                      ((inputs.B_blgn, basis_gnn), (inputs.C_blgn, inverse_gnn)))  # fmt: skip
    return inputs._replace(B_blgn=B_blgn, C_blgn=C_blgn)


def output(inputs: MixerInputs, basis: Balanced | None = None, kept: int = D_STATE) -> Tensor:
    """The recurrence's y, with the first `kept` directions of a basis."""
    B_blgn, C_blgn = inputs.B_blgn, inputs.C_blgn
    if basis is not None:
        B_grn, C_grn = (part[:, :kept].to(B_blgn.dtype) for part in (basis.B_gnn, basis.C_gnn))
        B_blgn = torch.einsum("blgn,grn->blgr", B_blgn, B_grn)
        C_blgn = torch.einsum("blgn,grn->blgr", C_blgn, C_grn)
    return ssd(inputs.x_blhp, inputs.dt_blh, inputs.A_h, B_blgn, C_blgn)[0]


def random_gramians(seed: int, n: int = 6, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Two that have little to do with each other."""
    random = torch.Generator().manual_seed(seed)
    factors = torch.randn(2, 1, n, rank or n, generator=random, dtype=torch.float64)
    Wc_gnn, Wo_gnn = factors @ factors.mT
    return Wc_gnn, Wo_gnn


def truncation_error(Wc_nn: Tensor, Wo_nn: Tensor, projection_nn: Tensor) -> float:
    """E |C^T (I - P) H|^2 for independent C and H."""
    lost_nn = torch.eye(len(Wc_nn), dtype=Wc_nn.dtype) - projection_nn
    return torch.trace(Wo_nn @ lost_nn @ Wc_nn @ lost_nn.T).item()


@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
def test_gramians_are_those_of_the_step_recurrence(chunk: int):
    inputs, steps = double(INPUTS), INPUTS.dt_blh.shape[0] * INPUTS.dt_blh.shape[1]
    Wc_gnn, Wo_gnn = torch.zeros(2, GROUPS, D_STATE, D_STATE, dtype=torch.float64)
    for C_bcgn, H_bcgnrp in states(inputs.x_blhp, inputs.dt_blh, inputs.A_h, inputs.B_blgn, inputs.C_blgn):
        Wc_gnn += torch.einsum("bcgnrp,bcgmrp->gnm", H_bcgnrp, H_bcgnrp) / steps
        Wo_gnn += torch.einsum("bcgn,bcgm->gnm", C_bcgn, C_bcgn) / steps
    found = gramians([inputs], chunk)
    assert_close(found, (Wc_gnn, Wo_gnn), rtol=1e-12, atol=1e-12 * Wc_gnn.max().item())


def test_the_diagonals_are_the_energies_and_batches_add_up():
    parts = [MixerInputs(*(t[at] if t.dim() > 1 else t for t in INPUTS)) for at in (slice(0, 1), slice(1, None))]
    Wc_gnn, Wo_gnn = gramians(parts)
    sums = energies(INPUTS.x_blhp, INPUTS.dt_blh, INPUTS.A_h, INPUTS.B_blgn, INPUTS.C_blgn)
    assert_close(Wc_gnn.diagonal(dim1=1, dim2=2), sums.controllability_gn / sums.tokens, rtol=1e-5, atol=0)
    assert_close(Wo_gnn.diagonal(dim1=1, dim2=2), sums.observability_gn / sums.tokens, rtol=1e-5, atol=0)
    assert Wc_gnn.dtype == Wo_gnn.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_directions_reproduce_the_output(dtype: torch.dtype):
    inputs = MixerInputs(*(tensor.to(dtype) for tensor in INPUTS))
    y_blhp = output(inputs)
    eps = torch.finfo(dtype).eps
    assert_close(
        output(inputs, balance(*gramians([inputs]))), y_blhp, rtol=0, atol=1e3 * eps * y_blhp.abs().max().item()
    )


def test_the_basis_balances_both_gramians():
    Wc_gnn, Wo_gnn = random_gramians(0)
    hankel_gn, B_gnn, C_gnn = balance(Wc_gnn, Wo_gnn)
    excited_nn, read_nn = (B_gnn @ Wc_gnn @ B_gnn.mT)[0], (C_gnn @ Wo_gnn @ C_gnn.mT)[0]
    assert_close(excited_nn, excited_nn.diagonal().diag(), rtol=0, atol=1e-5)
    assert_close(read_nn, read_nn.diagonal().diag(), rtol=0, atol=1e-5)
    eigenvalues_n = torch.linalg.eigvals(Wc_gnn[0] @ Wo_gnn[0]).real.sort(descending=True).values
    assert_close(hankel_gn[0].square(), eigenvalues_n, rtol=1e-5, atol=0)
    assert_close(B_gnn.norm(dim=-1), C_gnn.norm(dim=-1))


@pytest.mark.parametrize("orthogonal", [True, False])
def test_no_change_of_basis_changes_hankel_values_or_outputs(orthogonal: bool):
    inputs = double(INPUTS)
    random = torch.randn(GROUPS, D_STATE, D_STATE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    basis_gnn = torch.linalg.qr(random).Q if orthogonal else 0.15 * random + torch.eye(D_STATE, dtype=torch.float64)
    other = turned(inputs, basis_gnn)
    here, there = balance(*gramians([inputs])), balance(*gramians([other]))
    assert_close(there.hankel_gn, here.hankel_gn, rtol=1e-4, atol=1e-5 * here.hankel_gn.max().item())
    for kept in (2, 4):
        y_blhp = output(inputs, here, kept)
        assert_close(output(other, there, kept), y_blhp, rtol=0, atol=1e-4 * y_blhp.abs().max().item())


def test_the_error_is_the_sum_of_what_was_dropped_and_no_selection_of_channels_is_better():
    Wc_gnn, Wo_gnn = random_gramians(1)
    hankel_gn, B_gnn, C_gnn = balance(Wc_gnn, Wo_gnn)
    for kept in range(1, 6):
        error = truncation_error(Wc_gnn[0], Wo_gnn[0], C_gnn[0, :kept].T @ B_gnn[0, :kept])
        assert error == pytest.approx(hankel_gn[0, kept:].square().sum().item(), rel=1e-5)
        channels = torch.eye(6, dtype=torch.float64)
        selected = [channels[list(some)] for some in combinations(range(6), kept)]
        assert error < min(truncation_error(Wc_gnn[0], Wo_gnn[0], P_rn.T @ P_rn) for P_rn in selected)


def lyapunov(A_nn: Tensor, Q_nn: Tensor) -> Tensor:
    """X with X = A X A^T + Q, by one linear system."""
    n = len(A_nn)
    return torch.linalg.solve(torch.eye(n * n, dtype=A_nn.dtype) - torch.kron(A_nn, A_nn), Q_nn.flatten()).view(n, n)


def textbook(decay: float, B_nj: Tensor, C_kn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Square-root balanced truncation of (decay I, B, C): Hankel values, and both projections, one direction a row."""
    A_nn = decay * torch.eye(len(B_nj), dtype=B_nj.dtype)
    Lc_nn, Lo_nn = (torch.linalg.cholesky(lyapunov(A_nn, Q_nn)) for Q_nn in (B_nj @ B_nj.T, C_kn.T @ C_kn))
    U_nr, S_r, Vh_rn = torch.linalg.svd(Lo_nn.T @ Lc_nn)
    root_r1 = S_r.sqrt()[:, None]
    return S_r, U_nr.T @ Lo_nn.T / root_r1, Vh_rn @ Lc_nn.T / root_r1


def test_a_time_invariant_mixer_gets_the_textbook_reduction():
    """One impulse per input of an LTI system, B, C, a and dt constant in each sequence: the empirical Gramians are the
    system's up to a factor, and so are the directions and the Hankel values."""
    n, steps, decay, dt = 5, 200, 0.8, 0.5
    random = torch.Generator().manual_seed(7)
    B_nj, C_kn = torch.randn(2, n, n, generator=random, dtype=torch.float64)
    x_blhp = torch.zeros(n, steps, 1, 1, dtype=torch.float64)
    x_blhp[:, 0] = 1 / dt
    dt_blh, A_h = torch.full_like(x_blhp[..., 0], dt), torch.tensor([decay], dtype=torch.float64).log() / dt
    B_blgn, C_blgn = (rows_bn[:, None, None].expand(n, steps, 1, n) for rows_bn in (B_nj.T, C_kn))
    Wc_gnn, Wo_gnn = gramians([MixerInputs(x_blhp, x_blhp, dt_blh, A_h, B_blgn, C_blgn, A_h)])
    hankel_gn, B_gnn, C_gnn = balance(Wc_gnn, Wo_gnn)
    hankel_r, T_rn, inverse_rn = textbook(decay, B_nj, C_kn)
    # Ours: Wc is a mean over n * steps, Wo over n, and without the textbook's 1 / (1 - decay^2), one factor for all.
    factor = n * (steps / (1 - decay**2)) ** 0.5
    assert_close(hankel_gn[0] * factor, hankel_r, rtol=1e-5, atol=0)
    for kept in range(1, n):
        expected_nn = inverse_rn[:kept].T @ T_rn[:kept]
        assert_close(C_gnn[0, :kept].T @ B_gnn[0, :kept], expected_nn, rtol=0, atol=1e-4)


def test_dead_channels_come_last_and_harm_nothing():
    inputs = double(INPUTS)
    alive_n = torch.arange(D_STATE) < D_STATE - 4
    never_written = inputs._replace(B_blgn=inputs.B_blgn * alive_n)
    never_read = inputs._replace(C_blgn=inputs.C_blgn * alive_n)
    neither = never_written._replace(C_blgn=inputs.C_blgn * alive_n.flip(0))
    for dead, directions in ((never_written, 8), (never_read, 8), (neither, 8)):
        basis, y_blhp = balance(*gramians([dead])), output(dead)
        assert all(bool(part.isfinite().all()) for part in basis)
        assert bool((basis.hankel_gn[:, directions:] == 0).all()) and bool((basis.hankel_gn[:, 0] > 0).all())
        assert_close(output(dead, basis, directions), y_blhp, rtol=0, atol=1e-6 * y_blhp.abs().max().item())
        assert_close(output(dead, basis), y_blhp, rtol=0, atol=1e-9 * y_blhp.abs().max().item())


@pytest.mark.parametrize("nothing", ["Wc", "Wo", "both"])
def test_gramians_of_nothing(nothing: str):
    Wc_gnn, Wo_gnn = random_gramians(2)
    basis = balance(Wc_gnn * (nothing == "Wo"), Wo_gnn * (nothing == "Wc"))
    assert bool((basis.hankel_gn == 0).all())
    assert_close(basis.B_gnn[0] @ basis.C_gnn[0].T, torch.eye(6, dtype=torch.float64))


def test_low_rank_is_found():
    hankel_gn, *_ = balance(*random_gramians(3, rank=2))
    assert bool((hankel_gn[0, :2] > 0).all()) and bool((hankel_gn[0, 2:] == 0).all())


def test_half_precision_storage_loses_no_more_than_its_own_rounding():
    y_blhp = output(INPUTS)
    basis = balance(*gramians([INPUTS]))
    for dtype in (torch.float16, torch.bfloat16):
        stored = Balanced(basis.hankel_gn, basis.B_gnn.to(dtype), basis.C_gnn.to(dtype))
        error = (output(INPUTS, stored) - y_blhp).norm() / y_blhp.norm()
        assert error < 4 * torch.finfo(dtype).eps


def test_the_same_gramians_give_the_same_bytes_and_groups_do_not_mix():
    Wc_gnn, Wo_gnn = gramians([INPUTS])
    basis, again = balance(Wc_gnn, Wo_gnn), balance(Wc_gnn.clone(), Wo_gnn.clone())
    for part, other in zip(basis, again, strict=True):
        assert torch.equal(part, other)
    for group in range(GROUPS):
        alone = balance(Wc_gnn[group, None], Wo_gnn[group, None])
        assert torch.equal(alone.B_gnn[0], basis.B_gnn[group])
    peaks = basis.B_gnn.gather(-1, basis.B_gnn.abs().argmax(-1, keepdim=True))
    assert bool((peaks > 0).all())


@pytest.mark.parametrize(
    ("energy", "round_to", "rank"), [(0.5, 1, 1), (0.95, 1, 2), (0.95, 4, 4), (1.0, 1, 3), (1.0, 16, 6), (0.999, 1, 3)]
)
def test_the_smallest_rank_serves_every_layer(energy: float, round_to: int, rank: int):
    steep = torch.tensor([[3.0, 0, 0, 0, 0, 0], [1.0, 0, 0, 0, 0, 0]])
    slow = torch.tensor([[4.0, 1.0, 0.5, 0, 0, 0], [4.0, 2.0, 0.5, 0, 0, 0]])  # squares add up to 37.5: 32, 5, 0.5
    assert smallest_rank([steep, slow], energy, round_to) == rank


def test_the_smallest_rank_of_a_layer_that_does_nothing():
    assert smallest_rank([torch.zeros(1, 8)], 0.99, 1) == 1
