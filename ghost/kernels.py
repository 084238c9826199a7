"""The convolution and the recurrence of a mixer: by kernels made for them where there are some, else in plain torch.

mamba-ssm and causal-conv1d have them for GPUs. They compute in half precision with what goes in in half precision, so
they serve forwards without gradients in that precision and nothing else: statistics, gradients and fp32 stay plain.
The plain form is what tests hold them against.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ghost.errors import GhostWarning, reason
from ghost.ssd import ssd

HOMES = {"mamba_chunk_scan_combined": "mamba_ssm.ops.triton.ssd_combined", "causal_conv1d_fn": "causal_conv1d"}
PACKAGES = {"mamba_ssm": "mamba-ssm", "causal_conv1d": "causal-conv1d"}
DEVICES, DTYPES, CHUNK = ("cuda",), (torch.bfloat16, torch.float16), 256
TAPS = (2, 3, 4)
"""For which causal-conv1d has kernels."""


def scan(
    x_blhp: Tensor,
    dt_blh: Tensor,
    A_h: Tensor,
    B_blgn: Tensor,
    C_blgn: Tensor,
    D_h: Tensor | None = None,
    *,
    state_bhpn: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `ghost.ssd.ssd`: y (b, l, h, p) and the state after the last step (b, h, p, n), both fp32 for half inputs."""
    kernel = _kernel("mamba_chunk_scan_combined", x_blhp)
    if kernel is None or not B_blgn.shape[-1]:
        return ssd(x_blhp, dt_blh, A_h, B_blgn, C_blgn, D_h, state_bhpn=state_bhpn)
    y_blhp, left_bhpn = kernel(
        x_blhp, dt_blh, A_h, B_blgn.to(x_blhp.dtype), C_blgn.to(x_blhp.dtype), CHUNK,
        D=D_h, initial_states=state_bhpn, return_final_states=True,
    )  # fmt: skip
    return y_blhp.float(), left_bhpn.float()


def conv_silu(x_blc: Tensor, weight_c1k: Tensor, bias_c: Tensor | None) -> Tensor:
    """SiLU of the depthwise causal convolution along l, in the dtype of x."""
    kernel = _kernel("causal_conv1d_fn", x_blc)
    alike = weight_c1k.dtype == x_blc.dtype and (bias_c is None or bias_c.dtype == x_blc.dtype)
    if kernel is None or not alike or weight_c1k.shape[-1] not in TAPS:
        return F.silu(causal_conv(x_blc, weight_c1k, bias_c))
    # Channels first: with channels last, the kernel wants widths that divide by 8, and pruned ones often don't.
    return kernel(x_blc.transpose(1, 2).contiguous(), weight_c1k[:, 0], bias_c, activation="silu").transpose(1, 2)


def causal_conv(x_blc: Tensor, weight_c1k: Tensor, bias_c: Tensor | None) -> Tensor:
    """Depthwise causal convolution along l, one multiply-add per tap: no transposes of (b, l, c). Adds up in fp32."""
    length, taps = x_blc.shape[1], weight_c1k.shape[-1]
    wide = torch.promote_types(x_blc.dtype, torch.float32)
    padded, taps_kc = F.pad(x_blc.to(wide), (0, 0, taps - 1, 0)), weight_c1k[:, 0].to(wide).T
    out = padded[:, taps - 1 :] * taps_kc[-1]
    if bias_c is not None:
        out += bias_c
    for k in range(taps - 1):
        out.addcmul_(padded[:, k : k + length], taps_kc[k])
    return out.to(x_blc.dtype)


def versions() -> dict[str, str]:
    """Of the packages whose kernels a GPU computes with: other versions may round otherwise."""
    found = {home.partition(".")[0] for name, home in HOMES.items() if _found(name)}
    return {PACKAGES[package]: version(PACKAGES[package]) for package in sorted(found)}


@contextmanager
def exact_products() -> Iterator[None]:
    """Inside, a GPU multiplies fp32 matrices in fp32: TF32 has 10 bits, and energies are sums of squares. Whatever the
    user has chosen for the rest of the program holds again afterwards."""
    matmul = torch.backends.cuda.matmul
    chosen, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = chosen


def _kernel(name: str, x: Tensor) -> Callable[..., Any] | None:
    """The kernel, where it serves for this input."""
    serves = x.device.type in DEVICES and x.dtype in DTYPES and not torch.is_grad_enabled()
    return _found(name) if serves else None


@cache
def _found(name: str) -> Callable[..., Any] | None:
    package = HOMES[name].partition(".")[0]
    if find_spec(package) is None:
        return None
    try:
        return getattr(import_module(HOMES[name]), name)
    except Exception as error:
        why = f"{PACKAGES[package]} is installed, but its kernel can't be used ({reason(error)}); computing without it"
        warnings.warn(why, GhostWarning, stacklevel=2)
        return None
