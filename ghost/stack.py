"""A language model with Mamba2 mixers, streamed from its checkpoint: one decoder layer's weights in memory at a time,
and on a GPU that has the room all of them.

The stock transformers model computes everything but the mixers: embeddings, masks, rotary tables, attention, experts,
multipliers, residuals, norms and head are its own doing.

The dense model is a `Checkpoint`; a pruned one is the same checkpoint with other mixers in place of its own. Walk,
evaluation and verification all compute through here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ghost.budget import bytes_to_hold, resolve_batch_tokens
from ghost.checkpoint.families import family_of
from ghost.checkpoint.sizes import layers
from ghost.checkpoint.source import Checkpoint
from ghost.config import free_bytes
from ghost.decoder_layer import DecoderLayer, Slot, layout_of
from ghost.errors import CheckpointError
from ghost.mixer import RECURRENT, Weights
from ghost.stock import Stock
from ghost.stored_state import StoredState
from ghost.stream import Call, Stream, what_varies

Keeping = Literal["one", "ahead", "resident"]
"""The decoder layers whose weights are in memory: the one that computes; beside it the next one, in the machine's; or
all, on the device."""
RESIDENT_SHARE = 0.25
"""Of a GPU's free memory, for weights; the rest is for what is computed."""

Head = Callable[[Tensor], Tensor]
"""From the residual stream (b, l, d_model) after the last layer to fp32 logits (b, l, vocab)."""


class Stack:
    """Computes with a checkpoint on one device in one dtype, `batch_tokens` tokens at once: by default as many as the
    device is good for."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        keeping: Keeping | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.checkpoint, self.device, self.dtype = checkpoint, device, dtype
        self.batch_tokens = resolve_batch_tokens(batch_tokens, checkpoint.mixer_layout, device)
        self.keeping = what_fits(checkpoint, device, dtype) if keeping is None else keeping
        self._resident: dict[int, DecoderLayer] = {}
        self._stored: StoredState | None = None
        self._stock = Stock(checkpoint, device, dtype)
        tuples = family_of(checkpoint.config).layers_give_tuples
        self._stubs = [Absent(self._stock.bones(i), gives_tuples=tuples) for i in range(self.layers)]
        self._stock.model.base_model.layers = nn.ModuleList(self._stubs)

    @property
    def layers(self) -> int:
        return self.checkpoint.layers

    @property
    def held_bytes(self) -> int:
        """How much may be held of what could be computed again."""
        return bytes_to_hold(self.device, resident=self.keeping == "resident")

    @property
    def mixers(self) -> tuple[int, ...]:
        """The decoder layers that have a Mamba2 mixer."""
        return self.checkpoint.mixers

    def storing(self, stored: StoredState | None) -> Self:
        """The same model, weights in memory included, that keeps the state of its mixers so between steps."""
        other = copy(self)
        other._stored = stored
        return other

    def place_mixer(self, mixer: Weights) -> dict[str, Tensor]:
        """A mixer's tensors by their own names; what is RECURRENT keeps its dtype."""
        return {
            name: t.to(self.device) if name in RECURRENT else t.to(self.device, self.dtype) for name, t in mixer.items()
        }

    def layer(self, i: int, mixer: Weights | None = None) -> DecoderLayer:
        """Decoder layer i, with `mixer` (a pruned one, as stored) in place of the checkpoint's own where given."""
        return self._layer(i, mixer).storing(self._stored)

    def _layer(self, i: int, mixer: Weights | None) -> DecoderLayer:
        if self.keeping == "resident":
            if i not in self._resident:
                with torch.inference_mode(False):  # so that those who want gradients can have them
                    self._resident[i] = self._read(i, None)
            layer = self._resident[i]
            return layer if mixer is None else layer.with_mixer(self.place_mixer(mixer))
        layer = self._read(i, mixer)
        if self.keeping == "ahead" and i + 1 < self.layers:
            self._stock.read_ahead(i + 1)
        return layer

    def _read(self, i: int, mixer: Weights | None) -> DecoderLayer:
        module, slot = self._stock.layer(i), Slot()
        if i not in self.mixers:
            return DecoderLayer(i, module, slot, {}, None)
        path = self.checkpoint.names.mixers[i].removeprefix(f"{self.checkpoint.names.layers}.{i}.")
        module.set_submodule(path, slot)
        placed = self.place_mixer(self._stock.mixer(i) if mixer is None else mixer)
        return DecoderLayer(i, module, slot, placed, layout_of(placed, self.checkpoint.mixer_layout))

    def enter(self, tokens_bl: Tensor) -> Stream:
        """The residual stream of token ids (b, l) at the entry of the first layer."""
        check_vocabulary(self.checkpoint, tokens_bl)
        with self._stock.embeddings():
            hidden_blm, handed = self._entered(tokens_bl)
            # what has a row for every sequence has another shape for two of them than for three
            two, three = (self._entered(torch.zeros_like(tokens_bl[:1]).expand(rows, -1))[1] for rows in (2, 3))
        varies = map(what_varies, two, three)
        calls = tuple(Call(*pair) for pair in zip(handed, varies, strict=True))
        return Stream(hidden_blm, calls, self.batch_tokens)

    def run(self, tokens_bl: Tensor) -> Stream:
        """The residual stream after the last layer; each layer's weights are read once for all rows."""
        stream = self.enter(tokens_bl)
        for i in range(self.layers):
            layer = self.layer(i)
            for rows, part in stream.batches():
                stream.put(rows, layer.advance(part))
            del layer  # before the next one is read
        return stream

    @contextmanager
    def head(self) -> Iterator[Head]:
        """Inside, the head's weights are in memory."""
        with self._stock.head():
            yield self._logits

    def _logits(self, hidden_blm: Tensor) -> Tensor:
        self._stubs[0].gives = hidden_blm
        try:
            return self._stock.model(inputs_embeds=hidden_blm, use_cache=False).logits.float()
        finally:
            self._stubs[0].gives = None

    def _entered(self, tokens_bl: Tensor) -> tuple[Tensor, list[Any]]:
        """The stream that comes to the first layer for token ids (b, l), and what the model hands to each."""
        noted: list[tuple[Tensor, Any]] = []
        for stub in self._stubs:
            stub.note = lambda hidden_blm, handed: noted.append((hidden_blm, handed))
        self._stubs[-1].ends = True
        try:
            self._stock.model.base_model(tokens_bl.long().to(self.device), use_cache=False)
        except _EnteredError:
            return noted[0][0], [handed for _, handed in noted]
        finally:
            self._stubs[-1].ends = False
            for stub in self._stubs:
                stub.note = None
        raise AssertionError("the model has not called its last layer")


def what_fits(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Keeping:
    """A CPU reads layers from the system's cache of files as fast as it would from a copy of its own."""
    if device.type == "cpu":
        return "one"
    taken = sum(layer.bytes for layer in layers(checkpoint, dtype))
    return "resident" if taken < RESIDENT_SHARE * free_bytes(device) else "ahead"


class Absent(nn.Module):
    """Sits in a decoder layer's place, and notes how it was called. To the model it has the layer's attributes."""

    note: Callable[[Tensor, Any], None] | None = None
    gives: Tensor | None = None
    ends = False

    def __init__(self, layer: nn.Module, *, gives_tuples: bool) -> None:
        super().__init__()
        self.__dict__["layer"], self.gives_tuples = layer, gives_tuples  # not a submodule

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["layer"], name)

    def forward(self, hidden_states: Tensor, *args: Any, **named: Any) -> Any:
        if self.note is not None:
            self.note(hidden_states, (args, named))
        if self.ends:
            raise _EnteredError
        left = hidden_states if self.gives is None else self.gives
        return (left, None) if self.gives_tuples else left


class _EnteredError(Exception):
    """The last decoder layer was called, and no more is asked."""


def check_vocabulary(checkpoint: Checkpoint, tokens: Tensor) -> None:
    """CheckpointError where the tokens are of another model's tokenizer."""
    highest = int(tokens.max())
    if highest >= checkpoint.vocab_size:
        raise CheckpointError(
            f"the tokenizer gives token {highest}, but the model's vocab_size is {checkpoint.vocab_size}; "
            "give the tokenizer that belongs to it with --tokenizer"
        )
