"""The checkpoint that comes out: an ordinary transformers folder with a smaller state size."""

import shutil
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ghost.checkpoint.companions import CONFIG, PROVENANCE, is_tokenizers
from ghost.checkpoint.families import family_of
from ghost.checkpoint.fields import with_infinity
from ghost.checkpoint.names import spelled
from ghost.checkpoint.source import Checkpoint
from ghost.checkpoint.tokenizer import published
from ghost.checkpoint.writer import Planned, write_json, write_weights
from ghost.mixer import PROJECTIONS, MixerLayout, Weights
from ghost.selection import Selection
from ghost.surgery import pad_mixer

SAFETENSORS = ".safetensors"
KEPT = "kept_channels"
"""Under which ghost.json has them."""
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
    """Write the pruned model to `folder`: the source's files with other tensors in the pruned mixers' places, config
    with the new state size, tokenizer and what else lies beside the weights carried over, ghost.json with where it
    comes from. Names, shards and dtypes are the source's; what comes pickled goes out as safetensors.

    `mixer` gives each layer's pruned tensors, and is asked once for each. Layers that are narrower than `layout` are
    padded with zeros to it, since no runtime takes a state size per layer. Where it is projected, the folder carries
    the code that runs it. `tokenizer` has the files of another tokenizer, which take the place of all of the source's.
    """
    write_weights(folder, _plan(source, mixer, layout))
    write_json(folder / CONFIG, with_infinity(source.raw_config) | changed_config(source, layout))
    if layout.projected_from:
        from ghost.modeling import SOURCE

        shutil.copyfile(SOURCE, folder / SOURCE.name)
    copy_companions(source, folder, tokenizer)
    write_json(folder / PROVENANCE, dict(provenance))


def copy_companions(source: Checkpoint, folder: Path, tokenizer: Mapping[str, bytes] | None = None) -> None:
    """What travels with the weights, as transformers 4.57 reads it too; `tokenizer` takes the place of its own."""
    for path in source.companions():
        name = path.relative_to(source.folder).as_posix()
        if tokenizer is None or not is_tokenizers(name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(published(name, path.read_bytes()))
    for name, data in (tokenizer or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def kept_channels(layers: int, selections: Mapping[int, Selection]) -> list[list[list[int]] | None]:
    """For each decoder layer the channels that stay, by group; None for those without a mixer. What ghost.json says of
    a pruned model."""
    kept: list[list[list[int]] | None] = [None] * layers
    for i, selection in selections.items():
        kept[i] = [group_n.nonzero().flatten().tolist() for group_n in selection.kept_gn]
    return kept


def changed_config(source: Checkpoint, layout: MixerLayout) -> dict[str, Any]:
    """What the config of the pruned model says otherwise than its source's."""
    changed: dict[str, Any] = {family_of(source.config).state_size_field: layout.d_state}
    changed |= {name: value for name, value in LOAD_AS_STORED.items() if hasattr(source.config, name)}
    if not layout.projected_from:
        return changed
    from ghost.modeling import MODEL_TYPE, GhostMamba2ForCausalLM, auto_map

    named = {"model_type": MODEL_TYPE, "architectures": [GhostMamba2ForCausalLM.__name__], "auto_map": auto_map()}
    return changed | named | {"projected_from": layout.projected_from}


def _plan(source: Checkpoint, mixer: Callable[[int], Weights], layout: MixerLayout) -> dict[str, list[Planned]]:
    """The tensors of each file: those of mixers as they are now, all others as they were."""
    shards: dict[str, list[Planned]] = {as_safetensors(path.name): [] for path in source.tensors.files}
    mixers = {file: (i, own) for i in source.mixers for own, file in source.names.mixer(i).items()}
    repeated = () if all(path.suffix == SAFETENSORS for path in source.tensors.files) else source.repeated
    tensors, shapes = source.tensors, layout.shapes()

    @lru_cache(maxsize=1)
    def padded(layer: int) -> dict[str, Tensor]:
        return pad_mixer(layout, mixer(layer))

    def planned(file: str) -> Planned:
        if file not in mixers:
            return Planned(spelled(file), tensors.shapes[file], tensors.dtypes[file], partial(_loaded, source, file))
        i, own = mixers[file]
        return Planned(spelled(file), shapes[own], tensors.dtypes[file], partial(_taken, padded, i, own), i)

    for file, path in tensors.home.items():
        if file not in repeated:
            shards[as_safetensors(path.name)].append(planned(file))
    for i, own in ((i, own) for i in source.mixers for own in PROJECTIONS if own in shapes):
        like = source.names.mixer(i)["in_proj.weight"]
        name = like.removesuffix("in_proj.weight") + own
        added = Planned(name, shapes[own], tensors.dtypes[like], partial(_taken, padded, i, own), i)
        shards[as_safetensors(tensors.home[like].name)].append(added)
    return shards


def as_safetensors(name: str) -> str:
    """What a file of weights is called that takes the place of this one."""
    return name if name.endswith(SAFETENSORS) else name.replace("pytorch_model", "model").replace(".bin", SAFETENSORS)


def _loaded(source: Checkpoint, file: str) -> Tensor:
    return source.tensors.load([file])[file]


def _taken(mixer: Callable[[int], Weights], layer: int, name: str) -> Tensor:
    return mixer(layer)[name]
