"""A mamba2 model as llama.cpp's `mamba2`: which tensors it has, what they are called there, and how they are stored.

Names, shapes and keys are those that llama.cpp's `src/models/mamba2.cpp` asks for; names come from the gguf
package's own table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import torch
from gguf import MODEL_TENSOR as KIND
from gguf import GGMLQuantizationType as Quantization

from ghost.checkpoint.source import Checkpoint
from ghost.errors import CheckpointError
from ghost.llama_cpp import FileType
from ghost.mixer import MixerLayout

NUMBERS = {"f32": Quantization.F32, "f16": Quantization.F16, "q8_0": Quantization.Q8_0}
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
MATRICES = (KIND.TOKEN_EMBD, KIND.OUTPUT, KIND.SSM_IN, KIND.SSM_OUT)
"""Tensors that take the file's type; llama.cpp computes with the others in float32."""
LARGEST = {Quantization.F32: np.inf, Quantization.F16: 65504.0, Quantization.Q8_0: 127 * 65504.0}
"""The largest magnitude that a type holds; Q8_0 has float16 scales."""
UNBOUNDED = 2**20
"""Context length of a model whose config gives none, as in llama.cpp's converter: nothing in a Mamba2 ends there."""


@dataclass(frozen=True)
class Stored:
    """One tensor of the file, read when `values` is called."""

    name: str
    kind: KIND
    source: str
    """Its name in the checkpoint's files."""
    shape: tuple[int, ...]
    """As numpy has it: the last dimension is ggml's first."""
    numbers: Quantization

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """In bytes where blocks of numbers share a scale."""
        return gguf.quant_shape_to_byte_shape(self.shape, self.numbers) if self._is_quantized else self.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        plain = {Quantization.F32: np.float32, Quantization.F16: np.float16}
        return np.dtype(plain.get(self.numbers, np.uint8))

    @property
    def bytes(self) -> int:
        return int(np.prod(self.stored_shape)) * self.dtype.itemsize

    @property
    def _is_quantized(self) -> bool:
        return self.numbers is Quantization.Q8_0

    def values(self, checkpoint: Checkpoint) -> np.ndarray:
        """As they go into the file. CheckpointError where one is larger than the file's type holds."""
        loaded = checkpoint.tensors.load([self.source])[self.source].float()
        found = (-torch.exp(loaded) if self.kind is KIND.SSM_A else loaded).reshape(self.shape).numpy()
        if (largest := float(np.abs(found).max())) > LARGEST[self.numbers]:
            raise CheckpointError(
                f"tensor {self.source} has values up to {largest:.3g}, and {self.numbers.name} ends at "
                f"{LARGEST[self.numbers]:.3g}; give --type f32"
            )
        return gguf.quantize(found, self.numbers)


def stored_tensors(checkpoint: Checkpoint, file_type: FileType) -> Iterator[Stored]:
    """All tensors of the file, in the order of the model's; a head that is tied is the embeddings, and no tensor."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MAMBA2, checkpoint.layers)
    names = checkpoint.names
    for name, shape in names.shapes.items():
        if name in names.tied:
            continue
        spelled = name.replace(".dt_bias", ".dt_proj.bias")  # Mamba1's name for it, which the table has
        kind, called = _known(table, spelled)
        shape = _shape(kind, shape, checkpoint.mixer_layout)
        yield Stored(called, kind, names.homes[name][0], shape, _numbers(kind, shape, file_type))


def add_metadata(writer: gguf.GGUFWriter, checkpoint: Checkpoint, file_type: FileType, name: str) -> None:
    """The keys that llama.cpp reads a mamba2's sizes from."""
    layout = checkpoint.mixer_layout
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(getattr(checkpoint.config, "max_position_embeddings", None) or UNBOUNDED)
    writer.add_embedding_length(layout.d_model)
    writer.add_block_count(checkpoint.layers)
    writer.add_feed_forward_length(0)  # llama.cpp asks every model for it, and for heads of attention
    writer.add_head_count(0)
    writer.add_layer_norm_rms_eps(layout.norm_eps)
    writer.add_vocab_size(checkpoint.vocab_size)
    writer.add_ssm_conv_kernel(layout.d_conv)
    writer.add_ssm_inner_size(layout.d_inner)
    writer.add_ssm_state_size(layout.d_state)
    writer.add_ssm_time_step_rank(layout.nheads)  # Mamba1's name; of a Mamba2 it is the number of heads
    writer.add_ssm_group_count(layout.n_groups)


def _known(table: gguf.TensorNameMap, name: str) -> tuple[KIND, str]:
    found = table.get_type_and_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise CheckpointError(f"tensor {name} is none of llama.cpp's mamba2; serve this model with transformers")
    return found


def _shape(kind: KIND, shape: tuple[int, ...], layout: MixerLayout) -> tuple[int, ...]:
    """llama.cpp has heads as rows of one number, a norm by group, and no axis for the convolution's one input."""
    if kind in (KIND.SSM_A, KIND.SSM_D):
        return (layout.nheads, 1)
    if kind is KIND.SSM_NORM:
        return (layout.n_groups, layout.d_inner // layout.n_groups)
    if kind is KIND.SSM_CONV1D and len(shape) == 3:
        return (shape[0], shape[2])
    return shape


def _numbers(kind: KIND, shape: tuple[int, ...], file_type: FileType) -> Quantization:
    """A row that does not divide into Q8_0's blocks is stored in float16, as llama.cpp's converter has it."""
    if kind not in MATRICES:
        return Quantization.F32
    wanted = NUMBERS[file_type]
    return Quantization.F16 if shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] else wanted
