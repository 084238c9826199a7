"""What a model loses where its recurrent state is kept in fewer bits: perplexity and recall by precision.

Prefill and decoding are two measures. A state that is written once in a chunk is rounded a few times in a whole text;
in decoding it is rounded after every token, and what a slow head adds to it may be less than half a step of it, and be
lost. A perplexity by chunks shows nothing of that, so every precision is measured in both ways.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ghost.chunks import CHUNK
from ghost.evaluation import recall, rows
from ghost.evaluation.forward import TOKENS_PER_SWEEP
from ghost.likelihood import nlls
from ghost.stack import Stack
from ghost.stored_state import StoredState

EVERY = (256, 64, 1)
"""Steps between two writes of the state: chunks of prefill, 256 of which is most models' chunk_size, and decoding."""
WINDOWS = 8
"""Of the text, evenly spread; in decoding every token is a step of its own."""
UNROUNDED = StoredState(torch.float32, CHUNK)
PROTOCOL = (
    "the recurrent state of every mixer is written in the precision and read from it after so many steps (every step: "
    "as in decoding); in between it is fp32, as all else is; bfloat16 and float16 are casts, int8 and float8_e4m3fn "
    "have an fp32 scale for each head and channel of headdim, by the largest of its state channels; round to nearest. "
    f"perplexity: every token of {WINDOWS} windows, as long as the longest context and evenly spread, with no carried "
    "state; perplexity_rise: over the same model's with float32 states, errors of pairs of windows; recall and tasks: "
    "as in those parts, in ghost's own recurrence; ssm_bytes: of one sequence, scales included"
)

Stacks = Mapping[str, Stack]
Progress = Callable[[int], None]


def ways(dtypes: Sequence[torch.dtype]) -> list[StoredState]:
    """Each precision by each number of steps; float32, which is not rounded, once and first."""
    return [UNROUNDED, *(StoredState(*pair) for pair in product(dtypes, EVERY) if pair[0] != torch.float32)]


def decoding(dtypes: Sequence[torch.dtype]) -> list[StoredState]:
    """The ways in which the state is rounded after every token."""
    return [way for way in ways(dtypes) if way.every == 1]


def label(way: StoredState) -> str:
    """The precision, and after how many steps it is written."""
    name = str(way.dtype).removeprefix("torch.")
    return name if way == UNROUNDED else f"{name}, every {'step' if way.every == 1 else f'{way.every} steps'}"


def state_bytes(stack: Stack, way: StoredState) -> int:
    """Of one sequence's recurrent states."""
    layout = stack.checkpoint.mixer_layout
    return len(stack.mixers) * way.bytes(layout.d_inner, layout.d_state)


def sizes(stacks: Stacks, dtypes: Sequence[torch.dtype]) -> Iterator[rows.Row]:
    for dtype in dtypes:
        by_model = {name: (float(state_bytes(stack, StoredState(dtype, 1))), None) for name, stack in stacks.items()}
        yield from rows.measured("state", str(dtype).removeprefix("torch."), "ssm_bytes", by_model)


def by_precision(
    stacks: Stacks, windows_bl: Tensor, dtypes: Sequence[torch.dtype], progress: Progress
) -> Iterator[rows.Row]:
    """Perplexity of every way, and its rise over float32 states."""
    unrounded: dict[str, Tensor] = {}
    for way in ways(dtypes):
        nll = {name: mean_nll(stack.storing(way), windows_bl, progress) for name, stack in stacks.items()}
        unrounded = unrounded or nll
        yield from rows.perplexities("state", label(way), nll)
        if way != UNROUNDED:
            yield from rows.rises("state", label(way), nll, unrounded)


@torch.inference_mode()
def mean_nll(stack: Stack, windows_bl: Tensor, progress: Progress | None = None) -> Tensor:
    """Mean negative log-likelihood (b,) in nats, float64, of every token of the windows but their first.

    `progress` is called with the tokens just predicted.
    """
    found = []
    for rows_bl in windows_bl.split(max(1, TOKENS_PER_SWEEP // windows_bl.shape[1])):
        hidden_blm, targets_bl = stack.run(rows_bl[:, :-1]).hidden_blm, rows_bl[:, 1:]
        with stack.head() as logits:
            found.append(nlls(logits, hidden_blm, targets_bl, stack.checkpoint.vocab_size).cpu() / targets_bl.shape[1])
        if progress:
            progress(targets_bl.numel())
    return torch.cat(found)


def recalled(
    stacks: Stacks,
    prompts: Mapping[tuple[int, int], recall.Prompts],
    dtypes: Sequence[torch.dtype],
    progress: Progress,
) -> Iterator[rows.Row]:
    """Recall where the state is written after every step; float32's is that of the part recall."""
    for way in decoding(dtypes):
        kept_so = {name: stack.storing(way) for name, stack in stacks.items()}
        yield from _of_way(way, recall.recall_rows(recall.compared(kept_so, prompts, progress)))


def of_benchmarks(way: StoredState, found: Mapping[str, Mapping[str, Any]]) -> Iterator[rows.Row]:
    """What `harness.run_benchmarks` found, by model."""
    return _of_way(way, rows.of_benchmarks(found))


def _of_way(way: StoredState, measured: Iterable[rows.Row]) -> Iterator[rows.Row]:
    """What another part has measured, of a state that is kept so."""
    for row in measured:
        yield row | {"part": "state", "case": f"{label(way)}, {row['case']}"}
