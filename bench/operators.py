"""How many operators one layer asks a GPU for: a mixer's forward and its exact energies, on 2,048 tokens.

Counted on meta tensors, which take the path that a GPU's take, its piece size included, and compute nothing. Views
launch nothing and are not counted. A CUDA kernel is launched for each of the others, seldom more; for some, none.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.random_checkpoint import REAL
from ghost.mixer import MixerLayout, mixer_inputs, mixer_output
from ghost.ssd import energies, ssd

TOKENS = {"one window": (1, 2048), "eight windows": (8, 256)}


class Operators(TorchDispatchMode):
    """Inside, counts every operator that is no view."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func is not torch.ops.aten._unsafe_view.default:
            self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def run(device: str) -> dict[str, Any]:
    """By shape and length of the windows; the device is not asked for anything."""
    return {shape: {name: counted(layout(shape), *size) for name, size in TOKENS.items()} for shape in REAL}


def layout(shape: str) -> MixerLayout:
    """The mixer of a model of `shape`."""
    d_model, _ = REAL[shape]
    return MixerLayout(
        d_model=d_model, nheads=2 * d_model // 64, headdim=64, n_groups=1, d_state=128, d_conv=4, norm_eps=1e-5
    )


@torch.no_grad()  # not inference_mode, in which composite operators are counted as one
def counted(layout: MixerLayout, rows: int, length: int) -> dict[str, int]:
    """Operators of a layer, of its energies, and of both together, on `rows` windows of `length` tokens."""
    weights: dict[str, Tensor] = {name: torch.empty(size, device="meta") for name, size in layout.shapes().items()}
    hidden_blm = torch.empty(rows, length, layout.d_model, device="meta")
    with Operators() as forward:
        inputs = mixer_inputs(layout, weights, hidden_blm)
        y_blhp, _ = ssd(*inputs[1:])
        mixer_output(layout, weights, y_blhp, inputs.z)
    with Operators() as statistics:
        energies(*inputs[1:6])
    counts = {"forward": forward.counts.total(), "energies": statistics.counts.total()}
    return counts | {"both": sum(counts.values())}
