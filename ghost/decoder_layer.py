"""One decoder layer of a stock model, with ghost's own mixer in place of the one it came with.

In the mixer's place sits a slot, which hands out what the mixer is given and returns what ghost makes of it.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from ghost.mixer import MixerInputs, MixerLayout, Weights, mixer_inputs, mixer_output
from ghost.selection import Channels
from ghost.ssd import ssd
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
    none."""

    def __init__(self, index: int, module: nn.Module, slot: Slot, mixer: Weights, layout: MixerLayout | None) -> None:
        self.index, self._module, self._slot, self.mixer = index, module, slot, mixer
        self._layout = layout

    @property
    def layout(self) -> MixerLayout:
        assert self._layout is not None, f"layer {self.index} has no Mamba2 mixer"
        return self._layout

    def with_mixer(self, mixer: Weights) -> "DecoderLayer":
        """The same layer around another mixer, whose tensors are taken as they are."""
        return DecoderLayer(self.index, self._module, self._slot, mixer, layout_of(mixer, self.layout))

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
