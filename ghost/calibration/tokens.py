"""From text to token ids: the model's own tokenizer, and a seeded sample of windows."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ghost.calibration.corpus import Corpus, Split
from ghost.calibration.pieces import token_ids
from ghost.checkpoint.tokenizer import check_tokenizer, missing_packages
from ghost.errors import CheckpointError, CorpusError

READ_TIMES, READ_LEAST = 16, 1 << 20
"""Of a long text, calibration reads this many times the tokens that it needs, and no fewer than so many."""
DOMINANT = 0.9
"""Share of a text's tokens above which one token is warned of. The commonest one of prose makes up some 5%, of code or
tables, where it is white space, seldom 50%: above 90% it is what a tokenizer has for unknown words, or filler."""


def tokenize(tokenizer: str | Path | Any, text: str | Iterable[str], most: int | None = None) -> Tensor:
    """Token ids (length,) int32 of a whole text, with no special tokens added; or of its beginning, `most` tokens.

    The text may come in parts. `tokenizer` is one, or the folder or hub name of one.
    """
    words = load_tokenizer(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
    found, read = [np.empty(0, np.int32)], 0
    for ids in token_ids(words, [text] if isinstance(text, str) else text):
        found.append(ids)
        read += len(ids)
        if most is not None and read >= most:
            break
    if not read:
        # what transformers makes of a folder that has a config of a known model, but no tokenizer files
        name = getattr(words, "name_or_path", type(words).__name__)
        raise CheckpointError(f"the tokenizer of {name} knows no word of the text; give one with --tokenizer")
    return torch.from_numpy(np.concatenate(found)[:most])


def read_tokens(tokenizer: Any, spec: str, split: Split, most: int | None = None) -> tuple[Tensor, list[str]]:
    """As `tokenize` gives them, the tokens of a corpus, read no further than that takes; and what should be known of
    them, in sentences."""
    corpus = Corpus(spec, split, whole=most is None)
    tokens = tokenize(tokenizer, corpus.parts(), most)
    return tokens, [f"{split} text: {sentence}" for sentence in corpus.warnings]


def enough(samples: int, length: int) -> int:
    """Tokens of the calibration text from whose windows the sample is drawn: all of a shorter text."""
    return max(READ_TIMES * samples * length, READ_LEAST)


def dominant_token(tokens: Tensor, tokenizer: Any, split: Split) -> list[str]:
    """A sentence where one token makes up nearly all of these; none otherwise. `tokenizer` may be None."""
    token = int(tokens.flatten().mode().values)
    share = float((tokens == token).double().mean())
    if share <= DOMINANT:
        return []
    word = "" if tokenizer is None else f" ({tokenizer.convert_ids_to_tokens(token)!r})"
    return [
        f"{split} text: token {token}{word} makes up {share:.1%} of its {tokens.numel():,} tokens, so that the figures "
        "say next to nothing; give a text that the tokenizer knows, or the model's own tokenizer"
    ]


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
