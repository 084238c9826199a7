"""The proof of a pruned checkpoint: stock transformers on one side, the original with masked channels on the other.

Recovery changes weights on purpose, so that a recovered checkpoint computes what no masked original does. Of such a one
it is proved that stock transformers computes what ghost's own path computes with the same stored weights.
"""

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

WITHOUT = "without the dropped channels"
STORED = "the stored, recovered weights in ghost's own path"
LIMIT = 1e-4
"""Largest difference of any logit, relative to the largest logit, between two fp32 implementations."""


@torch.inference_mode()
def verify(folder: Path, source: Checkpoint, tokens: Tensor) -> dict[str, Any]:
    """Largest logit difference over a window of tokens (length,), relative to the largest logit.

    The pruned checkpoint runs in stock transformers, with no code of ghost's; the original runs in ghost's own path
    with the channels that ghost.json does not list zeroed after the convolution, and where ghost.json says that it was
    recovered the checkpoint itself does; `against` says which. VerificationError where they differ.
    """
    selections, recovered = _record(folder, source)
    pruned = open_checkpoint(folder)
    expected_lv = _logits(pruned, None, tokens) if recovered else _logits(source, selections, tokens)
    difference = float((_stock_logits(pruned.folder, tokens) - expected_lv).abs().max() / expected_lv.abs().max())
    if not difference <= LIMIT:
        wanted = "its own weights give in ghost's own path" if recovered else f"{source.folder} computes {WITHOUT}"
        raise VerificationError(
            f"{folder} does not compute what {wanted}: logits differ by {difference:.1e} of their scale "
            f"(limit {LIMIT:.0e}); prune it again, or give the model it was made from"
        )
    found = {"difference": difference, "limit": LIMIT, "tokens": len(tokens), "layers": source.layers}
    return found | {"against": STORED if recovered else f"the original {WITHOUT}"}


def _record(folder: Path, source: Checkpoint) -> tuple[list[Selection], bool]:
    """Kept channels by layer, and whether recovery changed other weights, as ghost.json has it."""
    try:
        record = json.loads((folder / PROVENANCE).read_text())
        determinants = record["ghost"]["determinants"]
        if determinants["checkpoint"] != source.digest:
            raise VerificationError(f"{folder} was not made from {source.folder}; give that model with --against")
        selections = [_selection(groups, source.mixer_layout) for groups in record["kept_channels"]]
        _check_count("layers", len(selections), source.layers)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise VerificationError(
            f"{folder / PROVENANCE} is missing or damaged ({error}); give a checkpoint that ghost made"
        ) from None
    return selections, determinants.get("recovery", "none") != "none"


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


def _logits(checkpoint: Checkpoint, selections: list[Selection] | None, tokens: Tensor) -> Tensor:
    """Logits of ghost's own path; with `selections` the other channels are zeroed after the convolution."""
    backbone = Backbone(checkpoint, torch.device("cpu"), torch.float32)
    hidden_blm = backbone.embed(tokens.unsqueeze(0))
    for i in range(backbone.layers):
        layer, channels = backbone.layer(i), None if selections is None else Masked(selections[i])
        hidden_blm = backbone.advance(layer, hidden_blm, backbone.inputs(layer, hidden_blm), channels)
    return backbone.logits(backbone.head(), hidden_blm)[0]
