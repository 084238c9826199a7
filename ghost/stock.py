"""transformers' own model of a checkpoint, without weights until they are asked for.

Loading a layer at a time is done by transformers' conversion of names and experts. What is used of its internals is
here and in `ghost.checkpoint.names`, and pinned with it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghost.checkpoint.in_memory import LiveCheckpoint
from ghost.checkpoint.names import decoder_layers, skeleton, spelled
from ghost.checkpoint.source import Checkpoint
from ghost.checkpoint.tensors import AGAIN
from ghost.errors import CheckpointError
from ghost.mixer import RECURRENT, Weights
from ghost.read_ahead import ReadAhead

NO_THREADS = "HF_DEACTIVATE_ASYNC_LOAD"


class Stock:
    """The model on one device in one dtype. Its list of decoder layers may hold anything; `layer` gives the real ones.

    Where a family keeps some tensors in fp32 in every dtype, they are.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self.checkpoint, self.device = checkpoint, device
        self.model = skeleton(checkpoint.config, dtype)
        self._bones = list(decoder_layers(self.model))
        self._loading = _loading(self.model, device, dtype)
        self._files = ReadAhead(checkpoint.tensors, pinned=device.type == "cuda")
        with torch.inference_mode(False):
            for path, module in self.model.named_modules():
                if not path.startswith(checkpoint.names.layers):
                    self._make_buffers(module)

    @property
    def layers(self) -> nn.ModuleList:
        return decoder_layers(self.model)

    def bones(self, i: int) -> nn.Module:
        """Decoder layer i without weights, to ask for its attributes."""
        return self._bones[i]

    def layer(self, i: int) -> nn.Module:
        """Decoder layer i with its weights, but for its mixer's; it is the caller's own."""
        wanted, names = self._beside_the_mixer(i), self.checkpoint.names
        places = {i} | {self._place(names.source(name)) for name in wanted}
        absent = {place: self.layers[place] for place in places}
        try:
            for place in places:
                self.layers[place] = deepcopy(self._bones[place])
            self._load(wanted)
            module = self.layers[i]
        finally:
            for place, stub in absent.items():
                self.layers[place] = stub
        return module

    def mixer(self, i: int) -> dict[str, Tensor]:
        """The mixer of decoder layer i by its tensors' own names, as the files have them."""
        names = self.checkpoint.names.mixer(i)
        found = self._files.load(names.values())
        return {own: found[file] for own, file in names.items()}

    def read_ahead(self, i: int) -> None:
        """Decoder layer i will be asked for next."""
        names = self.checkpoint.names
        mixer = names.mixer(i).values() if i in names.mixers else ()
        self._files.begin([*self._made_of(self._beside_the_mixer(i)), *mixer])

    @contextmanager
    def embeddings(self) -> Iterator[None]:
        """Inside, the model has the weights that come before its layers."""
        names, bare = self.checkpoint.names, self.model.get_submodule(self.checkpoint.names.embeddings)
        (file,) = names.homes[names.source(f"{names.embeddings}.weight")]
        table_vm = self.checkpoint.tensors.load([file])[file]
        self.model.set_submodule(names.embeddings, Lookup(table_vm, self.device, bare.weight.dtype))
        try:
            yield
        finally:
            self.model.set_submodule(names.embeddings, bare)

    @contextmanager
    def head(self) -> Iterator[None]:
        """Inside, the model has the weights that come after its layers."""
        names = self.checkpoint.names
        wanted, tables = (names.outside(embeddings=which) for which in (False, True))
        bare = {name: _get(self.model, name) for name in (*wanted, *tables)}  # a tied head is loaded in theirs
        try:
            self._load(wanted)
            yield
        finally:
            for name, tensor in bare.items():
                _put(self.model, name, tensor)

    def _beside_the_mixer(self, i: int) -> list[str]:
        names = self.checkpoint.names
        mixer = names.mixers.get(i)
        return [n for n in names.within(f"{names.layers}.{i}") if mixer is None or not n.startswith(f"{mixer}.")]

    def _made_of(self, wanted: Iterable[str]) -> list[str]:
        """The tensors of the files that these are made of."""
        names = self.checkpoint.names
        return sorted({file for name in wanted for file in names.homes.get(names.source(name), ())})

    def _place(self, name: str) -> int:
        return int(name.removeprefix(f"{self.checkpoint.names.layers}.").partition(".")[0])

    def _load(self, wanted: Sequence[str]) -> None:
        """Bring these tensors to where they belong in the model; CheckpointError where the files don't give them."""
        names = self.checkpoint.names
        sources = {name: names.source(name) for name in wanted}
        tensors = {spelled(file): tensor for file, tensor in self._files.load(self._made_of(wanted)).items()}
        from transformers.core_model_loading import convert_and_load_state_dict_in_model

        with _a_layer_at_a_time():
            info, _ = convert_and_load_state_dict_in_model(self.model, tensors, self._loading)
        self.model.requires_grad_(False)  # what is loaded asks for gradients, and every tensor after it would
        for name, source in sources.items():
            if name != source:
                _put(self.model, name, _get(self.model, source))
            if _get(self.model, name).is_meta:
                reason = info.conversion_errors.get(source, "").strip().rpartition("\n")[2]
                raise CheckpointError(
                    f"{self.checkpoint.folder}: {name} can't be made of the tensors in the files"
                    f"{f' ({reason})' if reason else ''}; {AGAIN}"
                )

    def _make_buffers(self, module: nn.Module) -> None:
        """Rotary tables and the like, which no file holds, as transformers makes them when it loads a model."""
        made = [name for name in module._non_persistent_buffers_set if module._buffers[name] is not None]
        for name in made:
            module._buffers[name] = torch.empty_like(module.get_buffer(name), device=self.device)
        if made:
            self.model._init_weights(module)


class Lookup(nn.Module):
    """Sits in the embeddings' place. The table (vocab, d_model) stays as the files have it: only the rows that are read
    go to the device, and to the dtype of the computation."""

    def __init__(self, table_vm: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.table_vm, self.device, self.dtype = table_vm, device, dtype

    def forward(self, input_ids: Tensor) -> Tensor:
        rows_blm = F.embedding(input_ids.to(self.table_vm.device), self.table_vm)
        return rows_blm.to(self.device, self.dtype)


def _loading(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.modeling_utils import LoadStateDictConfig

    conversions: Any = get_model_conversion_mapping(model)
    plan = model._get_dtype_plan(dtype)
    return LoadStateDictConfig(weight_mapping=conversions, device_map={"": device}, dtype_plan=plan)


def whole_model(checkpoint: Checkpoint, config: Any, mixers: Mapping[int, Weights], device: torch.device) -> Any:
    """A module on `device` that shares nothing with the checkpoint: its tensors with `mixers`, by decoder layer, in
    place of its own, and with `config` in place of its config.

    Tensors of a model in memory keep their dtypes. Those of a folder do if they have one in common, what is RECURRENT
    in any case; otherwise transformers chooses one, since a mixture is not what its modules compute with.
    """
    names, tensors = checkpoint.names, checkpoint.tensors
    own = {file for i in mixers for file in names.mixer(i).values()}
    others = [file for files in names.homes.values() for file in files if file not in own]
    state = {spelled(file): tensor for file, tensor in tensors.load(others).items()}
    for i, mixer in mixers.items():
        state |= {f"{names.mixers[i]}.{own}": tensor for own, tensor in mixer.items()}
    state = {name: tensor.to(device, copy=True) for name, tensor in state.items()}
    dtypes = {tensor.dtype for name, tensor in state.items() if not name.endswith(RECURRENT)}
    dtype, place = "auto" if len(dtypes) > 1 else dtypes.pop(), config.name_or_path
    with _a_layer_at_a_time():
        model = type(skeleton(config, torch.float32)).from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, trust_remote_code=False
        )
    model.name_or_path = model.config.name_or_path = place  # where it was made from, and not "None"
    is_live = isinstance(checkpoint, LiveCheckpoint)
    if is_live:  # its names are in memory what they are, and in files what transformers makes of them
        del model._weight_conversions
    _keep_dtypes(model, {name: state[name] for name in state if is_live or name.endswith(RECURRENT)})
    return model.to(device).eval()


def _keep_dtypes(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put those of the tensors into the model that it has in another dtype."""
    for name, made in model.state_dict(keep_vars=True).items():
        if name in tensors and tensors[name].dtype != made.dtype:
            is_parameter = isinstance(made, nn.Parameter)
            _put(model, name, nn.Parameter(tensors[name], requires_grad=False) if is_parameter else tensors[name])


def _get(model: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(path), leaf)


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, tensor)


@contextmanager
def _a_layer_at_a_time() -> Iterator[None]:
    """transformers shows a bar and starts threads whenever it loads weights. Here that is for every layer: no bars, and
    no threads, since what one lets go of stays in its arena, and memory would grow with the layers."""
    from transformers.utils import logging

    shown, threads = logging.is_progress_bar_enabled(), os.environ.get(NO_THREADS)
    logging.disable_progress_bar()
    os.environ[NO_THREADS] = "1"
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        if threads is None:
            del os.environ[NO_THREADS]
        else:
            os.environ[NO_THREADS] = threads
