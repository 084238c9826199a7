"""The residual stream of some sequences, and how a model calls its decoder layers for them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

Rows = slice | Tensor


@dataclass(frozen=True, eq=False)
class Call:
    """How the model calls one decoder layer, the stream aside: masks, rotary tables, and whatever else it hands on.

    `varies` has the same form as what is handed on, and says which tensors have a row for every sequence.
    """

    handed: Any
    varies: Any

    def __call__(self, layer: nn.Module, hidden_blm: Tensor, rows: Tensor | None) -> Tensor:
        args, named = self.handed if rows is None else _taken(self.handed, self.varies, rows)
        left = layer(hidden_blm, *args, **named)
        return left[0] if isinstance(left, tuple) else left


@dataclass(eq=False)
class Stream:
    """The residual stream (b, l, d_model) of some sequences, and how the model calls its layers for them."""

    hidden_blm: Tensor
    calls: tuple[Call, ...]
    batch_tokens: int
    """How many tokens are computed at once."""
    rows: Tensor | None = None
    """Which of the sequences that entered together these are; None for all of them."""

    def take(self, rows: Rows) -> "Stream":
        """Some of the sequences."""
        every = torch.arange(len(self.hidden_blm)) if self.rows is None else self.rows
        return Stream(self.hidden_blm[rows], self.calls, self.batch_tokens, every[rows])

    def moved(self, hidden_blm: Tensor) -> "Stream":
        """The same sequences further on."""
        return replace(self, hidden_blm=hidden_blm)

    def put(self, rows: Rows, hidden_blm: Tensor) -> None:
        """Some sequences have gone on, and others may not have yet."""
        if hidden_blm.dtype != self.hidden_blm.dtype:  # embeddings in bf16, residuals in fp32
            self.hidden_blm = self.hidden_blm.to(hidden_blm.dtype)
        self.hidden_blm[rows] = hidden_blm

    def batches(self) -> Iterator[tuple[slice, "Stream"]]:
        """Its sequences, a batch at a time, as they are when their turn comes."""
        for rows in batches(*self.hidden_blm.shape[:2], batch_tokens=self.batch_tokens):
            yield rows, self.take(rows)

    @property
    def steps(self) -> int:
        """How many steps of all its sequences are computed at once; those of a batch of several are all of them."""
        return max(1, self.batch_tokens // len(self.hidden_blm))


def what_varies(one: Any, other: Any) -> Any:
    """Which tensors have a row for every sequence, of what was handed on for so many sequences and for another number
    of them: those whose shapes differ."""
    if isinstance(one, Tensor):
        return one.shape != other.shape
    if isinstance(one, tuple | list):
        return tuple(map(what_varies, one, other))
    return {name: what_varies(one[name], other[name]) for name in one} if isinstance(one, Mapping) else False


def _taken(handed: Any, varies: Any, rows: Tensor) -> Any:
    if isinstance(handed, Tensor):
        return handed[rows.to(handed.device)] if varies else handed
    if isinstance(handed, tuple | list):
        return tuple(_taken(part, which, rows) for part, which in zip(handed, varies, strict=True))
    if isinstance(handed, Mapping):
        return {name: _taken(part, varies[name], rows) for name, part in handed.items()}
    return handed


def batches(rows: int, length: int, *, batch_tokens: int) -> Iterator[slice]:
    """Slices over sequences of `length` tokens, at most `batch_tokens` at a time but one sequence at least. They depend
    on nothing else: sums are rounded batch by batch."""
    step = max(1, batch_tokens // length)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
