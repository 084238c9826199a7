"""Logits take no more memory than a named bound, and the figures are the same within rounding."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from ghost.evaluation.contexts import PREDICTED, context_nll
from ghost.evaluation.perplexity import perplexity
from ghost.evaluation.recall import Prompts, recall
from ghost.likelihood import within_logit_bytes
from ghost.stack import Head, Stack
from tests.models import VOCAB, make_model, open_stack, random_tokens


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    return open_stack(make_model(tmp_path_factory.mktemp("model"), layers=1))


def recalled(stack: Stack) -> Tensor:
    tokens = random_tokens(12, 40, seed=5).long()
    prompts = Prompts(tokens_bl=tokens, values_bn=tokens[:, 3:6], asked_b=torch.zeros(12, dtype=torch.long))
    return recall(stack, prompts)["log_likelihood"]


MEASURED: dict[str, tuple[Callable[[Stack], Tensor], int]] = {
    "perplexity": (lambda b: torch.tensor(perplexity(b, random_tokens(1, 500, seed=1)[0], 300).nll), 1),
    "perplexity in batches": (lambda b: torch.tensor(perplexity(b, random_tokens(1, 500, seed=1)[0], 20).nll), 1),
    "contexts": (lambda b: context_nll(b, random_tokens(12, 8 + PREDICTED, seed=2), 8), PREDICTED),
    "recall": (recalled, 1),
}
"""A figure, and of how many tokens there are logits at once at least."""


@pytest.mark.parametrize("what", MEASURED)
@pytest.mark.parametrize("rows", [1, 7])
def test_logits_stay_within_the_bound_and_the_figures_as_they_are(
    what: str, rows: int, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, least = MEASURED[what]
    plain, sizes, head = measure(stack), [], Stack.head

    @contextmanager
    def noted(self: Stack) -> Iterator[Head]:
        def logits(hidden_blm: Tensor) -> Tensor:
            sizes.append((found := within(hidden_blm)).nbytes)
            return found

        with head(self) as within:
            yield logits

    monkeypatch.setattr(Stack, "head", noted)
    bound = 4 * VOCAB * least * rows
    monkeypatch.setattr("ghost.likelihood.LOGIT_BYTES", bound)
    torch.testing.assert_close(measure(stack), plain, rtol=1e-6, atol=0)
    assert max(sizes) == bound and len(sizes) > 1


def test_slices_cover_the_rows_one_at_least_at_a_time() -> None:
    for tokens, vocab in ((1, 256_000), (16, 256_000), (1, 10**9)):
        slices = list(within_logit_bytes(slice(5, 900), tokens, vocab))
        assert [i for part in slices for i in range(part.start, part.stop)] == list(range(5, 900))
        rows = slices[0].stop - slices[0].start
        assert rows == 1 or 4 * tokens * vocab * rows <= 1 << 28
    assert list(within_logit_bytes(slice(0, 2048), 1, 4096)) == [slice(0, 2048)]
