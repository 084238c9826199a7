"""The proof of a pruned checkpoint: stock transformers on one side, the original with masked channels on the other.

A projected checkpoint runs in the classes of ghost/modeling, against the original with the checkpoint's own B_proj and
C_proj behind the convolution. Recovery, and pruning weight by weight, change weights on purpose, so that such a
checkpoint computes what no masked original does: of it, it is proved that transformers computes what ghost's own path
computes with the same stored weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.errors import VerificationError
from ghost.export import KEPT, PROVENANCE
from ghost.forms import Form
from ghost.mixer import MixerLayout
from ghost.saliency import form_of
from ghost.selection import Channels, Selection
from ghost.stack import Stack

STORED = "the stored, changed weights in ghost's own path"
LIMIT = 1e-4
"""Largest difference of any logit, relative to the largest logit, between two fp32 implementations."""


class Record(NamedTuple):
    """What ghost.json says of a checkpoint."""

    selections: Mapping[int, Selection]
    form: Form
    recovered: bool


@torch.inference_mode()
def verify(folder: Path, source: Checkpoint, tokens: Tensor) -> dict[str, Any]:
    """Largest logit difference over a window of tokens (length,), relative to the largest logit.

    The pruned checkpoint runs in stock transformers, with no code of ghost's unless it is projected; the original runs
    in ghost's own path with its B and C as the checkpoint's form has it: the channels that ghost.json does not list
    zeroed after the convolution, or both projected. Where weights were changed beyond that, the checkpoint itself does;
    `against` says which. VerificationError where they differ.
    """
    record, pruned = _record(folder, source), open_checkpoint(folder)
    _check_form(folder, pruned, record.form)
    cuts = None if record.recovered else _cuts(pruned, record)
    expected_lv = _logits(pruned, None, tokens) if cuts is None else _logits(source, cuts, tokens)
    difference = float((_stock_logits(pruned, tokens) - expected_lv).abs().max() / expected_lv.abs().max())
    computes = record.form.words.computes
    if not difference <= LIMIT:
        wanted = "its own weights give in ghost's own path" if cuts is None else f"{source.folder} computes {computes}"
        raise VerificationError(
            f"{folder} does not compute what {wanted}: logits differ by {difference:.1e} of their scale "
            f"(limit {LIMIT:.0e}); prune it again, or give the model it was made from"
        )
    found = {"difference": difference, "limit": LIMIT, "tokens": len(tokens), "layers": len(source.mixers)}
    return found | {"against": STORED if cuts is None else f"the original {computes}"}


def _record(folder: Path, source: Checkpoint) -> Record:
    try:
        record = json.loads((folder / PROVENANCE).read_text())
        determinants = record["ghost"]["determinants"]
        if determinants["checkpoint"] != source.digest:
            raise VerificationError(f"{folder} was not made from {source.folder}; give that model with --against")
        kept = record[KEPT]
        _check_count("layers", len(kept), source.layers)
        selections = {i: _selection(kept[i], source.mixer_layout) for i in source.mixers}
        form = form_of(determinants.get("method", "ghost"), soft=bool(determinants.get("soft")))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(folder, error) from None
    return Record(selections, form, determinants.get("recovery", "none") != "none")


def _damaged(folder: Path, why: object) -> VerificationError:
    return VerificationError(f"{folder / PROVENANCE} is missing or damaged ({why}); give a checkpoint that ghost made")


def _check_form(folder: Path, pruned: Checkpoint, form: Form) -> None:
    """Record and weights are of one form; the folder's code, if it has to bring any, is what others run under
    trust_remote_code."""
    from ghost.modeling import SOURCE

    if form.carries_code == (pruned.mixer_layout.projected_from is None):
        raise _damaged(folder, f"B and C are {'not ' * form.carries_code}projected, and its method does otherwise")
    copied = folder / SOURCE.name
    if form.carries_code and (not copied.is_file() or copied.read_bytes() != SOURCE.read_bytes()):
        raise VerificationError(f"{copied} is missing or not this ghost's code; prune the model again")


def _cuts(pruned: Checkpoint, record: Record) -> Mapping[int, Channels] | None:
    """What B and C of the original go through, by layer; None where no original computes what the checkpoint does."""
    cuts = {}
    for i, selection in record.selections.items():
        cut = record.form.proof(selection, pruned.mixer(i) if record.form.changes else None)
        if cut is None:
            return None
        cuts[i] = cut
    return cuts


def _selection(groups: list[list[int]], layout: MixerLayout) -> Selection:
    _check_count("groups", len(groups), layout.n_groups)
    kept_gn = torch.zeros(layout.n_groups, layout.d_state, dtype=torch.bool)
    for group, channels in enumerate(groups):
        kept_gn[group, channels] = True
    return Selection(kept_gn.double(), kept_gn)


def _check_count(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{found} {name}, but the model has {expected}")


def _stock_logits(pruned: Checkpoint, tokens: Tensor) -> Tensor:
    """A native folder's config is none that transformers reads, so that it is given."""
    from transformers import AutoModelForCausalLM

    config = {"config": pruned.config} if pruned.native else {}
    model = AutoModelForCausalLM.from_pretrained(
        pruned.folder, dtype=torch.float32, trust_remote_code=False, **config
    ).eval()
    return model(tokens.unsqueeze(0), use_cache=False).logits[0]


def _logits(checkpoint: Checkpoint, cuts: Mapping[int, Channels] | None, tokens: Tensor) -> Tensor:
    """Logits of ghost's own path; with `cuts` B and C go through them after the convolution."""
    stack = Stack(checkpoint, torch.device("cpu"), torch.float32)
    stream = stack.enter(tokens.unsqueeze(0))
    for i in range(stack.layers):
        stream = stream.moved(stack.layer(i).advance(stream, None if cuts is None else cuts.get(i)))
    with stack.head() as logits:
        return logits(stream.hidden_blm)[0]
