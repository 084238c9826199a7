"""How far two runs of one model agree on the channels to keep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from ghost.report.paired_runs import Samples
from ghost.report.run_form import form_of_run


@dataclass(frozen=True, eq=False, kw_only=True)
class ComparedRun:
    """A finished run beside others.

    `summary` is as for `ghost.report.page.render`, `source` the digest of the dense model, `kept` says by layer which
    channels stayed, bool (n_groups, d_state), and `samples` has what its figures are means of.
    """

    summary: Mapping[str, Any]
    source: str
    kept: Mapping[int, np.ndarray]
    samples: Samples = field(default_factory=dict)

    @property
    def chooses_channels(self) -> bool:
        """What it kept are channels of the dense model: neither directions of another basis nor all of them."""
        return not form_of_run(self.summary).turns and not all(kept_gn.all() for kept_gn in self.kept.values())


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Jaccard index of the kept channels of two runs, by their places among the runs, for each layer of `numbers`.

    `chance` is about what two independent draws of as many channels would reach.
    """

    pair: tuple[int, int]
    numbers: list[int]
    layers: list[float]
    chance: list[float]

    @property
    def mean(self) -> float:
        """Over the layers."""
        return float(np.mean(self.layers))


def overlaps(runs: Sequence[ComparedRun]) -> list[Overlap]:
    """Every two runs that chose among channels of the same dense model."""
    found = []
    for (i, a), (j, b) in combinations(enumerate(runs), 2):
        if a.source == b.source and a.chooses_channels and b.chooses_channels:
            both = list(zip(a.kept.values(), b.kept.values(), strict=True))
            layers, chance = [jaccard(*kept) for kept in both], [by_chance(*kept) for kept in both]
            found.append(Overlap(pair=(i, j), numbers=list(a.kept), layers=layers, chance=chance))
    return found


def jaccard(a_gn: np.ndarray, b_gn: np.ndarray) -> float:
    """Channels that both keep, as a share of those that either keeps; 1 where neither keeps any."""
    either = int((a_gn | b_gn).sum())
    return int((a_gn & b_gn).sum()) / either if either else 1.0


def by_chance(a_gn: np.ndarray, b_gn: np.ndarray) -> float:
    """Expected channels in common over those expected in either, for independent draws of as many."""
    p, q = float(a_gn.mean()), float(b_gn.mean())
    return p * q / (p + q - p * q) if p or q else 1.0
