"""The checkpoint that comes out: an ordinary transformers folder with a smaller state size."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ghost.checkpoint.companions import PROVENANCE, is_tokenizers
from ghost.checkpoint.families import family_of
from ghost.checkpoint.source import Checkpoint, mixer_prefix
from ghost.checkpoint.writer import Planned, write_json, write_weights
from ghost.mixer import PROJECTIONS, MixerLayout, Weights
from ghost.surgery import pad_mixer

LOAD_AS_STORED = {"rescale_prenorm_residual": False}
"""A flag for initialising; transformers 5.23 applies it to out_proj whenever it loads, which changes the model."""


def export(
    source: Checkpoint,
    mixer: Callable[[int], Weights],
    layout: MixerLayout,
    folder: Path,
    provenance: Mapping[str, Any],
    *,
    tokenizer: Mapping[str, bytes] | None = None,
) -> None:
    """Write the pruned model to `folder`: config with the new state size, safetensors in the source's dtype, tokenizer
    and what else lies beside the weights carried over, ghost.json with where it comes from.

    `mixer` gives each layer's pruned tensors, and is asked once for each. Layers that are narrower than `layout` are
    padded with zeros to it, since no runtime takes a state size per layer. Where it is projected, the folder carries
    the code that runs it. `tokenizer` has the files of another tokenizer, which take the place of all of the source's.
    """
    write_weights(folder, _plan(source, mixer, layout))
    write_json(folder / "config.json", source.raw_config | changed_config(source, layout))
    if layout.projected_from:
        from ghost.modeling import SOURCE

        shutil.copyfile(SOURCE, folder / SOURCE.name)
    _copy_companions(source, folder, tokenizer)
    write_json(folder / PROVENANCE, dict(provenance))


def _copy_companions(source: Checkpoint, folder: Path, tokenizer: Mapping[str, bytes] | None) -> None:
    for path in source.companions():
        name = path.relative_to(source.folder).as_posix()
        if tokenizer is None or not is_tokenizers(name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    for name, data in (tokenizer or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def changed_config(source: Checkpoint, layout: MixerLayout) -> dict[str, Any]:
    """What the config of the pruned model says otherwise than its source's."""
    changed = {family_of(source.config).state_size_field: layout.d_state} | LOAD_AS_STORED
    if not layout.projected_from:
        return changed
    from ghost.modeling import MODEL_TYPE, GhostMamba2ForCausalLM, auto_map

    named = {"model_type": MODEL_TYPE, "architectures": [GhostMamba2ForCausalLM.__name__], "auto_map": auto_map()}
    return changed | named | {"projected_from": layout.projected_from}


def _plan(source: Checkpoint, mixer: Callable[[int], Weights], layout: MixerLayout) -> Iterator[Planned]:
    for name in source.others():
        yield Planned(name, source.shape(name), source.dtype(name), partial(source.tensor, name))

    @lru_cache(maxsize=1)
    def padded(layer: int) -> dict[str, Tensor]:
        return pad_mixer(layout, mixer(layer))

    for layer in range(source.layers):
        prefix = mixer_prefix(layer)
        for name, shape in layout.shapes().items():
            like = prefix + ("in_proj.weight" if name in PROJECTIONS else name)
            yield Planned(prefix + name, shape, source.dtype(like), partial(_taken, padded, layer, name))


def _taken(mixer: Callable[[int], Weights], layer: int, name: str) -> Tensor:
    return mixer(layer)[name]
