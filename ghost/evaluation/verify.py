"""The proof of a pruned checkpoint: stock transformers on one side, the original with masked channels on the other.

A projected checkpoint runs in the classes of ghost/modeling, against the original with the checkpoint's own B_proj and
C_proj behind the convolution. Recovery, and pruning weight by weight, change weights on purpose, so that such a
checkpoint computes what no masked original does: of it, it is proved that transformers computes what ghost's own path
computes with the same stored weights.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghost.backbone import Backbone, Channels
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.errors import VerificationError
from ghost.export import PROVENANCE
from ghost.mixer import PROJECTIONS, MixerLayout, Weights
from ghost.saliency import find_method
from ghost.selection import Masked, Projection, Selection

WITHOUT = "without the dropped channels"
PROJECTED = "the original with B and C projected"
STORED = "the stored, changed weights in ghost's own path"
LIMIT = 1e-4
"""Largest difference of any logit, relative to the largest logit, between two fp32 implementations."""


@torch.inference_mode()
def verify(folder: Path, source: Checkpoint, tokens: Tensor) -> dict[str, Any]:
    """Largest logit difference over a window of tokens (length,), relative to the largest logit.

    The pruned checkpoint runs in stock transformers, with no code of ghost's unless it is projected; the original runs
    in ghost's own path with the channels that ghost.json does not list zeroed after the convolution, or B and C
    projected, and where ghost.json says that weights were changed the checkpoint itself does; `against` says which.
    VerificationError where they differ.
    """
    selections, recovered = _record(folder, source)
    pruned = open_checkpoint(folder)
    projected = pruned.mixer_layout.projected_from is not None
    if projected:
        _check_code(folder)
        selections = [_projection(pruned.mixer(i)) for i in range(pruned.layers)]
    expected_lv = _logits(pruned, None, tokens) if recovered else _logits(source, selections, tokens)
    difference = float((_stock_logits(pruned.folder, tokens) - expected_lv).abs().max() / expected_lv.abs().max())
    if not difference <= LIMIT:
        masked = "computes with B and C projected" if projected else f"computes {WITHOUT}"
        wanted = "its own weights give in ghost's own path" if recovered else f"{source.folder} {masked}"
        raise VerificationError(
            f"{folder} does not compute what {wanted}: logits differ by {difference:.1e} of their scale "
            f"(limit {LIMIT:.0e}); prune it again, or give the model it was made from"
        )
    found = {"difference": difference, "limit": LIMIT, "tokens": len(tokens), "layers": source.layers}
    return found | {"against": STORED if recovered else PROJECTED if projected else f"the original {WITHOUT}"}


def _record(folder: Path, source: Checkpoint) -> tuple[Sequence[Channels], bool]:
    """Kept channels by layer, and whether weights were changed, as ghost.json has it."""
    try:
        record = json.loads((folder / PROVENANCE).read_text())
        determinants = record["ghost"]["determinants"]
        if determinants["checkpoint"] != source.digest:
            raise VerificationError(f"{folder} was not made from {source.folder}; give that model with --against")
        selections = [Masked(_selection(groups, source.mixer_layout)) for groups in record["kept_channels"]]
        _check_count("layers", len(selections), source.layers)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise VerificationError(
            f"{folder / PROVENANCE} is missing or damaged ({error}); give a checkpoint that ghost made"
        ) from None
    unstructured = find_method(determinants.get("method", "ghost")).form == "unstructured"
    return selections, unstructured or determinants.get("recovery", "none") != "none"


def _check_code(folder: Path) -> None:
    """The folder's code is what others run under trust_remote_code."""
    from ghost.modeling import SOURCE

    copied = folder / SOURCE.name
    if not copied.is_file() or copied.read_bytes() != SOURCE.read_bytes():
        raise VerificationError(f"{copied} is missing or not this ghost's code; prune the model again")


def _projection(mixer: Weights) -> Projection:
    return Projection(*(mixer[name].float() for name in PROJECTIONS))


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


def _logits(checkpoint: Checkpoint, cuts: Sequence[Channels] | None, tokens: Tensor) -> Tensor:
    """Logits of ghost's own path; with `cuts` B and C go through them after the convolution."""
    backbone = Backbone(checkpoint, torch.device("cpu"), torch.float32)
    hidden_blm = backbone.embed(tokens.unsqueeze(0))
    for i in range(backbone.layers):
        layer, channels = backbone.layer(i), None if cuts is None else cuts[i]
        hidden_blm = backbone.advance(layer, hidden_blm, backbone.inputs(layer, hidden_blm), channels)
    return backbone.logits(backbone.head(), hidden_blm)[0]
