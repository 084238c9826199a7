"""The way to the kernels of mamba-ssm and causal-conv1d, taken on a CPU with stand-ins of the real signatures.

The kernels themselves need a GPU; `ghost bench cuda` runs them there.
"""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ghost import kernels
from ghost.errors import GhostWarning
from ghost.kernels import causal_conv, conv_silu, exact_products, scan
from ghost.mixer import MixerInputs
from ghost.saliency import coupling, energy, gramians, ranks
from ghost.settings import RunSettings
from ghost.ssd import ssd
from ghost.walk import walk
from tests.models import make_model, open_stack, random_tokens

BATCH, LENGTH, HEADS, HEADDIM, GROUPS, D_STATE = 2, 70, 4, 8, 2, 6


class Called:
    """What was asked of the stand-ins."""

    def __init__(self) -> None:
        self.scans = self.convolutions = 0

    def mamba_chunk_scan_combined(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, D: Tensor | None = None,
        z: None = None, dt_bias: None = None, initial_states: Tensor | None = None, seq_idx: None = None,
        cu_seqlens: None = None, dt_softplus: bool = False, dt_limit: tuple[float, float] = (0.0, float("inf")),
        return_final_states: bool = False, return_varlen_states: bool = False,
    ) -> Any:  # fmt: skip
        """As mamba_ssm 2.3 has it: all of one dtype but dt, A and D, y in the dtype of x."""
        assert x.dtype == B.dtype == C.dtype and A.dtype == dt.dtype == torch.float32 and chunk_size == 256
        assert dt.min() > 0 and not dt_softplus, "dt is through softplus already"
        self.scans += 1
        y, state = ssd(x, dt, A, B, C, D, state_bhpn=initial_states)
        return (y.to(x.dtype), state) if return_final_states else y.to(x.dtype)

    def causal_conv1d_fn(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, seq_idx: None = None,
        initial_states: None = None, return_final_states: bool = False, final_states_out: None = None,
        activation: str | None = None,
    ) -> Tensor:  # fmt: skip
        """As causal-conv1d 1.7 has it: (b, c, l) with channels first, weight (c, k)."""
        assert x.is_contiguous() and weight.ndim == 2 and activation == "silu"
        assert x.dtype == weight.dtype and (bias is None or bias.dtype == x.dtype) and 2 <= weight.shape[1] <= 4
        self.convolutions += 1
        padded = F.pad(x.float(), (weight.shape[1] - 1, 0))
        made = F.conv1d(padded, weight.float()[:, None], None if bias is None else bias.float(), groups=len(weight))
        return F.silu(made).to(x.dtype)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Iterator[Called]:
    """A machine that has both packages, and a CPU that counts as a GPU."""
    stand_in = Called()
    for name, home in kernels.HOMES.items():
        for part in (home.rpartition(".")[0], home.partition(".")[0], home):
            if part:
                module = ModuleType(part)
                module.__spec__ = sys.__spec__
                monkeypatch.setitem(sys.modules, part, module)
        setattr(sys.modules[home], name, getattr(stand_in, name))
    monkeypatch.setattr(kernels, "DEVICES", ("cpu",))
    kernels._found.cache_clear()
    yield stand_in
    kernels._found.cache_clear()


def recurrence(dtype: torch.dtype, n: int = D_STATE) -> tuple[Tensor, ...]:
    draws = torch.Generator().manual_seed(3)
    x, B, C = (
        torch.randn(BATCH, LENGTH, *size, generator=draws).to(dtype) for size in ((HEADS, HEADDIM), *[(GROUPS, n)] * 2)
    )
    dt = F.softplus(torch.randn(BATCH, LENGTH, HEADS, generator=draws))
    return x, dt, -torch.arange(1.0, HEADS + 1), B, C, torch.ones(HEADS)


@torch.inference_mode()
def test_the_scan_is_the_kernels_where_it_serves(called: Called) -> None:
    inputs, state_bhpn = recurrence(torch.bfloat16), torch.ones(BATCH, HEADS, HEADDIM, D_STATE)
    found, expected = scan(*inputs, state_bhpn=state_bhpn), ssd(*inputs, state_bhpn=state_bhpn)
    assert called.scans == 1 and [tensor.dtype for tensor in found] == [torch.float32] * 2
    assert found[0].equal(expected[0].bfloat16().float()) and found[1].equal(expected[1])


@pytest.mark.parametrize("case", ["fp32", "gradients", "no channels", "a device without kernels"])
def test_all_else_stays_plain(called: Called, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if case == "a device without kernels":
        monkeypatch.setattr(kernels, "DEVICES", ("cuda",))
    inputs = recurrence(torch.float32 if case == "fp32" else torch.bfloat16, 0 if case == "no channels" else D_STATE)
    with torch.set_grad_enabled(case == "gradients"):
        assert scan(*inputs)[0].equal(ssd(*inputs)[0])
    assert called.scans == 0


@torch.inference_mode()
@pytest.mark.parametrize("taps", [2, 4, 5])
@pytest.mark.parametrize("biased", [True, False])
def test_the_convolution_is_the_kernels_where_it_serves(called: Called, taps: int, biased: bool) -> None:
    x_blc, weight_c1k, bias_c = torch.randn(2, 9, 13), torch.randn(13, 1, taps), torch.randn(13) if biased else None
    half = x_blc.bfloat16(), weight_c1k.bfloat16(), None if bias_c is None else bias_c.bfloat16()
    found = conv_silu(*half)
    assert called.convolutions == (taps <= 4) and found.shape == x_blc.shape and found.dtype == torch.bfloat16
    torch.testing.assert_close(found, F.silu(causal_conv(*half)), rtol=0.02, atol=0.02)
    assert conv_silu(x_blc, weight_c1k, bias_c).equal(F.silu(causal_conv(x_blc, weight_c1k, bias_c)))
    assert conv_silu(half[0], weight_c1k, bias_c).dtype == torch.bfloat16  # weights that keep the file's precision
    assert called.convolutions == (taps <= 4)


def test_a_walk_in_bf16_takes_them_for_every_mixer(called: Called, tmp_path: Any) -> None:
    stack = open_stack(make_model(tmp_path / "model", layers=2), torch.bfloat16)
    settings = RunSettings(sparsity=0.5, round_to=1)
    results = list(walk(stack, random_tokens(3, 40, seed=1), settings))
    assert called.convolutions >= 2 and called.scans >= 1  # nobody asks what the last layer leaves
    energy_gn = results[0].statistics.energy_gn
    assert energy_gn is not None and energy_gn.dtype == torch.float64


def test_a_kernel_that_is_installed_and_broken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("causal_conv1d")
    module.__spec__ = sys.__spec__
    monkeypatch.setitem(sys.modules, "causal_conv1d", module)
    kernels._found.cache_clear()
    with pytest.warns(GhostWarning, match="causal-conv1d is installed, but its kernel can't be used .*AttributeError"):
        assert kernels._found("causal_conv1d_fn") is None
    kernels._found.cache_clear()


def test_without_the_packages_there_are_none_and_no_versions() -> None:
    kernels._found.cache_clear()
    assert all(kernels._found(name) is None for name in kernels.HOMES) and kernels.versions() == {}


@pytest.fixture
def in_tf32() -> Iterator[None]:
    """As a user may have chosen."""
    matmul = torch.backends.cuda.matmul
    usual, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    yield
    matmul.fp32_precision = usual


def test_statistics_are_added_up_in_fp32_and_the_users_choice_holds_afterwards(in_tf32: None) -> None:
    with pytest.raises(KeyError), exact_products():
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        raise KeyError
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"


SUMS = {
    "energies": energy._sums,
    "coupling": lambda x: coupling._sum(x, 4),
    "Gramians": lambda x: gramians._sums(x, 64),
    "ranks": ranks._weighted_energies,
}


@pytest.mark.parametrize("sums", SUMS.values(), ids=SUMS)
def test_no_statistic_asks_a_gpu_for_a_number_before_all_batches_are_done(sums: Any) -> None:
    """Tensors on the meta device have none to give: whatever reads a value, or copies to the CPU, fails."""
    x, dt, A, B, C, D = (tensor.to("meta") for tensor in recurrence(torch.float32))
    inputs = MixerInputs(x.flatten(2), x, dt, A, B, C, D)
    with pytest.raises((RuntimeError, NotImplementedError)):
        inputs.dt_blh.sum().item()
    sums(inputs)
