"""One decoder layer of a stock model, with ghost's own mixer in place of the one it came with.

In the mixer's place sits a slot, which hands out what the mixer is given and returns what ghost makes of it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from ghost.kernels import scan
from ghost.mixer import MixerInputs, MixerLayout, Weights, mixer_inputs, mixer_output
from ghost.selection import Channels
from ghost.ssd import ssd
from ghost.stored_state import StoredState
from ghost.stream import Stream

Mix = Callable[[Tensor], Tensor]
"""A mixer: from its input (b, l, d_model) to its output."""


class Slot(nn.Module):
    """Sits in a mixer's place."""

    mix: Mix | None = None

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        assert self.mix is not None
        return self.mix(hidden_states)


class DecoderLayer:
    """One decoder layer with its weights, on the device and in the dtype of the computation, but for what keeps the
    file's. `layout` and `mixer` (its tensors by their own names) are of its Mamba2 mixer: None and empty where it has
    none. `stored`: in what precision the mixer's state is kept between steps; None for that of the computation."""

    def __init__(
        self,
        index: int,
        module: nn.Module,
        slot: Slot,
        mixer: Weights,
        layout: MixerLayout | None,
        stored: StoredState | None = None,
    ) -> None:
        self.index, self._module, self._slot, self.mixer = index, module, slot, mixer
        self._layout, self._stored = layout, stored

    @property
    def layout(self) -> MixerLayout:
        assert self._layout is not None, f"layer {self.index} has no Mamba2 mixer"
        return self._layout

    def with_mixer(self, mixer: Weights) -> "DecoderLayer":
        """The same layer around another mixer, whose tensors are taken as they are."""
        layout = layout_of(mixer, self.layout)
        return DecoderLayer(self.index, self._module, self._slot, mixer, layout, self._stored)

    def storing(self, stored: StoredState | None) -> "DecoderLayer":
        """The same layer with its state kept so."""
        return DecoderLayer(self.index, self._module, self._slot, self.mixer, self._layout, stored)

    def mixer_input(self, stream: Stream) -> Tensor:
        """What the layer gives its mixer, (b, l, d_model); nothing after that is computed."""

        def stop(given_blm: Tensor) -> Tensor:
            raise _GivenError(given_blm)

        try:
            self._forward(stream, stop)
        except _GivenError as given:
            return given.hidden_blm
        raise AssertionError(f"layer {self.index} has not called its mixer")

    def inputs(self, stream: Stream) -> Iterator[MixerInputs]:
        """What enters the layer's recurrence, in pieces of as many steps as the stream has computed at once: a batch of
        several sequences is one piece."""
        return self._pieces(self.mixer_input(stream), stream.steps)

    def mixed(self, pieces: Iterable[MixerInputs], channels: Channels | None = None) -> Tensor:
        """The mixer's output (b, l, d_model) for all that enters its recurrence, with its B and C cut to `channels`
        (all of them for None). The state goes on from piece to piece."""
        outputs, state_bhpn = list[Tensor](), None
        for inputs in pieces:
            B_blgn, C_blgn = inputs.B_blgn, inputs.C_blgn
            if channels is not None:
                B_blgn, C_blgn = channels.cut(B_blgn, C_blgn)
            recurrence = inputs.x_blhp, inputs.dt_blh, inputs.A_h, B_blgn, C_blgn, inputs.D_h
            y_blhp, state_bhpn = self._scan(recurrence, state_bhpn)
            outputs.append(mixer_output(self.layout, self.mixer, y_blhp, inputs.z))
        return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]

    def _scan(self, recurrence: tuple[Tensor, ...], state_bhpn: Tensor | None) -> tuple[Tensor, Tensor]:
        """Kernels keep a state in their own precision from chunk to chunk: one that is stored goes without them."""
        if self._stored is None:
            return scan(*recurrence, state_bhpn=state_bhpn)
        return ssd(*recurrence, chunk=self._stored.every, state_bhpn=state_bhpn, stored=self._stored)

    def leave(self, stream: Stream, mixed_blm: Tensor) -> Tensor:
        """The residual stream after the layer whose mixer has put this out."""
        return self._forward(stream, lambda _: mixed_blm)

    def advance(self, stream: Stream, channels: Channels | None = None) -> Tensor:
        """The residual stream after the layer, with its mixer's B and C cut to `channels`."""
        return self._forward(stream, lambda x_blm: self.mixed(self._pieces(x_blm, stream.steps), channels))

    def _pieces(self, given_blm: Tensor, steps: int) -> Iterator[MixerInputs]:
        """The convolution reaches back to the steps before a piece, which are projected once more for it."""
        steps = steps if self._stored is None else self._stored.piece(steps)
        for start in range(0, given_blm.shape[1], steps):
            before = min(start, self.layout.d_conv - 1)
            yield mixer_inputs(self.layout, self.mixer, given_blm[:, start - before : start + steps]).after(before)

    def _forward(self, stream: Stream, mix: Mix) -> Tensor:
        self._slot.mix = mix
        try:
            return stream.calls[self.index](self._module, stream.hidden_blm, stream.rows)
        finally:
            self._slot.mix = None


class _GivenError(Exception):
    """A mixer was given its input, and no more is asked."""

    def __init__(self, hidden_blm: Tensor) -> None:
        super().__init__()
        self.hidden_blm = hidden_blm


def layout_of(mixer: Weights, like: MixerLayout) -> MixerLayout:
    """The layout of a mixer that may have a smaller state than `like`."""
    bc = (mixer["conv1d.weight"].shape[0] - like.d_inner) // 2
    stock = replace(like, d_state=bc // like.n_groups, projected_from=None)
    return stock.projected_to(mixer["B_proj"].shape[1]) if "B_proj" in mixer else stock
