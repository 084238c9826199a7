"""Exact energies against one mixer forward, and against the step recurrence."""

from typing import Any

import torch

from bench.measure import medians
from ghost.mixer import MixerLayout, mixer_forward, mixer_inputs
from ghost.ssd import energies, recurrence

BATCH, LENGTH = 8, 512
LAYOUT = MixerLayout(d_model=768, nheads=24, headdim=64, n_groups=1, d_state=128, d_conv=4, norm_eps=1e-5)
ROUNDS = 9


@torch.inference_mode()
def run(device: str) -> dict[str, Any]:
    """Seconds and ratios for batch 8, length 512 of mamba2-130m's mixer in fp32."""
    torch.manual_seed(0)
    weights = {name: torch.randn(size, device=device) * 0.05 for name, size in LAYOUT.shapes().items()}
    hidden = torch.randn(BATCH, LENGTH, LAYOUT.d_model, device=device)
    _, x, dt, A, B, C, _ = mixer_inputs(LAYOUT, weights, hidden)
    contestants = {
        "mixer forward": lambda: mixer_forward(LAYOUT, weights, hidden),
        "exact energies": lambda: energies(x, dt, A, B, C),
    }
    seconds = medians(contestants, ROUNDS) | medians({"step recurrence": lambda: recurrence(x, dt, A, B, C)}, 2)
    return {
        "seconds": seconds,
        "energies / mixer forward": seconds["exact energies"] / seconds["mixer forward"],
        "step recurrence / energies": seconds["step recurrence"] / seconds["exact energies"],
    }
