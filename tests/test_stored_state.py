"""States that are stored in fewer bits, against a recurrence of single steps that casts where a server would."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ghost.checkpoint.source import open_checkpoint
from ghost.errors import SettingsError
from ghost.mixer import MixerInputs, mixer_output
from ghost.ssd import ssd
from ghost.stack import Stack
from ghost.stored_state import StoredState, parse_dtypes
from tests.hybrids import make_hybrid
from tests.models import make_model, random_tokens
from tests.test_ssd import draw, draw_state

CPU, FP8 = torch.device("cpu"), torch.float8_e4m3fn
CASTS: dict[torch.dtype, Callable[[Tensor], Tensor]] = {
    torch.float32: lambda row: row,
    torch.bfloat16: lambda row: row.to(torch.bfloat16).to(row.dtype),
    torch.float16: lambda row: row.to(torch.float16).to(row.dtype),
    torch.int8: lambda row: (row * 127 / row.abs().max()).round().to(torch.int8).to(row.dtype) * row.abs().max() / 127,
    FP8: lambda row: (row * 448 / row.abs().max()).to(FP8).to(row.dtype) * row.abs().max() / 448,
}
"""What becomes of one row of a state, the N channels of a head and a channel of headdim."""


def stepwise(inputs: tuple[Tensor, ...], state_bhpn: Tensor, dtype: torch.dtype, every: int) -> tuple[Tensor, Tensor]:
    """y and the last state, a step at a time; the state is cast, row by row, after every `every` steps and the last."""
    x_blhp, dt_blh, A_h, B_blgn, C_blgn, D_h = inputs
    heads, length, outputs = x_blhp.shape[2] // B_blgn.shape[2], x_blhp.shape[1], []
    B_blhn, C_blhn = (t.repeat_interleave(heads, 2) for t in (B_blgn, C_blgn))
    for t in range(length):
        u_bhp, a_bh = dt_blh[:, t, :, None] * x_blhp[:, t], (dt_blh[:, t] * A_h).exp()
        state_bhpn = a_bh[:, :, None, None] * state_bhpn + u_bhp.unsqueeze(-1) * B_blhn[:, t].unsqueeze(2)
        outputs.append((state_bhpn * C_blhn[:, t].unsqueeze(2)).sum(-1) + D_h[:, None] * x_blhp[:, t])
        if (t + 1) % every == 0 or t + 1 == length:
            rows = state_bhpn.flatten(0, 2).unbind()
            state_bhpn = torch.stack([CASTS[dtype](row) for row in rows]).view_as(state_bhpn)
    return torch.stack(outputs, 1), state_bhpn


@pytest.mark.parametrize("dtype", CASTS, ids=str)
@pytest.mark.parametrize("every", [1, 8, 64])
def test_a_stored_state_is_that_of_single_steps_with_casts(dtype: torch.dtype, every: int):
    inputs, state_bhpn = draw().to(torch.float64), draw_state(2, 4, 3, 5).double()
    found = ssd(*inputs, chunk=every, state_bhpn=state_bhpn, stored=StoredState(dtype, every))
    assert_close(found, stepwise(inputs, state_bhpn, dtype, every), rtol=1e-9, atol=1e-9)
    lost = (found[0] - ssd(*inputs, state_bhpn=state_bhpn)[0]).abs().max()
    assert (lost > 1e-4) == (dtype != torch.float32 and every < 21)


@pytest.mark.parametrize("dtype", CASTS, ids=str)
def test_each_row_is_off_by_half_a_step_of_its_own_largest_number_at_most(dtype: torch.dtype):
    H_bgnrp = torch.randn(2, 1, 5, 2, 6, generator=torch.Generator().manual_seed(0))
    H_bgnrp[..., 0], H_bgnrp[..., 1], H_bgnrp[:, :, 3, :, 3] = 0.0, 1e-44, -9.0
    H_bgnrp[..., 2] *= 1e4
    once = StoredState(dtype, 1)(H_bgnrp)
    half_step = {torch.float32: 0.0, torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.int8: 0.5 / 127, FP8: 16 / 448}
    off = (once - H_bgnrp).abs() - 1.001 * half_step[dtype] * H_bgnrp.abs().amax(2, keepdim=True)
    assert bool((off[..., [0, 2, 3, 4, 5]] <= 0).all()) and bool((once[..., :2].abs() <= 1e-40).all())
    assert_close(StoredState(dtype, 1)(once), once, rtol=2e-7, atol=0)  # what was stored is read as it was


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", CASTS, ids=str)
def test_a_state_that_is_not_finite_is_not_finite_when_it_is_read(dtype: torch.dtype, value: float):
    H_bgnrp = torch.ones(1, 1, 3, 1, 2)
    H_bgnrp[0, 0, 1, 0, 0] = value
    found = StoredState(dtype, 1)(H_bgnrp)
    assert not bool(found[..., 0].isfinite().all()) and bool((found[..., 1] == 1).all())


def test_bytes_count_scales():
    sizes = {dtype: StoredState(dtype, 1).bytes(512, 32) for dtype in CASTS}
    assert list(sizes.values()) == [512 * 32 * 4, 512 * 32 * 2, 512 * 32 * 2, 512 * (32 + 4), 512 * (32 + 4)]


def test_an_unknown_precision_is_refused():
    assert parse_dtypes("int8, float32,int8") == (torch.int8, torch.float32)
    assert parse_dtypes("") == ()
    with pytest.raises(SettingsError, match=r"^state_dtype: 'int4' is no precision of a state; give some of float32, "):
        parse_dtypes("float32,int4")


@pytest.fixture(scope="module", params=["mamba2", "nemotron_h", "falcon_h1"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    folder = tmp_path_factory.mktemp(request.param)
    made = make_model(folder, n_groups=2) if request.param == "mamba2" else make_hybrid(folder, request.param)
    return Stack(open_checkpoint(made), CPU, torch.float32)


TOKENS = random_tokens(3, 70)


@torch.inference_mode()
def test_fp32_states_change_nothing(stack: Stack):
    plain = stack.run(TOKENS).hidden_blm
    assert torch.equal(stack.storing(StoredState(torch.float32, 64)).run(TOKENS).hidden_blm, plain)
    stack.storing(StoredState(torch.int8, 1)).run(TOKENS)
    assert torch.equal(stack.run(TOKENS).hidden_blm, plain)


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "every"), [(torch.bfloat16, 1), (torch.int8, 1), (FP8, 1), (FP8, 16)], ids=str)
def test_a_whole_model_stores_the_state_of_every_mixer(stack: Stack, dtype: torch.dtype, every: int):
    """In fp32 a state that lies between two numbers may be rounded to the other one, here and there."""
    found, plain = (s.run(TOKENS).hidden_blm for s in (stack.storing(StoredState(dtype, every)), stack))
    stream = stack.enter(TOKENS)
    for i in range(stack.layers):
        layer = stack.layer(i)
        if i not in stack.mixers:
            stream = stream.moved(layer.advance(stream))
            continue
        (inputs,) = layer.inputs(stream)
        y_blhp = _stored_output(inputs, dtype, every)
        stream = stream.moved(layer.leave(stream, mixer_output(layout := layer.layout, layer.mixer, y_blhp, inputs.z)))
        assert layout.d_state == inputs.B_blgn.shape[-1]
    lost = (plain - found).norm()
    assert lost > 1e-4 * plain.norm() and (stream.hidden_blm - found).norm() < 0.05 * lost


@torch.inference_mode()
@pytest.mark.parametrize(("every", "batch_tokens"), [(1, 37), (16, 1), (16, 37), (64, 37)])
def test_a_window_in_pieces_is_written_no_more_often(stack: Stack, every: int, batch_tokens: int):
    way, pieces = StoredState(torch.int8, every), Stack(stack.checkpoint, CPU, torch.float32, None, batch_tokens)
    found, at_once = (s.storing(way).run(TOKENS).hidden_blm for s in (pieces, stack))
    lost = (stack.run(TOKENS).hidden_blm - at_once).norm()
    assert lost and (found - at_once).norm() < 0.05 * lost


def _stored_output(inputs: MixerInputs, dtype: torch.dtype, every: int) -> Tensor:
    _, *recurrence = inputs
    x_blhp = inputs.x_blhp
    empty = torch.zeros(x_blhp.shape[0], *x_blhp.shape[2:], inputs.B_blgn.shape[-1])
    return stepwise(tuple(recurrence), empty, dtype, every)[0]


def test_fp8_rounds_as_torchs_cast_does():
    random = torch.Generator().manual_seed(0)
    exact = torch.arange(127, dtype=torch.uint8).view(FP8).float()
    between = (exact[1:] + exact[:-1]) / 2
    for row in (
        exact,
        between,
        between * (1 + 2e-7),
        between * (1 - 2e-7),
        2 ** (20 * torch.rand(5000, generator=random) - 11.3),
    ):
        H_bgnrp = torch.cat([row, -row, torch.tensor([448.0])])[None, None, :, None, None]
        assert torch.equal(StoredState(FP8, 1)(H_bgnrp), H_bgnrp.to(FP8).float())
