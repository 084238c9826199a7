"""Models, tokenizers and texts as callers give them: objects in memory, or the names that the command line takes."""

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

import torch
from torch import Tensor

from ghost.calibration.corpus import joined, path_and_column, shortened
from ghost.calibration.files import FORMS
from ghost.calibration.tokens import (
    dominant_token,
    enough,
    load_tokenizer,
    read_tokens,
    sample_windows,
    tokenize,
)
from ghost.checkpoint.in_memory import PLACE, LiveCheckpoint, in_memory
from ghost.checkpoint.sizes import check_memory
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.config import resolve_device, resolve_dtype
from ghost.errors import CorpusError, GhostWarning, SettingsError
from ghost.settings import RunSettings
from ghost.stack import Stack, check_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Model: TypeAlias = Union["PreTrainedModel", str, Path]
"""A model in memory, `demo`, a folder (transformers' or native format), or a hub name."""
Texts: TypeAlias = str | Path | Iterable[str] | Tensor
"""Texts; or a corpus by name or path, as `ghost run --calibration` takes it, which a single string is; or token ids."""
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


def open_stack(model: Model, source: Checkpoint, settings: RunSettings) -> Stack:
    """The model ready to compute, a model in memory by default where it lies (on the CPU, if ghost can't compute
    there); otherwise as `ghost run` chooses. SettingsError where a part of a folder's is larger than what is free."""
    device = settings.device
    if device == "auto" and not isinstance(model, str | Path):
        device = str(model.device) if model.device.type == "cuda" else "cpu"
    chosen = resolve_device(device)
    dtype = resolve_dtype(settings.dtype, chosen)
    if not isinstance(source, LiveCheckpoint):  # one in memory shares its tensors with the computation
        check_memory(source, chosen, dtype)
    return Stack(source, chosen, dtype, batch_tokens=settings.batch_tokens)


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
        tokens_bl, told = _checked_ids(texts, "calibration", 2, source), []
    else:
        most = enough(settings.samples, settings.length)
        tokens, told = _token_ids(texts, "calibration", tokenizer, source, most)
        tokens_bl = sample_windows(tokens, settings.samples, settings.length, settings.seed)
    _warn([*told, *dominant_token(tokens_bl, tokenizer, "calibration")])
    return tokens_bl


def evaluation_tokens(texts: Texts, tokenizer: Any, source: Checkpoint) -> Tensor:
    """Token ids (length,) int32 of the texts, or the ids given."""
    if isinstance(texts, Tensor):
        tokens, told = _checked_ids(texts, "evaluation", 1, source), []
    else:
        tokens, told = _token_ids(texts, "evaluation", tokenizer, source)
    _warn([*told, *dominant_token(tokens, tokenizer, "evaluation")])
    return tokens


def _token_ids(
    texts: str | Path | Iterable[str], split: Split, tokenizer: Any, source: Checkpoint, most: int | None = None
) -> tuple[Tensor, list[str]]:
    """All texts as one stream, joined by an empty line as the rows of a corpus are, and what should be known of them;
    no more of the stream than `most` tokens take."""
    if isinstance(texts, str | Path):
        _check_name(str(texts))
        tokens, told = read_tokens(tokenizer, str(texts), split, most)
    else:
        tokens, told = tokenize(tokenizer, joined(_checked_texts(texts, split)), most), []
    check_vocabulary(source, tokens)
    return tokens, told


def _check_name(name: str) -> None:
    """A text in place of a name: on the command line a file that is not there, here it may have been meant."""
    if name != "stdlib" and not name.startswith("hf:") and not os.path.exists(path_and_column(name)[0]):
        raise CorpusError(
            f"corpus {shortened(name)}: no such file, which one string is taken to name; {FORMS}, or a list of texts"
        )


def _checked_texts(texts: Iterable[str], split: Split) -> Iterator[str]:
    number, blank = 0, True
    for number, row in enumerate(texts, start=1):
        if not isinstance(row, str):
            raise CorpusError(
                f"{split} text {number - 1} is a {type(row).__name__}; give strings, or token ids as a tensor"
            )
        blank = blank and not row.strip()
        yield row
    if blank:
        raise CorpusError(f"{split} texts: {number} given, none with any content; give a text with some")


def _warn(sentences: Iterable[str]) -> None:
    """Where `ghost.prune` or `ghost.perplexity` is called: two calls above, and the one of their decorator."""
    for sentence in sentences:
        warnings.warn(sentence, GhostWarning, stacklevel=5)


def _checked_ids(ids: Tensor, split: Split, dimensions: int, source: Checkpoint) -> Tensor:
    wanted = {1: "(length,)", 2: "(samples, length)"}[dimensions]
    if ids.dim() != dimensions or not ids.numel() or ids.is_floating_point() or ids.dtype == torch.bool:
        raise CorpusError(f"{split} ids are {ids.dtype} of shape {tuple(ids.shape)}; give integers of shape {wanted}")
    if int(ids.min()) < 0:
        raise CorpusError(f"{split} ids hold {int(ids.min())}; give ids of 0 and more, without padding")
    check_vocabulary(source, ids)
    return ids.detach().to("cpu", torch.int32)
