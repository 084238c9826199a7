"""What one sequence costs in a runtime: its recurrent state, what the convolutions keep, and what attention keeps of
every token; and what the weights take. By shapes alone."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from ghost.checkpoint.names import Names
from ghost.mixer import MixerLayout
from ghost.serving.runtimes import Runtime

KEPT = ("k_proj.weight", "v_proj.weight")
"""What makes a token's keys and values; a row is a number that is kept."""


@dataclass(frozen=True)
class Model:
    """What a runtime is given, as far as it matters here."""

    family: str
    layout: MixerLayout
    mixers: int
    caches: tuple[int, ...]
    """Numbers that each layer with attention keeps of a token."""
    elements: int
    """Of all weights; tied ones count once."""
    positions: int | None
    """The config's max_position_embeddings."""

    def with_state(self, d_state: int) -> "Model":
        """The same model pruned to so many channels in a group."""
        layout = replace(self.layout, d_state=d_state)
        gone = self.mixers * (_mixer_elements(self.layout) - _mixer_elements(layout))
        return replace(self, layout=layout, elements=self.elements - gone)


def model_of(config: Any, layout: MixerLayout, names: Names) -> Model:
    """The model of a config; `names` have every shape that transformers gives it."""
    shapes, layers = names.shapes, f"{names.layers}."
    rows: dict[str, int] = {}
    for name, shape in shapes.items():
        if name.startswith(layers) and name.endswith(KEPT):
            index = name.removeprefix(layers).partition(".")[0]
            rows[index] = rows.get(index, 0) + shape[0]
    return Model(
        family=config.model_type,
        layout=layout,
        mixers=len(names.mixers),
        caches=tuple(rows.values()),
        elements=sum(math.prod(shape) for name, shape in shapes.items() if name not in names.tied),
        positions=getattr(config, "max_position_embeddings", None),
    )


class Sequence(NamedTuple):
    """Bytes that one sequence takes, with the precisions that make them so."""

    state: int
    state_dtype: torch.dtype
    conv: int
    conv_dtype: torch.dtype
    token: int
    """Of every token, in all layers with attention together; 0 without any."""
    token_dtype: torch.dtype

    @property
    def fixed(self) -> int:
        """However long it is."""
        return self.state + self.conv


def sequence(runtime: Runtime, model: Model, dtype: torch.dtype) -> Sequence:
    """What a sequence takes where the runtime computes in `dtype`: elements times bytes, per mixer

    recurrent state     nheads headdim N
    convolution         (d_inner + 2 n_groups N) (d_conv - last_taps)

    Where that stands in the runtime's source: `Runtime.source`.
    """
    layout = model.layout
    state_dtype = _precision(runtime.state_of.get(model.family, runtime.state), dtype)
    conv_dtype, token_dtype = _precision(runtime.conv, dtype), _precision(runtime.cache, dtype)
    taps = layout.d_conv - runtime.last_taps
    return Sequence(
        state=model.mixers * layout.state_elements * state_dtype.itemsize,
        state_dtype=state_dtype,
        conv=model.mixers * sum(layout.conv_sections) * taps * conv_dtype.itemsize,
        conv_dtype=conv_dtype,
        token=sum(model.caches) * token_dtype.itemsize,
        token_dtype=token_dtype,
    )


def _precision(own: str | None, computed: torch.dtype) -> torch.dtype:
    return computed if own is None else getattr(torch, own)


def _mixer_elements(layout: MixerLayout) -> int:
    return sum(math.prod(shape) for shape in layout.shapes().values())
