"""A byte-level BPE tokenizer as llama.cpp reads one, and which of its pre-tokenizers splits text in the same way.

llama.cpp's converter knows a pre-tokenizer by the hash of the token ids of one text, so it can't know one that was
trained at home. Here it is known by what it is: the pattern that tokenizer.json splits with.
"""

import json
from pathlib import Path
from typing import Any

import gguf

from ghost.calibration.tokens import load_tokenizer
from ghost.errors import CheckpointError

PATTERNS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+": ("llama-bpe", True),
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+": ("qwen2", False),
}
"""By pattern, llama.cpp's name of the pre-tokenizer, and whether it takes a word that is a token without merging."""
GPT2 = "gpt-2"
"""The pattern that a ByteLevel pre-tokenizer has of its own."""
ROLES = ("bos", "eos", "unk", "sep", "pad", "mask")
CONVERTER = "give llama.cpp's own converter by --converter"


def add_vocabulary(writer: gguf.GGUFWriter, tokenizer: str | Path, config: Any) -> None:
    """Tokens, merges, special tokens and chat template of the tokenizer of that folder or hub name; the tokens are
    padded to the rows of the model's embeddings. CheckpointError for one that llama.cpp would not split text like."""
    words = load_tokenizer(tokenizer)
    if not (words.is_fast and words("a").input_ids):  # an empty one is made where there are no files
        raise CheckpointError(f"{tokenizer} has no tokenizer that knows a word; give one with --tokenizer")
    parts = parts_of(words)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_checked_pre_tokenizer(parts, tokenizer))
    tokens, types = _tokens(words, parts, config.vocab_size, tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in parts["model"]["merges"]])
    _add_special(writer, words, config)
    if isinstance(words.chat_template, str):
        writer.add_chat_template(words.chat_template)


def parts_of(words: Any) -> dict[str, Any]:
    """What tokenizer.json has of a fast tokenizer."""
    return json.loads(words.backend_tokenizer.to_str())


def pre_tokenizer(parts: dict[str, Any]) -> str | None:
    """llama.cpp's name for what tokenizer.json's `parts` split text with before any merge; None where it has none."""
    splitter, model = parts["pre_tokenizer"] or {}, parts["model"]
    steps = splitter.get("pretokenizers", [splitter])
    if any(step.get("add_prefix_space") for step in steps) or steps[-1].get("type") != "ByteLevel":
        return None
    if len(steps) == 1 and steps[0].get("use_regex", True) and not model.get("ignore_merges"):
        return GPT2
    if len(steps) == 2 and _is_plain_split(steps[0]) and not steps[1].get("use_regex", True):
        name, whole = PATTERNS.get(steps[0]["pattern"].get("Regex"), (None, None))
        return name if whole == bool(model.get("ignore_merges")) else None
    return None


def _is_plain_split(step: dict[str, Any]) -> bool:
    return step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert")


def _checked_pre_tokenizer(parts: dict[str, Any], where: str | Path) -> str:
    model, normalizer = parts["model"], parts["normalizer"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise CheckpointError(f"the tokenizer of {where} is a {model['type']}, not a byte-level BPE; {CONVERTER}")
    if normalizer and normalizer["type"] != "NFC":  # llama.cpp applies none; text as it is typed is in that form
        raise CheckpointError(
            f"the tokenizer of {where} normalizes by {normalizer['type']}, which llama.cpp does not; {CONVERTER}"
        )
    if (name := pre_tokenizer(parts)) is None:
        raise CheckpointError(
            f"the tokenizer of {where} splits text by a pattern that ghost does not know; {CONVERTER}"
        )
    return name


def _tokens(words: Any, parts: dict[str, Any], rows: int, where: str | Path) -> tuple[list[str], list[int]]:
    """One token a row, and of what type each is."""
    added = {token["id"]: token["special"] for token in parts["added_tokens"]}
    by_id = {i: token for token, i in words.get_vocab().items()}
    if (largest := max(by_id)) >= rows:
        raise CheckpointError(
            f"the tokenizer of {where} has token {largest}, but the embeddings have {rows} rows; give the model's own "
            "tokenizer"
        )
    kinds = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED, None: gguf.TokenType.NORMAL}
    types = [int(kinds[added.get(i)] if i in by_id else gguf.TokenType.UNUSED) for i in range(rows)]
    return [by_id.get(i, f"[PAD{i}]") for i in range(rows)], types


def _add_special(writer: gguf.GGUFWriter, words: Any, config: Any) -> None:
    """The model's config says what the tokenizer does not; where neither does, llama.cpp takes some token for it."""
    for role in ROLES:
        name = f"{role}_token_id"
        known = [token for token in (getattr(words, name), getattr(config, name, None)) if isinstance(token, int)]
        if known:
            getattr(writer, f"add_{name}")(known[0])
    ids = words("a").input_ids
    writer.add_add_bos_token(ids[0] == words.bos_token_id)
    writer.add_add_eos_token(ids[-1] == words.eos_token_id)
