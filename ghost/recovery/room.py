"""What the calibration tokens take in memory for as long as a layer is worked on, whatever the batches are."""

import torch

from ghost.budget import FP32
from ghost.checkpoint.sizes import GB
from ghost.config import free_bytes
from ghost.errors import SettingsError
from ghost.mixer import MixerLayout
from ghost.recovery.pairs import FITTED_MOST, HELD_MOST


def calibration_bytes(layout: MixerLayout, dtype: torch.dtype, tokens: int, recovery: str) -> int:
    """The residual stream, which some families keep in fp32. With recovery also what the mixer is given; with `fit`
    what that can't move and what it should come to, of the tokens that it looks at; with another one the dense model's
    stream, and what the mixer should put out."""
    stream, numbers = FP32 * layout.d_model, dtype.itemsize * layout.d_model
    if recovery == "none":
        return tokens * stream
    if recovery == "fit":
        fixed = dtype.itemsize * (3 * layout.d_inner + layout.d_model) + FP32 * layout.nheads
        return tokens * (stream + numbers) + min(tokens, FITTED_MOST + HELD_MOST) * fixed
    return tokens * 2 * (stream + numbers)


def check_room(layout: MixerLayout, device: torch.device, dtype: torch.dtype, tokens: int, recovery: str) -> None:
    """SettingsError where so many calibration tokens alone are more than what is free on the device."""
    taken, free = calibration_bytes(layout, dtype, tokens, recovery), free_bytes(device)
    if taken > free:
        asked, other = ("", "") if recovery == "none" else (f" with recovery {recovery}", ", or --recovery none")
        raise SettingsError(
            f"{tokens:,} calibration tokens{asked} take {taken / GB:.3g} GB, and {free / GB:.3g} GB are free on "
            f"{device}; give a smaller --samples or --length{other}"
        )
