"""A Mamba2 language model streamed from its checkpoint: one layer's weights in memory at a time.

The dense model is a `Checkpoint`; a pruned one is the same checkpoint with `Pruned` mixers in place of its own. Walk,
evaluation and verification all compute through here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ghost.checkpoint.source import EMBEDDINGS, FINAL_NORM, HEAD, Checkpoint, norm_name
from ghost.errors import CheckpointError
from ghost.mixer import RECURRENT, MixerInputs, MixerLayout, Weights, mixer_inputs, mixer_output
from ghost.selection import Channels
from ghost.ssd import ssd

TOKENS_PER_BATCH = 2048


class Layer(NamedTuple):
    """One block's weights, on the device and in the dtype of the computation, but for what keeps the file's."""

    norm_m: Tensor
    mixer: Weights
    layout: MixerLayout


@dataclass(frozen=True)
class Backbone:
    """Computes with a checkpoint on one device in one dtype; the residual stream is fp32 where the config says so."""

    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype

    @property
    def layers(self) -> int:
        return self.checkpoint.layers

    @property
    def norm_eps(self) -> float:
        return self.checkpoint.config.layer_norm_epsilon

    def place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype)

    def place_mixer(self, mixer: Weights) -> dict[str, Tensor]:
        """A mixer's tensors by their own names; what is RECURRENT keeps its dtype."""
        return {name: t.to(self.device) if name in RECURRENT else self.place(t) for name, t in mixer.items()}

    def layer(self, i: int, mixer: Weights | None = None) -> Layer:
        """Block i, with `mixer` (a pruned one, as stored) in place of the checkpoint's own where given."""
        norm_m = self.place(self.checkpoint.tensor(norm_name(i)))
        placed = self.place_mixer(self.checkpoint.mixer(i) if mixer is None else mixer)
        return Layer(norm_m, placed, _layout_of(placed, self.checkpoint.mixer_layout))

    def embed(self, tokens_bl: Tensor) -> Tensor:
        """Token ids (b, l) to the residual stream (b, l, d_model)."""
        check_vocabulary(self.checkpoint, tokens_bl)
        embedded = F.embedding(tokens_bl.long(), self.checkpoint.tensor(EMBEDDINGS))
        return embedded.to(self.device, self._residual_dtype)

    @property
    def _residual_dtype(self) -> torch.dtype:
        return torch.float32 if self.checkpoint.config.residual_in_fp32 else self.dtype

    def inputs(self, layer: Layer, hidden_blm: Tensor) -> MixerInputs:
        """What enters the layer's recurrence for the residual stream at its entry."""
        normed_blm = rms_norm(hidden_blm, layer.norm_m, self.norm_eps).to(self.dtype)
        return mixer_inputs(layer.layout, layer.mixer, normed_blm)

    def advance(
        self, layer: Layer, hidden_blm: Tensor, inputs: MixerInputs, channels: Channels | None = None
    ) -> Tensor:
        """The residual stream after the layer, with its B and C cut to `channels` (all of them for None)."""
        B_blgn, C_blgn = inputs.B_blgn, inputs.C_blgn
        if channels is not None:
            B_blgn, C_blgn = channels.cut(B_blgn, C_blgn)
        y_blhp, _ = ssd(inputs.x_blhp, inputs.dt_blh, inputs.A_h, B_blgn, C_blgn, inputs.D_h)
        return hidden_blm + mixer_output(layer.layout, layer.mixer, y_blhp, inputs.z)

    def residual(self, tokens_bl: Tensor) -> Tensor:
        """The residual stream (b, l, d_model) after the last layer; each layer's weights are read once for all rows."""
        hidden_blm, parts = self.embed(tokens_bl), list(batches(*tokens_bl.shape))
        for i in range(self.layers):
            layer = self.layer(i)
            for part in parts:
                hidden_blm[part] = self.advance(layer, hidden_blm[part], self.inputs(layer, hidden_blm[part]))
        return hidden_blm

    def head(self) -> tuple[Tensor, Tensor]:
        """The final norm's weight (d_model) and the head's (vocab, d_model)."""
        return self.place(self.checkpoint.tensor(FINAL_NORM)), self.place(self.checkpoint.tensor(HEAD))

    def logits(self, head: tuple[Tensor, Tensor], hidden_blm: Tensor) -> Tensor:
        """fp32 logits (b, l, vocab) for the residual stream after the last layer."""
        norm_m, head_vm = head
        normed_blm = rms_norm(hidden_blm, norm_m, self.norm_eps).to(self.dtype)
        return F.linear(normed_blm, head_vm).float()


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


def rms_norm(hidden_blm: Tensor, weight_m: Tensor, eps: float) -> Tensor:
    """RMS norm over d_model, computed in fp32."""
    return F.rms_norm(hidden_blm.float(), weight_m.shape, eps=eps) * weight_m.float()


def batches(rows: int, length: int) -> Iterator[slice]:
    """Slices over sequences of `length` tokens, about TOKENS_PER_BATCH at a time, so that memory stays bounded."""
    step = max(1, TOKENS_PER_BATCH // length)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
