"""A recurrent state that is kept in fewer bits between steps, as servers keep it.

A server reads a sequence's state, computes in fp32, and writes the state back in the precision that it is stored in: in
decoding after every token, in prefill after every chunk. The outputs of a step, or chunk, come of the state before it
is written. `bfloat16` and `float16` are casts, as vLLM (`--mamba-ssm-cache-dtype`) and FlashInfer store them. `int8`
and `float8_e4m3fn` have one fp32 scale for each head and channel of headdim, over that row's N state channels: its
largest magnitude is the type's largest number (127, 448), as in FlashInfer's `checkpointing_ssu`. All round to the
nearest; FlashInfer's stochastic rounding is not here.

Where a server does better than this: vLLM's prefill keeps the running state in fp32 from chunk to chunk of one call,
and rounds what each chunk is entered with; FlashInfer's replay writes a state once in several decoded tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ghost.errors import SettingsError

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""Of the precisions that need a scale."""
DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16, *LARGEST)
}
SCALE_BYTES = 4
EXPONENT, SMALLEST_POWER = 0x7F800000, 2**-6
"""Bits of an fp32 number's exponent; float8_e4m3fn's smallest number of full precision."""


@dataclass(frozen=True)
class StoredState:
    """The precision of a stored state, and after how many steps of a sequence it is written (1: decoding)."""

    dtype: torch.dtype
    every: int

    def __call__(self, H_bgnrp: Tensor) -> Tensor:
        """What is read back of a state: the numbers that were written, in its own dtype. Of a state that is not finite,
        neither is what is read."""
        if self.dtype == torch.float32:
            return H_bgnrp
        if self.dtype not in LARGEST:
            return H_bgnrp.to(self.dtype).to(H_bgnrp.dtype)
        scale_bg1rp = _scale(H_bgnrp, LARGEST[self.dtype])
        written_bgnrp = H_bgnrp / scale_bg1rp
        if self.dtype == torch.int8:  # the whole numbers themselves: a cast would change nothing but nan
            return written_bgnrp.round_().mul_(scale_bg1rp)
        return _float8(written_bgnrp).mul_(scale_bg1rp)

    def piece(self, steps: int) -> int:
        """How many steps a piece of a sequence has where about so many are computed at once: it ends with a write."""
        return max(1, steps // self.every) * self.every

    def bytes(self, rows: int, d_state: int) -> int:
        """Of a state of so many rows (heads times headdim), scales included."""
        return rows * (d_state * self.dtype.itemsize + (SCALE_BYTES if self.dtype in LARGEST else 0))


def _float8(written: Tensor) -> Tensor:
    """The same numbers as a cast to float8_e4m3fn and back gives, which a CPU does one by one, eight times as slow:
    within a power of two they are eight steps apart, and below the smallest one as far as there."""
    power = (written.float().view(torch.int32) & EXPONENT).view(torch.float32).clamp_(min=SMALLEST_POWER)
    return (written / power).mul_(8).round_().div_(8).mul_(power)


def _scale(H_bgnrp: Tensor, largest: float) -> Tensor:
    """(b, g, 1, r, p). A row of zeros keeps them, by whatever scale."""
    tiny = torch.finfo(torch.float32).tiny
    return H_bgnrp.abs().amax(2, keepdim=True).div_(largest).clamp_(min=tiny)


def parse_dtypes(spec: str) -> tuple[torch.dtype, ...]:
    """The precisions of a comma-separated list, once each. SettingsError for one that states are not stored in."""
    names = [name for part in spec.split(",") if (name := part.strip())]
    for name in names:
        if name not in DTYPES:
            raise SettingsError(f"state_dtype: {name!r} is no precision of a state; give some of {', '.join(DTYPES)}")
    return tuple(dict.fromkeys(DTYPES[name] for name in names))
