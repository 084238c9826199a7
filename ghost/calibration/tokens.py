"""From text to token ids: the model's own tokenizer, and a seeded sample of windows."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ghost.checkpoint.tokenizer import check_tokenizer, missing_packages
from ghost.errors import CheckpointError, CorpusError


def tokenize(tokenizer: str | Path, text: str) -> Tensor:
    """Token ids (length,) int32 of a whole text, with no special tokens added."""
    ids = load_tokenizer(tokenizer)(text, add_special_tokens=False, verbose=False)["input_ids"]
    if not ids:
        # what transformers makes of a folder that has a config of a known model, but no tokenizer files
        raise CheckpointError(f"the tokenizer of {tokenizer} knows no word of the text; give one with --tokenizer")
    return torch.tensor(ids, dtype=torch.int32)


def load_tokenizer(tokenizer: str | Path) -> Any:
    """The tokenizer of a folder or hub name. CheckpointError where there is none that can be read."""
    from transformers import AutoTokenizer

    folder = Path(os.path.expanduser(tokenizer))
    if is_folder := folder.is_dir():
        check_tokenizer(folder)
    try:
        return AutoTokenizer.from_pretrained(folder if is_folder else tokenizer, trust_remote_code=False)
    except Exception as error:
        missing = missing_packages(folder) if is_folder else None
        reason = missing or str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"no tokenizer could be loaded from {tokenizer} ({reason}); give one with --tokenizer"
        ) from None


def sample_windows(tokens: Tensor, samples: int, length: int, seed: int) -> Tensor:
    """`samples` windows of `length` tokens (samples, length), seeded, none overlapping, in the order of the text."""
    available = len(tokens) // length
    if available < samples:
        raise CorpusError(
            f"the calibration text has {len(tokens)} tokens, too short for {samples} windows of {length}; "
            "give a longer text, or fewer --samples"
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(available, generator=generator)[:samples].sort().values
    return tokens[: available * length].view(available, length)[chosen]


def digest(tokens: Tensor) -> str:
    """sha256 over shape and ids; two corpora that give the same tokens are the same corpus."""
    ids = tokens.numpy().astype(np.int32)
    return hashlib.sha256(repr(ids.shape).encode() + ids.tobytes()).hexdigest()
