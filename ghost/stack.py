"""A language model with Mamba2 mixers, streamed from its checkpoint: one decoder layer's weights in memory at a time.

The stock transformers model computes everything but the mixers: embeddings, masks, rotary tables, attention, experts,
multipliers, residuals, norms and head are its own doing. In each mixer's place sits a slot, which hands out what the
mixer is given and returns what ghost's own mixer makes of it: scored, cut, recovered.

The dense model is a `Checkpoint`; a pruned one is the same checkpoint with other mixers in place of its own. Walk,
evaluation and verification all compute through here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ghost.checkpoint.families import family_of
from ghost.checkpoint.source import Checkpoint
from ghost.errors import CheckpointError
from ghost.mixer import RECURRENT, MixerInputs, MixerLayout, Weights, mixer_inputs, mixer_output
from ghost.selection import Channels
from ghost.ssd import ssd
from ghost.stock import Stock

TOKENS_PER_BATCH = 2048

Rows = slice | Tensor
Mix = Callable[[Tensor], Tensor]
"""A mixer: from its input (b, l, d_model) to its output."""
Head = Callable[[Tensor], Tensor]
"""From the residual stream (b, l, d_model) after the last layer to fp32 logits (b, l, vocab)."""


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
    rows: Tensor | None = None
    """Which of the sequences that entered together these are; None for all of them."""

    def take(self, rows: Rows) -> "Stream":
        """Some of the sequences."""
        every = torch.arange(len(self.hidden_blm)) if self.rows is None else self.rows
        return Stream(self.hidden_blm[rows], self.calls, every[rows])

    def moved(self, hidden_blm: Tensor) -> "Stream":
        """The same sequences further on."""
        return replace(self, hidden_blm=hidden_blm)

    def put(self, rows: Rows, hidden_blm: Tensor) -> None:
        """Some sequences have gone on, and others may not have yet."""
        if hidden_blm.dtype != self.hidden_blm.dtype:  # embeddings in bf16, residuals in fp32
            self.hidden_blm = self.hidden_blm.to(hidden_blm.dtype)
        self.hidden_blm[rows] = hidden_blm

    def batches(self) -> Iterator[tuple[slice, "Stream"]]:
        """Its sequences, about TOKENS_PER_BATCH at a time, as they are when their turn comes."""
        for rows in batches(*self.hidden_blm.shape[:2]):
            yield rows, self.take(rows)


class DecoderLayer:
    """One decoder layer with its weights, on the device and in the dtype of the computation, but for what keeps the
    file's. `layout` and `mixer` (its tensors by their own names) are of its Mamba2 mixer: None and empty where it has
    none."""

    def __init__(self, index: int, module: nn.Module, slot: "Slot", mixer: Weights, layout: MixerLayout | None) -> None:
        self.index, self._module, self._slot, self.mixer = index, module, slot, mixer
        self._layout = layout

    @property
    def layout(self) -> MixerLayout:
        assert self._layout is not None, f"layer {self.index} has no Mamba2 mixer"
        return self._layout

    def with_mixer(self, mixer: Weights) -> "DecoderLayer":
        """The same layer around another mixer, whose tensors are taken as they are."""
        return DecoderLayer(self.index, self._module, self._slot, mixer, _layout_of(mixer, self.layout))

    def mixer_input(self, stream: Stream) -> Tensor:
        """What the layer gives its mixer, (b, l, d_model); nothing after that is computed."""

        def stop(given_blm: Tensor) -> Tensor:
            raise _GivenError(given_blm)

        try:
            self._forward(stream, stop)
        except _GivenError as given:
            return given.hidden_blm
        raise AssertionError(f"layer {self.index} has not called its mixer")

    def inputs(self, stream: Stream) -> MixerInputs:
        """What enters the layer's recurrence."""
        return mixer_inputs(self.layout, self.mixer, self.mixer_input(stream))

    def mixed(self, inputs: MixerInputs, channels: Channels | None = None) -> Tensor:
        """The mixer's output (b, l, d_model), with its B and C cut to `channels` (all of them for None)."""
        B_blgn, C_blgn = inputs.B_blgn, inputs.C_blgn
        if channels is not None:
            B_blgn, C_blgn = channels.cut(B_blgn, C_blgn)
        y_blhp, _ = ssd(inputs.x_blhp, inputs.dt_blh, inputs.A_h, B_blgn, C_blgn, inputs.D_h)
        return mixer_output(self.layout, self.mixer, y_blhp, inputs.z)

    def leave(self, stream: Stream, mixed_blm: Tensor) -> Tensor:
        """The residual stream after the layer whose mixer has put this out."""
        return self._forward(stream, lambda _: mixed_blm)

    def advance(self, stream: Stream, channels: Channels | None = None) -> Tensor:
        """The residual stream after the layer, with its mixer's B and C cut to `channels`."""
        return self._forward(stream, lambda x_blm: self.mixed(mixer_inputs(self.layout, self.mixer, x_blm), channels))

    def _forward(self, stream: Stream, mix: Mix) -> Tensor:
        self._slot.mix = mix
        try:
            return stream.calls[self.index](self._module, stream.hidden_blm, stream.rows)
        finally:
            self._slot.mix = None


class Stack:
    """Computes with a checkpoint on one device in one dtype."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self.checkpoint, self.device, self.dtype = checkpoint, device, dtype
        self._stock = Stock(checkpoint, device, dtype)
        tuples = family_of(checkpoint.config).layers_give_tuples
        self._stubs = [Absent(self._stock.bones(i), gives_tuples=tuples) for i in range(self.layers)]
        self._stock.model.base_model.layers = nn.ModuleList(self._stubs)

    @property
    def layers(self) -> int:
        return self.checkpoint.layers

    @property
    def mixers(self) -> tuple[int, ...]:
        """The decoder layers that have a Mamba2 mixer."""
        return self.checkpoint.mixers

    def place_mixer(self, mixer: Weights) -> dict[str, Tensor]:
        """A mixer's tensors by their own names; what is RECURRENT keeps its dtype."""
        return {
            name: t.to(self.device) if name in RECURRENT else t.to(self.device, self.dtype) for name, t in mixer.items()
        }

    def layer(self, i: int, mixer: Weights | None = None) -> DecoderLayer:
        """Decoder layer i, with `mixer` (a pruned one, as stored) in place of the checkpoint's own where given."""
        module, slot = self._stock.layer(i), Slot()
        if i not in self.mixers:
            return DecoderLayer(i, module, slot, {}, None)
        path = self.checkpoint.names.mixers[i].removeprefix(f"{self.checkpoint.names.layers}.{i}.")
        module.set_submodule(path, slot)
        placed = self.place_mixer(self.checkpoint.mixer(i) if mixer is None else mixer)
        return DecoderLayer(i, module, slot, placed, _layout_of(placed, self.checkpoint.mixer_layout))

    def enter(self, tokens_bl: Tensor) -> Stream:
        """The residual stream of token ids (b, l) at the entry of the first layer."""
        check_vocabulary(self.checkpoint, tokens_bl)
        with self._stock.outer(embeddings=True):
            hidden_blm, handed = self._entered(tokens_bl)
            # what has a row for every sequence has another shape for two of them than for three
            two, three = (self._entered(torch.zeros_like(tokens_bl[:1]).expand(rows, -1))[1] for rows in (2, 3))
        varies = map(_differs, two, three)
        return Stream(hidden_blm, tuple(Call(*pair) for pair in zip(handed, varies, strict=True)))

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
        with self._stock.outer(embeddings=False):
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


class Slot(nn.Module):
    """Sits in a mixer's place."""

    mix: Mix | None = None

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        assert self.mix is not None
        return self.mix(hidden_states)


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


class _GivenError(Exception):
    """A mixer was given its input, and no more is asked."""

    def __init__(self, hidden_blm: Tensor) -> None:
        super().__init__()
        self.hidden_blm = hidden_blm


class _EnteredError(Exception):
    """The last decoder layer was called, and no more is asked."""


def _differs(one: Any, other: Any) -> Any:
    if isinstance(one, Tensor):
        return one.shape != other.shape
    if isinstance(one, tuple | list):
        return tuple(map(_differs, one, other))
    return {name: _differs(one[name], other[name]) for name in one} if isinstance(one, Mapping) else False


def _taken(handed: Any, varies: Any, rows: Tensor) -> Any:
    if isinstance(handed, Tensor):
        return handed[rows.to(handed.device)] if varies else handed
    if isinstance(handed, tuple | list):
        return tuple(_taken(part, which, rows) for part, which in zip(handed, varies, strict=True))
    if isinstance(handed, Mapping):
        return {name: _taken(part, varies[name], rows) for name, part in handed.items()}
    return handed


def _layout_of(mixer: Weights, like: MixerLayout) -> MixerLayout:
    """The layout of a mixer that may have a smaller state than `like`."""
    bc = (mixer["conv1d.weight"].shape[0] - like.d_inner) // 2
    stock = replace(like, d_state=bc // like.n_groups, projected_from=None)
    return stock.projected_to(mixer["B_proj"].shape[1]) if "B_proj" in mixer else stock


def check_vocabulary(checkpoint: Checkpoint, tokens: Tensor) -> None:
    """CheckpointError where the tokens are of another model's tokenizer."""
    highest = int(tokens.max())
    if highest >= checkpoint.vocab_size:
        raise CheckpointError(
            f"the tokenizer gives token {highest}, but the model's vocab_size is {checkpoint.vocab_size}; "
            "give the tokenizer that belongs to it with --tokenizer"
        )


def batches(rows: int, length: int) -> Iterator[slice]:
    """Slices over sequences of `length` tokens, about TOKENS_PER_BATCH at a time, so that memory stays bounded."""
    step = max(1, TOKENS_PER_BATCH // length)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
