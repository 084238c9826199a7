"""Directions of a rotated basis in place of channels: what the method `balanced` measures, ranks and projects to."""

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from ghost.mixer import MixerInputs
from ghost.saliency.balanced import Balanced, balance
from ghost.saliency.gramians import gramians
from ghost.saliency.statistics import LayerStatistics, finite
from ghost.team import ALONE, Team


def measure_gramians(
    norms: LayerStatistics, batches: Iterable[MixerInputs], where: str, team: Team = ALONE
) -> LayerStatistics:
    """`norms` with both Gramians."""
    both = [finite(gramian, "the state's Gramians", where) for gramian in gramians(batches, team=team)]
    return replace(norms, controllability_gramian_gnn=both[0], observability_gramian_gnn=both[1])


def balance_of(statistics: LayerStatistics) -> Balanced:
    """The basis in which both Gramians agree, direction by direction in falling order of what it carries."""
    assert statistics.controllability_gramian_gnn is not None and statistics.observability_gramian_gnn is not None
    return balance(statistics.controllability_gramian_gnn, statistics.observability_gramian_gnn)


def balanced(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """The empirical Hankel singular values (Moore 1981), of directions and not of channels: (g, n), falling."""
    return balance_of(statistics).hankel_gn


def directions(statistics: LayerStatistics) -> tuple[Tensor, Tensor]:
    """Those of B and of C in that basis, one a row (g, n, n)."""
    _, B_gnn, C_gnn = balance_of(statistics)
    return B_gnn, C_gnn
