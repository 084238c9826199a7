"""Models, tokenizers and texts as callers give them: objects in memory, or the names that the command line takes."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

import torch
from torch import Tensor

from ghost.backbone import Backbone, check_vocabulary
from ghost.calibration.corpus import SEPARATOR, read_text
from ghost.calibration.tokens import load_tokenizer, sample_windows
from ghost.checkpoint.in_memory import PLACE, LiveCheckpoint, in_memory
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.config import resolve_device, resolve_dtype
from ghost.errors import CheckpointError, CorpusError, SettingsError
from ghost.settings import RunSettings

if TYPE_CHECKING:
    from transformers import Mamba2ForCausalLM, PreTrainedTokenizerBase

Model: TypeAlias = Union["Mamba2ForCausalLM", str, Path]
"""A model in memory, `demo`, a folder (transformers' or native format), or a hub name."""
Texts: TypeAlias = str | Path | Iterable[str] | Tensor
"""Texts; or a corpus by name or path, as `ghost run --calibration` takes it; or token ids."""
Tokenizer: TypeAlias = Union["PreTrainedTokenizerBase", str, Path]
"""A tokenizer, or the folder or hub name of one."""
Split = Literal["calibration", "evaluation"]


def open_model(model: Model) -> Checkpoint:
    """The model, opened for reading. CheckpointError with the remedy for what is no Mamba2 model."""
    return open_checkpoint(model) if isinstance(model, str | Path) else in_memory(model)


def name_of(model: Model) -> str:
    """The model by name: hub names whole, folders without what leads to them."""
    if not isinstance(model, str | Path):
        return str(PLACE)
    return Path(model).name if Path(model).exists() else str(model)


def home_device(model: Model) -> torch.device:
    """Where the model lies; folders count as on the CPU."""
    return torch.device("cpu") if isinstance(model, str | Path) else model.device


def open_backbone(model: Model, source: Checkpoint, settings: RunSettings) -> Backbone:
    """The model ready to compute, a model in memory by default where it lies (on the CPU, if ghost can't compute
    there); otherwise as `ghost run` chooses."""
    device = settings.device
    if device == "auto" and not isinstance(model, str | Path):
        device = str(model.device) if model.device.type == "cuda" else "cpu"
    chosen = resolve_device(device)
    return Backbone(source, chosen, resolve_dtype(settings.dtype, chosen))


def find_tokenizer(tokenizer: Tokenizer | None, source: Checkpoint, texts: Texts) -> Any:
    """The tokenizer that is given, else that of the model's folder; None for token ids, which need none.

    SettingsError where texts are to be read for a model in memory, and no tokenizer is given.
    """
    if isinstance(texts, Tensor) and tokenizer is None:
        return None
    if tokenizer is None and isinstance(source, LiveCheckpoint):
        raise SettingsError(
            "tokenizer is None, and a model in memory has none of its own; give one, or token ids instead of texts"
        )
    found = source.folder if tokenizer is None else tokenizer
    return load_tokenizer(found) if isinstance(found, str | Path) else found


def calibration_windows(texts: Texts, tokenizer: Any, source: Checkpoint, settings: RunSettings) -> Tensor:
    """Token ids (samples, length) int32: windows drawn from the texts, or the ids given, all of them."""
    if isinstance(texts, Tensor):
        return _checked_ids(texts, "calibration", 2, source)
    tokens = _token_ids(texts, "calibration", tokenizer, source)
    return sample_windows(tokens, settings.samples, settings.length, settings.seed)


def evaluation_tokens(texts: Texts, tokenizer: Any, source: Checkpoint) -> Tensor:
    """Token ids (length,) int32 of the texts, or the ids given."""
    if isinstance(texts, Tensor):
        return _checked_ids(texts, "evaluation", 1, source)
    return _token_ids(texts, "evaluation", tokenizer, source)


def _token_ids(texts: str | Path | Iterable[str], split: Split, tokenizer: Any, source: Checkpoint) -> Tensor:
    """All texts as one stream, joined by an empty line as the rows of a corpus are."""
    text = read_text(str(texts), split) if isinstance(texts, str | Path) else _joined(texts, split)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if not ids:
        raise CheckpointError(f"tokenizer {tokenizer.name_or_path} knows no word of the text; give the model's own")
    tokens = torch.tensor(ids, dtype=torch.int32)
    check_vocabulary(source, tokens)
    return tokens


def _joined(texts: Iterable[str], split: Split) -> str:
    rows = list(texts)
    for number, row in enumerate(rows):
        if not isinstance(row, str):
            raise CorpusError(
                f"{split} text {number} is a {type(row).__name__}; give strings, or token ids as a tensor"
            )
    if not any(row.strip() for row in rows):
        raise CorpusError(f"{split} texts: {len(rows)} given, none with any content; give a text with some")
    return SEPARATOR.join(rows)


def _checked_ids(ids: Tensor, split: Split, dimensions: int, source: Checkpoint) -> Tensor:
    wanted = {1: "(length,)", 2: "(samples, length)"}[dimensions]
    if ids.dim() != dimensions or not ids.numel() or ids.is_floating_point() or ids.dtype == torch.bool:
        raise CorpusError(f"{split} ids are {ids.dtype} of shape {tuple(ids.shape)}; give integers of shape {wanted}")
    if int(ids.min()) < 0:
        raise CorpusError(f"{split} ids hold {int(ids.min())}; give ids of 0 and more, without padding")
    check_vocabulary(source, ids)
    return ids.detach().to("cpu", torch.int32)
