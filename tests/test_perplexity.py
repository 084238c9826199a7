"""Perplexity against a direct computation with stock transformers, window by window."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ghost.errors import CorpusError
from ghost.evaluation.perplexity import Perplexity, perplexity
from ghost.stack import Stack
from tests.models import VOCAB, load_stock, make_model, open_stack, random_tokens

WINDOW = 16
REST = {"exact": 1, "one target more": 2, "half a window more": 9, "all but one": WINDOW}
"""Tokens behind the four whole windows: the last target, and what begins another window."""


def text_of(length: int) -> Tensor:
    return random_tokens(1, length, seed=3)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), layers=2, n_groups=2)


@pytest.fixture(scope="module")
def stack(folder: Path) -> Stack:
    return open_stack(folder)


@pytest.fixture(scope="module")
def stock(folder: Path) -> Any:
    return load_stock(folder)


@torch.inference_mode()
def losses(model: Any, tokens: Tensor, window: int) -> Iterator[float]:
    """Negative log-likelihood of every token but the first, each from its own window's tokens before it."""
    for start in range(0, len(tokens) - 1, window):
        read, targets = tokens[start : start + window].long(), tokens[start + 1 : start + window + 1].long()
        log_pv = model(read.unsqueeze(0), use_cache=False).logits[0].double().log_softmax(-1)
        yield from (-log_pv[t, target].item() for t, target in enumerate(targets.tolist()))


def assert_direct(found: Perplexity, model: Any, tokens: Tensor, window: int = WINDOW) -> None:
    expected = list(losses(model, tokens, window))
    assert (found.tokens, found.window) == (len(expected), window)
    assert math.isclose(found.nll, math.fsum(expected) / len(expected), rel_tol=1e-6)
    assert math.isclose(found.perplexity, math.exp(found.nll), rel_tol=1e-12)


@pytest.mark.parametrize("rest", REST.values(), ids=REST)
def test_windows_and_a_last_shorter_one_equal_the_direct_computation(stack: Stack, stock: Any, rest: int):
    tokens = text_of(4 * WINDOW + rest)
    found = perplexity(stack, tokens, WINDOW)
    assert found.tokens == 4 * WINDOW + rest - 1
    assert_direct(found, stock, tokens)


@pytest.mark.parametrize(("window", "length"), [(70, 71), (40, 71), (35, 71), (2, 7)])
def test_any_window_up_to_the_whole_text(stack: Stack, stock: Any, window: int, length: int):
    assert_direct(perplexity(stack, text_of(length), window), stock, text_of(length), window)


@pytest.mark.parametrize("batch", [1, 2 * WINDOW, 3 * WINDOW])
@pytest.mark.parametrize("sweep", [1, 3 * WINDOW, 8 * WINDOW])
def test_batches_and_sweeps_change_nothing(
    stack: Stack, stock: Any, sweep: int, batch: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ghost.evaluation.perplexity.TOKENS_PER_SWEEP", sweep)
    monkeypatch.setattr(stack, "batch_tokens", batch)
    tokens, finished = text_of(7 * WINDOW + 5), []
    found = perplexity(stack, tokens, WINDOW, finished.append)
    assert_direct(found, stock, tokens)
    one = max(1, batch // WINDOW) * WINDOW  # a sweep is of whole batches, which are the same for any share of the text
    most = max(sweep, one)
    *full, _, rest = finished
    assert sum(finished) == found.tokens and rest == 4
    assert max(finished) <= most and all(most - one < done for done in full)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(tmp_path: Path):
    folder = make_model(tmp_path, layers=1, tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"lm_head.weight": torch.zeros(VOCAB, 32)}, folder / "model.safetensors", {"format": "pt"})
    found = perplexity(open_stack(folder), text_of(50), WINDOW)
    assert math.isclose(found.perplexity, VOCAB, rel_tol=1e-6)
    assert math.isclose(found.nll, math.log(VOCAB), rel_tol=1e-6)


def test_bf16_gives_nearly_the_same_perplexity(folder: Path, stack: Stack):
    exact = perplexity(stack, text_of(80), WINDOW)
    assert 0 < abs(perplexity(open_stack(folder, torch.bfloat16), text_of(80), WINDOW).nll - exact.nll) < 0.02


@pytest.mark.parametrize("length", [0, 1, WINDOW])
def test_a_text_shorter_than_one_window_and_its_last_target_is_refused(stack: Stack, length: int):
    message = f"the evaluation text has {length} tokens, shorter than one window of {WINDOW} and its last target; "
    remedy = f"give a longer text, or --window {max(2, length - 1)} or less"
    with pytest.raises(CorpusError, match=f"^{re.escape(message + remedy)}$"):
        perplexity(stack, text_of(length), WINDOW)


def test_results_are_plain_values(stack: Stack):
    found = perplexity(stack, text_of(40), WINDOW)
    assert found.as_dict() == {
        "perplexity": found.perplexity,
        "nll": found.nll,
        "tokens": 39,
        "window": WINDOW,
        "window_nats": list(found.window_nats),
    }
    assert len(found.window_nats) == 3 and math.isclose(sum(found.window_nats), 39 * found.nll)
    assert Perplexity.from_dict(found.as_dict()) == found


def score(*window_nats: float, tokens: int, window: int = 10) -> Perplexity:
    nll = sum(window_nats) / tokens
    return Perplexity(math.exp(nll), nll, tokens, window, window_nats)


def test_the_error_of_a_change_is_that_of_the_pairs(stack: Stack):
    dense, shifts = (30.0, 42.0, 25.0, 61.0), (1.0, 2.0, 4.0, -1.0)
    pruned = score(*(a + b for a, b in zip(dense, shifts, strict=True)), tokens=40)
    expected = torch.tensor(shifts).std() / 10 / 2
    assert score(*dense, tokens=40).error_of_change(pruned) == pytest.approx(float(expected))
    assert score(*dense, tokens=40).error_of_change(score(*dense, tokens=40)) == 0
    # a shorter last window that loses as much a token is no noise
    assert score(10, 10, 5, tokens=25).error_of_change(score(20, 20, 10, tokens=25)) == pytest.approx(0, abs=1e-12)
    assert score(10, tokens=10).error_of_change(score(11, tokens=10)) is None
    assert score(10, math.nan, tokens=20).error_of_change(score(11, 11, tokens=20)) is None
