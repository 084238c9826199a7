"""One walk by several processes: what rank 0's is asked, the walks of the others are asked too, each for its share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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


class Computed(NamedTuple):
    """What a stack computes with: rank 0's device, its dtype by name, and how many tokens at once."""

    device: str
    dtype: str
    batch_tokens: int

    def stack(self, folder: str, rank: int) -> Stack:
        """That of a process, which has a GPU of its own where rank 0 has one."""
        device = torch.device(self.device)
        own = torch.device(device.type, rank) if device.type == "cuda" and rank else device
        return Stack(open_checkpoint(Path(folder)), own, DTYPES[self.dtype], batch_tokens=self.batch_tokens)


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
            stack, dtype = self.stack, str(self.stack.dtype).removeprefix("torch.")
            computed = Computed(str(stack.device), dtype, stack.batch_tokens)
            folder, settings = str(stack.checkpoint.folder), self.settings.part(Pruning)
            self._gang.begin(FollowingWalk, folder, computed, self.tokens_bl, settings)
            self._have_begun = True
        for waiting in (*self._unasked, step):
            self._gang.ask(*waiting)
        self._unasked.clear()


class FollowingWalk(Walk):
    """The walk of another process than rank 0, through the model in the same folder."""

    def __init__(self, gang: Gang, folder: str, computed: Computed, tokens_bl: Tensor, settings: Pruning) -> None:
        super().__init__(computed.stack(folder, gang.rank), tokens_bl, settings, gang)
        self._gang = gang

    def restore_as_led(self, i: int, selection: Selection) -> None:
        """`restore`, with the pruned mixer that rank 0 has, when it is needed."""
        self.restore(i, selection, (lambda: self._gang.lead(nothing)) if self.changes else None)


class LedPerplexity:
    """Perplexities on a text (length,), by rank 0 and the others with it."""

    def __init__(self, team: Team, computed: Computed, tokens: Tensor, window: int) -> None:
        self._team, self._computed, self._text = team, computed, (tokens, window)
        if isinstance(team, Gang):
            team.begin(FollowingPerplexity, computed, *self._text)

    def perplexity(self, folder: str, progress: Callable[[int], None]) -> Perplexity:
        """Of the model in a folder; `progress` is called with the tokens just finished."""
        if isinstance(self._team, Gang):
            self._team.ask("perplexity", folder)
        return perplexity(self._computed.stack(folder, 0), *self._text, progress, self._team)


class FollowingPerplexity:
    """The same by another process than rank 0."""

    def __init__(self, gang: Gang, computed: Computed, tokens: Tensor, window: int) -> None:
        self._gang, self._computed, self._text = gang, computed, (tokens, window)

    def perplexity(self, folder: str) -> None:
        perplexity(self._computed.stack(folder, self._gang.rank), *self._text, None, self._gang)
