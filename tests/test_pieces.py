"""Texts tokenized piece by piece: the tokens of the whole, whatever the tokenizer and wherever the pieces end."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ghost.calibration import pieces
from ghost.calibration.tokens import load_tokenizer, tokenize
from tests.models import text

PROSE = (
    text(400) + "def f(x):\n\n    return  x  # \t tabs, 漢字 and é, 🎉🎉\n\n\n" * 40 + "don't 12,345.67 'quoted'\n" * 30
)
SPECIAL = ["<unk>", "<|end|>"]


def trained(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer of each kind that models have."""
    normalizer: Any = None
    splits: Any = pre_tokenizers.Metaspace()
    match kind:
        case "byte-level":
            made, splits = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False)
            trainer: Any = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **SIZES)
        case "metaspace" | "no words":
            made, trainer = Tokenizer(models.BPE(unk_token="<unk>")), trainers.BpeTrainer(**SIZES)
        case "unigram":
            made, normalizer = Tokenizer(models.Unigram()), normalizers.NFKC()
            trainer = trainers.UnigramTrainer(unk_token="<unk>", **SIZES)
        case _:
            made, splits = Tokenizer(models.WordPiece(unk_token="<unk>")), pre_tokenizers.BertPreTokenizer()
            trainer, normalizer = trainers.WordPieceTrainer(**SIZES), normalizers.BertNormalizer()
    made.pre_tokenizer, made.normalizer = splits, normalizer
    made.train_from_iterator([PROSE], trainer)
    if kind == "no words":  # as Llama's first: the whole text is one word, with a mark before it
        made.pre_tokenizer = None
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="<|end|>")


SIZES: dict[str, Any] = {"vocab_size": 500, "special_tokens": SPECIAL, "show_progress": False}
KINDS = ("byte-level", "metaspace", "no words", "unigram", "wordpiece")


def whole(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def in_pieces(tokenizer: Any, text: str, part: int) -> list[int]:
    parts = (text[start : start + part] for start in range(0, len(text), part))
    return np.concatenate(list(pieces.token_ids(tokenizer, parts))).tolist()


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 700)
    monkeypatch.setattr(pieces, "OVERLAP", 300)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_give_the_tokens_of_the_whole(kind: str, small_pieces: None) -> None:
    tokenizer = trained(kind)
    hard = PROSE + "<|end|>" * 50 + PROSE[:5000]
    assert len(hard) > 20 * pieces.PIECE
    for part in (1, 999, len(hard)):
        assert in_pieces(tokenizer, hard, part) == whole(tokenizer, hard)
    for length in (1, 699, 999, 1000, 1001, 1700, 1701):  # about the ends of one piece and of two
        assert in_pieces(tokenizer, hard[:length], 350) == whole(tokenizer, hard[:length])


def test_the_demos_tokens_of_its_own_corpus_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from ghost.calibration.corpus import read_text

    monkeypatch.setattr(pieces, "PIECE", 1 << 14)
    tokenizer, corpus = load_tokenizer("ghost/demo/model"), read_text("stdlib", "evaluation")
    assert tokenize(tokenizer, corpus).tolist() == whole(tokenizer, corpus)


def test_a_tokenizer_never_gets_more_than_a_piece() -> None:
    tokenizer = load_tokenizer("ghost/demo/model")
    given: list[int] = []

    class Watched:
        is_fast = True

        def __call__(self, text: str, **named: Any) -> Any:
            given.append(len(text))
            return tokenizer(text, **named)

    ids = tokenize(Watched(), (line for line in [PROSE] * 40))
    assert max(given) <= pieces.PIECE + pieces.OVERLAP < 40 * len(PROSE) and len(given) > 3
    assert ids.tolist() == whole(tokenizer, PROSE * 40)


@pytest.mark.parametrize("word", ["a" * 5000, "=" * 5003, "ab" * 2500, "漢" * 3000])
def test_a_word_without_an_end_changes_at_its_seams_alone(word: str, small_pieces: None) -> None:
    tokenizer = load_tokenizer("ghost/demo/model")
    again = tokenizer.decode(in_pieces(tokenizer, word, 100))
    assert set(again) == set(word) and abs(len(again) - len(word)) <= 32 * len(word) / pieces.PIECE


def test_no_more_is_read_than_so_many_tokens_take() -> None:
    tokenizer, read = load_tokenizer("ghost/demo/model"), []

    def lines() -> Iterator[str]:
        for number in range(10_000):
            read.append(number)
            yield PROSE

    ids = tokenize(tokenizer, lines(), most=1000)
    assert ids.tolist() == whole(tokenizer, PROSE)[:1000]
    assert len(read) * len(PROSE) < 3 * (pieces.PIECE + pieces.OVERLAP)


def test_a_tokenizer_in_plain_python_gets_the_whole() -> None:
    class Plain:
        def __call__(self, text: str, **named: Any) -> dict[str, list[int]]:
            return {"input_ids": [ord(letter) for letter in text]}

    assert tokenize(Plain(), ["ab", "c"]).tolist() == [97, 98, 99]
