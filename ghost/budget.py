"""How much is computed, and held, at once. Memory beside the model's weights follows from it, and so does rounding: a
product of more rows is added up in another order. So what a run computes with is fixed when it opens, and is the same
when it is opened again: of a GPU all memory counts, and not what happens to be free.
"""

import torch

from ghost.config import free_bytes
from ghost.mixer import MixerLayout

BATCH_TOKENS = 2048
"""On a CPU, whose caches gain nothing from more."""
BATCH_SHARE, MOST_TOKENS = 1 / 128, 1 << 14
"""Of a GPU's memory, for what a batch's tokens take; more tokens than that gain nothing there either."""
HELD_BYTES, HELD_SHARE = 1 << 30, 1 / 4
"""Most that is held of what could be computed again: on a CPU, and of what is free on a GPU that has room for all
weights. On one that has not, nothing is held."""
COPIES, FP32 = 3, 4
"""Results of one operation that are there at once: its own, what it was given, and what the next one makes."""


def resolve_batch_tokens(asked: int | None, layout: MixerLayout, device: torch.device) -> int:
    """Tokens that are computed at once: those `asked` for, else what the device is good for."""
    if asked is not None or device.type == "cpu":
        return asked or BATCH_TOKENS
    return tokens_within(torch.cuda.get_device_properties(device).total_memory, layout)


def tokens_within(total_bytes: int, layout: MixerLayout) -> int:
    """A power of two, so that GPUs of a kind agree, whatever their drivers keep to themselves."""
    tokens = max(1, int(BATCH_SHARE * total_bytes / token_bytes(layout)))
    return min(MOST_TOKENS, max(BATCH_TOKENS, 1 << tokens.bit_length() - 1))


def token_bytes(layout: MixerLayout) -> int:
    """Of a token's intermediate results in a mixer around its recurrence, which computes in fp32."""
    return COPIES * FP32 * (sum(layout.conv_sections) + layout.d_inner)


def bytes_to_hold(device: torch.device, *, resident: bool) -> int:
    """Most that may be held of what could be computed again; nothing else depends on it."""
    if device.type == "cpu":
        return HELD_BYTES
    return int(HELD_SHARE * free_bytes(device)) if resident else 0
