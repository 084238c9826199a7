"""What a figure changes by from one run to another, in pairs where both have seen the same samples."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ghost.significance import is_noise, paired

Figure = tuple[str, str, str]
"""Part, case and metric, as rows of an evaluation have them."""
PERPLEXITY: Figure = ("perplexity", "", "nats")
NO_SAMPLES = "not paired: a run of an older ghost"
OTHER_SAMPLES = {
    "perplexity": "not paired: other windows",
    "recall": "not paired: other prompts",
    "task": "not paired: other documents",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Sampled:
    """A figure of one pruned model, sample by sample (n,): its sums over so many tokens each.

    Another run has seen the same samples where `seen` is the same.
    """

    values: np.ndarray
    sizes: np.ndarray
    seen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return float(self.values.sum() / self.sizes.sum())


Samples = Mapping[Figure, Sampled]


class HasSamples(Protocol):
    """A run by what its figures are means of."""

    @property
    def samples(self) -> Samples: ...


@dataclass(frozen=True, kw_only=True)
class Difference:
    """From one run to another: of perplexity as a share of the first's, of other figures as a difference; standard
    error over samples in pairs. Where they are not paired, `why_not` says so in words, and there is no value."""

    value: float | None = None
    error: float | None = None
    why_not: str | None = None

    @property
    def is_noise(self) -> bool:
        return is_noise(self.value, self.error)


def figures_of(runs: Iterable[HasSamples]) -> list[Figure]:
    """What any of the runs was measured by; perplexity first."""
    return list(dict.fromkeys([PERPLEXITY, *(figure for run in runs for figure in run.samples)]))


def difference(first: Samples, second: Samples, figure: Figure = PERPLEXITY) -> Difference:
    """What `figure` changes by from the first run to the second."""
    a, b = first.get(figure), second.get(figure)
    if a is None or b is None:
        return Difference(why_not=NO_SAMPLES)
    if a.seen != b.seen or not np.array_equal(a.sizes, b.sizes):
        return Difference(why_not=OTHER_SAMPLES[figure[0]])
    value, error = paired(a.values, b.values, a.sizes)
    if figure == PERPLEXITY:
        with np.errstate(over="ignore"):
            value, times = float(np.expm1(value)), float(np.exp(value))
        error = None if error is None else times * error
    return Difference(value=value, error=error) if math.isfinite(value) else Difference()
