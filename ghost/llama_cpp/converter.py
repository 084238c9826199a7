"""Families that only llama.cpp's own converter writes. It is run as it is, from a folder of links to the checkpoint's
files, whose config.json says the same in the words that the converter reads.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ghost.calibration.tokens import load_tokenizer
from ghost.checkpoint.companions import CONFIG, is_tokenizers
from ghost.checkpoint.fields import with_infinity
from ghost.checkpoint.files import entries
from ghost.checkpoint.source import Checkpoint
from ghost.checkpoint.tokenizer import tokenizer_files
from ghost.checkpoint.writer import write_json
from ghost.errors import CheckpointError, SettingsError
from ghost.llama_cpp import FileType, Progress, with_pre_tokenizer
from ghost.llama_cpp.files import replaced_when_whole
from ghost.llama_cpp.vocabulary import parts_of, pre_tokenizer

SIGNS = {"linear_attention": "M", "full_attention": "*", "mlp": "-", "moe": "E"}
"""nemotron_h's layers in its hybrid_override_pattern."""
OF_EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts_per_tok", "n_group", "topk_group")
"""Fields by which the converter takes a model for one with experts."""
SCRIPT = "convert_hf_to_gguf.py"


def convert(
    checkpoint: Checkpoint,
    tokenizer: str | Path,
    file: Path,
    file_type: FileType,
    name: str,
    llama: Path,
    progress: Progress,
) -> None:
    """The model called `name`, in the file's place when it is whole, by the converter of the checkout `llama`.

    SettingsError where there is no converter; CheckpointError, with its own last line, where it fails.
    """
    if not (llama / SCRIPT).is_file():
        raise SettingsError(f"--converter {llama}: there is no {SCRIPT}; give the folder of a llama.cpp checkout")
    words = load_tokenizer(tokenizer)
    known = (words.is_fast and pre_tokenizer(parts_of(words))) or ""
    with tempfile.TemporaryDirectory() as folder, replaced_when_whole(file) as path:
        _link(checkpoint, {} if tokenizer == checkpoint.folder else tokenizer_files(words), Path(folder))
        options = ["--outfile", path, "--outtype", file_type, "--model-name", name]
        if checkpoint.config.model_type == "nemotron_h":
            options.append("--no-mtp")  # the head that drafts further tokens is not the model's own
        program = [sys.executable, "-P", with_pre_tokenizer.__file__, llama, known, *options, folder]
        progress(0, 0)
        ended = subprocess.run(program, capture_output=True, text=True, errors="replace")
        if ended.returncode or not path.is_file():
            last = (ended.stderr.strip() or f"exit code {ended.returncode}").splitlines()[-1]
            raise CheckpointError(f"llama.cpp's converter at {llama} gave up on {checkpoint.folder} ({last})")


def _link(checkpoint: Checkpoint, tokenizer: dict[str, bytes], folder: Path) -> None:
    """`tokenizer` takes the place of all files of the checkpoint's own, if it has any."""
    for path in entries(checkpoint.folder):
        name = path.relative_to(checkpoint.folder).as_posix()
        if path.is_file() and name != CONFIG and not (tokenizer and is_tokenizers(name)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(path.resolve())
    for name, data in tokenizer.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    write_json(folder / CONFIG, converters_config(checkpoint))


def converters_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json with every default filled in, and kinds of layers in the hub's older words. Without a model_type: so
    the converter reads it as it stands, and not what the transformers around it makes of it, which has newer words."""
    config, kinds = checkpoint.config, checkpoint.config.layer_types
    fields = config.to_dict() | with_infinity(checkpoint.raw_config) | {"num_hidden_layers": checkpoint.layers}
    family = fields.pop("model_type")
    if family == "granitemoehybrid":
        fields["layer_types"] = ["mamba" if kind == "linear_attention" else "attention" for kind in kinds]
    if family == "nemotron_h":
        fields.pop("layers_block_type", None)
        fields["hybrid_override_pattern"] = "".join(SIGNS[kind] for kind in kinds)
    if family == "falcon_h1":
        fields["mamba_d_ssm"] = checkpoint.mixer_layout.d_inner
    if "moe" not in kinds and not fields.get("num_local_experts"):
        fields = {name: value for name, value in fields.items() if name not in OF_EXPERTS}
        if family == "granitemoehybrid":
            fields["intermediate_size"] = config.shared_intermediate_size
    return fields
