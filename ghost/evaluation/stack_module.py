"""A stack as lm-eval's HFLM takes a model of transformers, for what stock models can't do."""

from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ghost.stack import Stack

BATCH = 16
"""Sequences at once: a layer's weights are read anew for each batch."""


class StackModule(nn.Module):
    """Gives the logits of token ids; it generates nothing."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack, self.config, self.device = stack, stack.checkpoint.config, stack.device

    @torch.inference_mode()
    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        """Logits (b, l, vocab) after every token of the sequences (b, l)."""
        hidden_blm = self.stack.run(input_ids.cpu()).hidden_blm
        with self.stack.head() as logits:
            return SimpleNamespace(logits=logits(hidden_blm))

    def tie_weights(self) -> None:
        """Weights are read as they are needed."""

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError("tasks that generate text are not measured with --state-dtype; leave them out")
