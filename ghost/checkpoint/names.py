"""What transformers calls a model's tensors in memory, and what the files call them.

A model without weights, on the meta device, says which tensors there are; transformers' own conversion of names says
which tensors of the files each of them is made of. Both are internals of transformers 5.23, used here and in
`ghost.stock` and nowhere else.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ghost.checkpoint.families import PROJECTED, family_of

NATIVE_EMBEDDINGS, EMBEDDINGS = "backbone.embedding.weight", "backbone.embeddings.weight"


@dataclass(frozen=True)
class Names:
    """The tensors of one model, by transformers' names."""

    layers: str
    """Path of the decoder layers' list."""
    embeddings: str
    """Path of the table of token embeddings."""
    mixers: Mapping[int, str]
    """Path of the Mamba2 mixer of each decoder layer that has one, in their order."""
    shapes: Mapping[str, tuple[int, ...]]
    """Every tensor that the model has, tied ones under each of their names."""
    homes: Mapping[str, tuple[str, ...]]
    """By tensor, those of the files that it is made of: one, or many where experts are stacked."""
    tied: Mapping[str, str]
    """Tensors that are another one, where the files don't have them."""
    foreign: Mapping[str, str]
    """Tensors of the files that the model does not have, with the names that it would know them by."""

    def mixer(self, layer: int) -> dict[str, str]:
        """A mixer's tensors by their own names (`in_proj.weight`, ...), with their names in the files."""
        prefix = f"{self.mixers[layer]}."
        found = {name: files for name, files in self.homes.items() if name.startswith(prefix)}
        return {name.removeprefix(prefix): files[0] for name, files in found.items()}

    def source(self, name: str) -> str:
        """The tensor that has to be read for this one: itself, or the one that it is tied to."""
        return name if name in self.homes else self.tied.get(name, name)

    def within(self, path: str) -> list[str]:
        """The tensors below a path."""
        return [name for name in self.shapes if name.startswith(f"{path}.")]

    def outside(self, *, embeddings: bool) -> list[str]:
        """The tensors that come before the decoder layers, or those that come after them."""
        beyond = [name for name in self.shapes if not name.startswith(f"{self.layers}.")]
        return [name for name in beyond if name.startswith(f"{self.embeddings}.") == embeddings]


def skeleton(config: Any, dtype: torch.dtype) -> Any:
    """transformers' own model of the config in evaluation mode, on the meta device: modules and no weights."""
    from transformers import AutoModelForCausalLM

    if config.model_type == PROJECTED:
        import ghost.modeling  # noqa: F401  registers it
    with torch.inference_mode(False), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(deepcopy(config), dtype=dtype, trust_remote_code=False)
    return model.eval().requires_grad_(False)


def decoder_layers(model: Any) -> nn.ModuleList:
    return model.base_model.layers


def find_names(config: Any, files: Iterable[str]) -> Names:
    """The names of a model with this config whose tensors are called `files` where they lie."""
    model = skeleton(config, torch.float32)
    state, layers = model.state_dict(), f"{model.base_model_prefix}.layers"
    mixers = _mixers(config, decoder_layers(model), layers)
    of_mixers = tuple(f"{path}." for path in mixers.values())
    homes, foreign = dict[str, tuple[str, ...]](), dict[str, str]()
    for file, name in _matched(model, state, files).items():
        if name in state or name.startswith(of_mixers):  # a mixer's are checked by its layout
            homes[name] = (*homes.get(name, ()), file)
        else:
            foreign[file] = name
    table = model.get_input_embeddings()
    return Names(
        layers=layers,
        embeddings=next(path for path, module in model.named_modules() if module is table),
        mixers=mixers,
        shapes={name: tuple(tensor.shape) for name, tensor in state.items()},
        homes=homes,
        tied=dict(model.all_tied_weights_keys),
        foreign=foreign,
    )


def spelled(file: str) -> str:
    """A tensor's name where transformers begins to convert names: native files say embedding."""
    return EMBEDDINGS if file == NATIVE_EMBEDDINGS else file


def native_name(name: str) -> str:
    """What native files call transformers' tensor of this name."""
    return NATIVE_EMBEDDINGS if name == EMBEDDINGS else name


def _mixers(config: Any, layers: nn.ModuleList, path: str) -> dict[int, str]:
    found = {}
    for i, layer in enumerate(layers):
        modules = dict(layer.named_modules())
        for mixer in family_of(config).mixer_paths:
            if hasattr(modules.get(mixer), "A_log"):
                found[i] = f"{path}.{i}.{mixer}"
    return found


def _matched(model: Any, state: Mapping[str, Any], files: Iterable[str]) -> dict[str, str]:
    """By name in the files, the tensor of the model; experts of one layer lead to the same."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    conversions = get_model_conversion_mapping(model)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]

    tensors = dict(state)

    def found(name: str) -> str:
        renamed, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, tensors)
        if renamed not in tensors and name in tensors:
            renamed, _ = rename_source_key(name, [], [], model.base_model_prefix, tensors)
        return renamed

    return {file: found(spelled(file)) for file in files}
