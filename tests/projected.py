"""Tiny projected models whose tensors are all random, for the tests of ghost.modeling."""

from typing import Any

import torch
from torch import nn

from ghost.modeling import GhostMamba2Config, GhostMamba2ForCausalLM, auto_map
from tests.models import RANDOM, VOCAB

N, R = 24, 6


def fields(n_groups: int) -> dict[str, Any]:
    """Of the config, but for the size of the state."""
    return {
        "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "expand": 2, "num_heads": 4, "head_dim": 16,
        "n_groups": n_groups, "tie_word_embeddings": True, "chunk_size": 16, "bos_token_id": 0, "eos_token_id": 0,
        "pad_token_id": 0,
    }  # fmt: skip


def randomize(model: Any) -> Any:
    """Random values also where transformers initialises to constants; projections with rows of about unit length."""
    for name, parameter in model.named_parameters():
        for ending, mean in RANDOM.items():
            if name.endswith(ending):
                nn.init.normal_(parameter, mean=mean, std=0.5)
        if name.endswith("_proj"):
            nn.init.normal_(parameter, std=N**-0.5)
    return model


def projected_model(n_groups: int = 1, **changes: Any) -> Any:
    """A GhostMamba2ForCausalLM that keeps R directions of N, the same for the same arguments."""
    torch.manual_seed(0)
    given = {"state_size": R, "projected_from": N, "auto_map": auto_map()}
    return randomize(GhostMamba2ForCausalLM(GhostMamba2Config(**fields(n_groups) | given | changes))).eval()
