"""The checkpoint that comes out: an ordinary transformers folder with a smaller state size."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ghost.checkpoint.families import family_of
from ghost.checkpoint.source import Checkpoint, mixer_prefix
from ghost.checkpoint.writer import Planned, write_json, write_weights
from ghost.mixer import MixerLayout, Weights
from ghost.surgery import pad_mixer

PROVENANCE = "ghost.json"
LOAD_AS_STORED = {"rescale_prenorm_residual": False}
"""A flag for initialising; transformers 5.23 applies it to out_proj whenever it loads, which changes the model."""


def export(
    source: Checkpoint, mixer: Callable[[int], Weights], d_state: int, folder: Path, provenance: Mapping[str, Any]
) -> None:
    """Write the pruned model to `folder`: config with the new state size, safetensors in the source's dtype, tokenizer
    and generation files carried over, ghost.json with where it comes from.

    `mixer` gives each layer's pruned tensors; layers narrower than `d_state` are padded with zeros to it, since no
    runtime takes a state size per layer.
    """
    layout = replace(source.mixer_layout, d_state=d_state)
    write_weights(folder, _plan(source, mixer, layout))
    changed = {family_of(source.config).state_size_field: d_state} | LOAD_AS_STORED
    write_json(folder / "config.json", source.raw_config | changed)
    for path in source.companions():
        shutil.copyfile(path, folder / path.name)
    write_json(folder / PROVENANCE, dict(provenance))


def _plan(source: Checkpoint, mixer: Callable[[int], Weights], layout: MixerLayout) -> Iterator[Planned]:
    for name in source.others():
        yield Planned(name, source.shape(name), source.dtype(name), partial(source.tensor, name))

    @lru_cache(maxsize=1)
    def padded(layer: int) -> dict[str, Tensor]:
        return pad_mixer(layout, mixer(layer))

    for layer in range(source.layers):
        for name, shape in layout.shapes().items():
            if source.has(full := mixer_prefix(layer) + name):
                yield Planned(full, shape, source.dtype(full), lambda layer=layer, name=name: padded(layer)[name])
