"""The proof of a pruned checkpoint: stock transformers on one side, the original with masked channels on the other."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghost.backbone import Backbone
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.errors import VerificationError
from ghost.export import PROVENANCE
from ghost.mixer import MixerLayout
from ghost.selection import Masked, Selection

LIMIT = 1e-4
"""Largest difference of any logit, relative to the largest logit, between two fp32 implementations."""


@torch.inference_mode()
def verify(folder: Path, source: Checkpoint, tokens: Tensor) -> dict[str, Any]:
    """Largest logit difference over a window of tokens (length,), relative to the largest logit.

    The pruned checkpoint runs in stock transformers, with no code of ghost's; the original runs in ghost's own path
    with the channels that ghost.json does not list zeroed after the convolution. VerificationError where they differ.
    """
    selections = _kept_channels(folder, source)
    pruned_lv = _stock_logits(open_checkpoint(folder).folder, tokens)
    masked_lv = _masked_logits(source, selections, tokens)
    difference = float((pruned_lv - masked_lv).abs().max() / masked_lv.abs().max())
    if not difference <= LIMIT:
        raise VerificationError(
            f"{folder} does not compute what {source.folder} computes without the dropped channels: logits differ by "
            f"{difference:.1e} of their scale (limit {LIMIT:.0e}); prune it again, or give the model it was made from"
        )
    return {"difference": difference, "limit": LIMIT, "tokens": len(tokens), "layers": source.layers}


def _kept_channels(folder: Path, source: Checkpoint) -> list[Selection]:
    try:
        record = json.loads((folder / PROVENANCE).read_text())
        if record["ghost"]["determinants"]["checkpoint"] != source.digest:
            raise VerificationError(f"{folder} was not made from {source.folder}; give that model with --against")
        selections = [_selection(groups, source.mixer_layout) for groups in record["kept_channels"]]
        _check_count("layers", len(selections), source.layers)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise VerificationError(
            f"{folder / PROVENANCE} is missing or damaged ({error}); give a checkpoint that ghost made"
        ) from None
    return selections


def _selection(groups: list[list[int]], layout: MixerLayout) -> Selection:
    _check_count("groups", len(groups), layout.n_groups)
    kept_gn = torch.zeros(layout.n_groups, layout.d_state, dtype=torch.bool)
    for group, channels in enumerate(groups):
        kept_gn[group, channels] = True
    return Selection(kept_gn.double(), kept_gn)


def _check_count(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{found} {name}, but the model has {expected}")


def _stock_logits(folder: Path, tokens: Tensor) -> Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    return model(tokens.unsqueeze(0), use_cache=False).logits[0]


def _masked_logits(source: Checkpoint, selections: list[Selection], tokens: Tensor) -> Tensor:
    backbone = Backbone(source, torch.device("cpu"), torch.float32)
    hidden_blm = backbone.embed(tokens.unsqueeze(0))
    for i, selection in enumerate(selections):
        layer = backbone.layer(i)
        hidden_blm = backbone.advance(layer, hidden_blm, backbone.inputs(layer, hidden_blm), Masked(selection))
    return backbone.logits(backbone.head(), hidden_blm)[0]
