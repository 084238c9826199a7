"""One walk by several processes: what rank 0's is asked, the walks of the others are asked too, each for its share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghost.checkpoint.source import open_checkpoint
from ghost.config import DTYPES
from ghost.evaluation.perplexity import Perplexity, perplexity
from ghost.mixer import Weights
from ghost.pruning import Pruning
from ghost.recovery import Recovered
from ghost.saliency import LayerStatistics
from ghost.selection import Selection
from ghost.stack import Stack
from ghost.team import Gang, Team, nothing
from ghost.walk import Walk


class LedWalk(Walk):
    """Rank 0's walk, and the others' with it. They begin with the first question that takes all of them: layers that
    are known already are restored without them."""

    def __init__(self, stack: Stack, tokens_bl: Tensor, settings: Pruning, gang: Gang) -> None:
        super().__init__(stack, tokens_bl, settings, gang)
        self._gang, self._unasked, self._have_begun = gang, list[tuple[Any, ...]](), False

    def statistics(self, i: int) -> LayerStatistics:
        self._ask("statistics", i)
        return super().statistics(i)

    def select(self, i: int, statistics: LayerStatistics) -> Selection:
        self._ask("select", i, statistics)
        return super().select(i, statistics)

    def reduce(self, i: int, statistics: LayerStatistics, selection: Selection) -> dict[str, Tensor]:
        self._ask("reduce", i, statistics, selection)
        return super().reduce(i, statistics, selection)

    def recover(self, i: int, pruned: Weights) -> Recovered:
        self._ask("recover", i, dict(pruned))
        return super().recover(i, pruned)

    def restore(self, i: int, selection: Selection, stored: Callable[[], Weights] | None = None) -> None:
        self._unasked.append(("restore_as_led", i, selection))
        super().restore(i, selection, stored and (lambda: self._gang.lead(stored)))

    def _ask(self, *step: Any) -> None:
        if not self._have_begun:
            place = str(self.stack.checkpoint.folder), self.stack.device.type, self.stack.dtype
            self._gang.begin(FollowingWalk, place, self.tokens_bl, self.settings.part(Pruning))
            self._have_begun = True
        for waiting in (*self._unasked, step):
            self._gang.ask(*waiting)
        self._unasked.clear()


class FollowingWalk(Walk):
    """The walk of another process than rank 0, through the model in the same folder."""

    def __init__(self, gang: Gang, place: tuple[str, str, torch.dtype], tokens_bl: Tensor, settings: Pruning) -> None:
        folder, kind, dtype = place
        stack = Stack(open_checkpoint(Path(folder)), device_of(gang.rank, kind), dtype)
        super().__init__(stack, tokens_bl, settings, gang)
        self._gang = gang

    def restore_as_led(self, i: int, selection: Selection) -> None:
        """`restore`, with the pruned mixer that rank 0 has, when it is needed."""
        self.restore(i, selection, (lambda: self._gang.lead(nothing)) if self.changes else None)


class LedPerplexity:
    """Perplexities on a text (length,), by rank 0 and the others with it."""

    def __init__(self, team: Team, device: str, dtype: str, tokens: Tensor, window: int) -> None:
        self._team, self._of = team, (device, dtype, tokens, window)
        if isinstance(team, Gang):
            team.begin(FollowingPerplexity, *self._of)

    def perplexity(self, folder: str, progress: Callable[[int], None]) -> Perplexity:
        """Of the model in a folder; `progress` is called with the tokens just finished."""
        if isinstance(self._team, Gang):
            self._team.ask("perplexity", folder)
        return _perplexity(self._team, self._of, folder, progress)


class FollowingPerplexity:
    """The same by another process than rank 0."""

    def __init__(self, gang: Gang, device: str, dtype: str, tokens: Tensor, window: int) -> None:
        self._gang, self._of = gang, (str(device_of(gang.rank, torch.device(device).type)), dtype, tokens, window)

    def perplexity(self, folder: str) -> None:
        _perplexity(self._gang, self._of, folder, None)


def _perplexity(
    team: Team, of: tuple[str, str, Tensor, int], folder: str, progress: Callable[[int], None] | None
) -> Perplexity:
    device, dtype, tokens, window = of
    stack = Stack(open_checkpoint(Path(folder)), torch.device(device), DTYPES[dtype])
    return perplexity(stack, tokens, window, progress, team)


def device_of(rank: int, kind: str) -> torch.device:
    """The device of a process: the CPU, or a GPU of its own."""
    return torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
