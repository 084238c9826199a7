"""Long texts to token ids piece by piece: the ids that the whole text has, in the memory that a piece takes.

A tokenizer holds hundreds of bytes for every token of what it is given at once. So it gets pieces that overlap. A token
depends on the text around it, but not far around it: in the overlap both pieces give the same tokens but for a few at
its ends, and in its midst they are put together.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

PIECE, OVERLAP = 1 << 17, 1 << 12
"""Characters; a piece has PIECE and OVERLAP of them."""
ALIKE = 16
"""Tokens on either side of a seam that both pieces have at the same places of the text."""


class Encoded(NamedTuple):
    """A piece's token ids (tokens,) int32; and id, first and last character in the piece of the first and the last of
    them, which are those in the overlaps with the pieces beside it, (some, 3) int64."""

    ids: np.ndarray
    head: np.ndarray
    tail: np.ndarray


def token_ids(tokenizer: Any, parts: Iterable[str]) -> Iterator[np.ndarray]:
    """Token ids int32 of the text that the parts make up, with no special tokens added.

    A tokenizer that can't tell where its tokens lie in the text (one in plain Python) gets the whole of it at once.
    Where two pieces nowhere agree, as in one word of 4,000 letters, tokens at their seam may differ from the whole's.
    """
    if not getattr(tokenizer, "is_fast", False):
        text = "".join(parts)
        yield np.asarray(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], np.int32)
        return
    before, begin = None, 0
    for piece in _pieces(parts):
        encoded = _encode(tokenizer, piece)
        if before is not None:
            end, next_begin = _seam(before, encoded)
            yield before.ids[begin:end]
            begin = next_begin
        before = encoded
    if before is not None:
        yield before.ids[begin:]


def _pieces(parts: Iterable[str]) -> Iterator[str]:
    """The text in pieces: each begins PIECE characters after the one before, and is OVERLAP longer than that."""
    held = ""
    for part in parts:
        for start in range(0, len(part), PIECE):
            held += part[start : start + PIECE]
            if len(held) > PIECE + OVERLAP:
                yield held[: PIECE + OVERLAP]
                held = held[PIECE:]
    if held:
        yield held


def _encode(tokenizer: Any, piece: str) -> Encoded:
    plain = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    encoding = tokenizer(piece, **plain, verbose=False).encodings[0]
    ids = np.asarray(encoding.ids, np.int32)
    spans = partial(_spans, encoding, ids)
    head = takewhile(lambda span: span[1] < OVERLAP, spans(range(len(ids))))
    tail = takewhile(lambda span: span[1] >= PIECE, spans(range(len(ids) - 1, -1, -1)))
    return Encoded(ids, _array(head), _array(tail)[::-1])


def _spans(encoding: Any, ids: np.ndarray, numbers: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    # asked for singly: what they are for all tokens takes longer to hand over than to find out
    for number in numbers:
        yield int(ids[number]), *encoding.token_to_chars(number)


def _array(spans: Iterable[tuple[int, int, int]]) -> np.ndarray:
    return np.array([*spans], np.int64).reshape(-1, 3)


def _seam(before: Encoded, after: Encoded) -> tuple[int, int]:
    """How many tokens of `before` come before the seam, and how many of `after`."""
    first = len(before.ids) - len(before.tail)
    tail, head = before.tail - np.array([0, PIECE, PIECE]), after.head
    for start in sorted(set(tail[:, 1].tolist()), key=lambda start: abs(start - OVERLAP // 2)):
        i, j = (int(np.searchsorted(spans[:, 1], start)) for spans in (tail, head))
        left, right = (spans[max(0, at - ALIKE) : at + ALIKE] for spans, at in ((tail, i), (head, j)))
        if len(left) == 2 * ALIKE and np.array_equal(left, right):
            return first + i, j
    i, j = (int(np.searchsorted(spans[:, 1], OVERLAP // 2)) for spans in (tail, head))
    return first + i, j
