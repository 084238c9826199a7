"""Perplexity by length of context, against stock transformers one segment at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ghost.errors import CorpusError
from ghost.evaluation.contexts import PREDICTED, context_nll, segments
from ghost.evaluation.rows import perplexities
from ghost.stack import Stack
from tests.models import load_stock, make_model, open_stack, random_tokens

LONGEST = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), layers=2, n_groups=2)


@pytest.fixture(scope="module")
def stack(folder: Path) -> Stack:
    return open_stack(folder)


@torch.inference_mode()
def direct(model: Any, segment: Tensor, context: int) -> float:
    """The stock model reads `context` tokens and then the targets, one after the other."""
    losses = []
    start = len(segment) - PREDICTED - context
    for target in range(len(segment) - PREDICTED, len(segment)):
        logits = model(segment[None, start:target].long(), use_cache=False).logits[0, -1]
        losses.append(F.cross_entropy(logits, segment[target].long()).item())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("context", [1, 16, LONGEST])
def test_each_segment_is_predicted_from_just_that_much_of_the_text(folder: Path, stack: Stack, context: int):
    found = segments(random_tokens(1, 300, seed=1)[0], LONGEST, 3)
    model = load_stock(folder)
    expected = [direct(model, segment, context) for segment in found]
    torch.testing.assert_close(context_nll(stack, found, context), torch.tensor(expected).double(), rtol=1e-5, atol=0)


def test_sweeps_and_batches_change_nothing(stack: Stack, monkeypatch: pytest.MonkeyPatch):
    found, read = segments(random_tokens(1, 800, seed=1)[0], LONGEST, 9), []
    whole = context_nll(stack, found, 30)
    monkeypatch.setattr("ghost.evaluation.forward.TOKENS_PER_SWEEP", 200)
    monkeypatch.setattr(stack, "batch_tokens", 100)
    torch.testing.assert_close(context_nll(stack, found, 30, read.append), whole, rtol=1e-5, atol=0)
    assert sum(read) == 9 * (30 + PREDICTED - 1)


def test_segments_are_spread_over_the_text_and_never_overlap():
    text = torch.arange(1000, dtype=torch.int32)
    found = segments(text, 34, 8)  # 20 of 50 tokens fit
    assert found.shape == (8, 50) and found[:, 0].tolist() == [0, 100, 250, 350, 500, 600, 750, 850]
    assert len(segments(text, 34, 100)) == 20 and (found.diff() == 1).all()


def test_a_text_shorter_than_one_segment_is_refused_with_the_longest_context_that_fits():
    with pytest.raises(CorpusError, match=r"has 99 tokens, shorter than a context of 84 .* --contexts of 83 or less"):
        segments(torch.zeros(99, dtype=torch.int32), 84, 1)
    assert segments(torch.zeros(99, dtype=torch.int32), 83, 1).shape == (1, 99)


def test_the_change_of_perplexity_has_the_error_of_the_paired_differences():
    nll = torch.tensor([1.0, 2.0, 6.0]).double()
    dense, pruned, change = perplexities("context", "16", {"dense": nll, "pruned": nll + 0.1})
    assert dense["value"] == pytest.approx(torch.e**3) and pruned["value"] == pytest.approx(torch.e**3.1)
    assert dense["stderr"] == pytest.approx(torch.e**3 * (7 / 3) ** 0.5)
    assert change["value"] == pytest.approx(torch.e**0.1 - 1) and change["stderr"] == pytest.approx(0, abs=1e-9)
