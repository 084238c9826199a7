"""Every figure of every channel, packed for the page's script: two bytes a figure, one bit a choice.

A model of 64 layers in 8 groups has 65,536 channels; as floats in JSON they would not fit on a page.
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from ghost.report.layers import ENERGIES, NORMS, LayerView
from ghost.report.proxy_gap import ProxyGap, highest, proxy_gap

STEPS = 2**16 - 2
"""Steps of the log scale between the smallest and the largest figure of a kind; 0 stands for 0."""


def pack(layers: Sequence[LayerView]) -> dict[str, Any]:
    """What unpack.js decodes; channels in the order layer, group, channel. Figures of 0 and less become 0.

    ValueError where the layers don't have the same shape.
    """
    shapes = {view.saliency_gn.shape for view in layers}
    if len(shapes) > 1:
        raise ValueError(f"the layers have shapes {sorted(shapes)}; give layers of one model")
    groups, d_state = shapes.pop()
    bits = {"kept": _stacked(view.kept_gn for view in layers)} | _rankings(layers)
    return {
        "layers": [view.layer for view in layers],
        "groups": groups,
        "d_state": d_state,
        "columns": {name: _column(values) for name, values in channel_figures(layers).items()},
        "bits": {name: _base64(np.packbits(values)) for name, values in bits.items()},
    }


def whole_gap(layers: Sequence[LayerView]) -> ProxyGap | None:
    """The proxy gap over all channels of all layers at the mean count kept; None without norms and energies."""
    if not has_gap(layers):
        return None
    return proxy_gap(_norms(layers), _measured(layers, "energy"), _kept(layers))


def channel_figures(layers: Sequence[LayerView]) -> dict[str, np.ndarray]:
    """What the run has of every layer, by name: each (layers * n_groups, d_state)."""
    common = [name for name in (*ENERGIES, *NORMS) if all(name in view.measured for view in layers)]
    return {"saliency": _stacked(view.saliency_gn for view in layers)} | {n: _measured(layers, n) for n in common}


def _rankings(layers: Sequence[LayerView]) -> dict[str, np.ndarray]:
    """What norms and what energy would keep in each group, at the mean count kept."""
    if not has_gap(layers):
        return {}
    scores = {"by_norm": _norms(layers), "by_energy": _measured(layers, "energy")}
    return {name: highest(score, _kept(layers)) for name, score in scores.items()}


def has_gap(layers: Sequence[LayerView]) -> bool:
    """Whether the run has norms and energies of every layer."""
    return all({"energy", *NORMS} <= set(view.measured) for view in layers)


def _kept(layers: Sequence[LayerView]) -> int:
    kept_gn = _stacked(view.kept_gn for view in layers)
    return max(1, round(kept_gn.sum() / len(kept_gn)))


def _norms(layers: Sequence[LayerView]) -> np.ndarray:
    return _measured(layers, "norm_b") * _measured(layers, "norm_c")


def _measured(layers: Sequence[LayerView], name: str) -> np.ndarray:
    return _stacked(view.measured[name] for view in layers)


def _stacked(arrays: Any) -> np.ndarray:
    return np.concatenate(list(arrays))


def _column(values: np.ndarray) -> dict[str, Any]:
    """Little-endian uint16: q = 0 is 0, other q are exp(low + (q - 1) step)."""
    positive = values > 0
    logs = np.log(values, where=positive, out=np.zeros(values.shape))
    low, high = (float(of(logs[positive])) if positive.any() else 0.0 for of in (np.min, np.max))
    step = (high - low) / STEPS
    steps = np.rint((logs - low) / step) if step else np.zeros(values.shape)
    return {"low": low, "step": step, "data": _base64(np.where(positive, steps + 1, 0).astype("<u2"))}


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()
