"""Write a checkpoint as one GGUF file."""

from pathlib import Path

import gguf

from ghost.checkpoint.source import Checkpoint
from ghost.llama_cpp import FileType, Progress
from ghost.llama_cpp.files import replaced_when_whole
from ghost.llama_cpp.tensors import add_metadata, stored_tensors
from ghost.llama_cpp.vocabulary import add_vocabulary


def write_mamba2(
    checkpoint: Checkpoint, tokenizer: str | Path, file: Path, file_type: FileType, name: str, progress: Progress
) -> None:
    """The model called `name`, in the file's place when it is whole; one tensor is in memory at a time.

    CheckpointError, before anything is written, where llama.cpp would split text in another way.
    """
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.MAMBA2])
    add_metadata(writer, checkpoint, file_type, name)
    add_vocabulary(writer, tokenizer, checkpoint.config)
    tensors = list(stored_tensors(checkpoint, file_type))
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.stored_shape, tensor.dtype, tensor.bytes, tensor.numbers)
    with replaced_when_whole(file) as path:
        try:
            writer.write_header_to_file(path)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in tensors:
                writer.write_tensor_data(tensor.values(checkpoint))
                progress(tensor.bytes, sum(t.bytes for t in tensors))
        finally:
            writer.close()
