"""Who is told how far a run is. Nobody by default; the command line draws bars."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Told of every layer and of every batch of evaluated tokens."""

    def start(self, layers: int, evaluation_tokens: int) -> None: ...

    def layer(self, message: str) -> None: ...

    def evaluated(self, tokens: int) -> None: ...


class Silent:
    """Ignores everything; a worker's log has the same lines."""

    def start(self, layers: int, evaluation_tokens: int) -> None:
        pass

    def layer(self, message: str) -> None:
        pass

    def evaluated(self, tokens: int) -> None:
        pass


_current: Progress = Silent()


@contextmanager
def reporting_to(progress: Progress) -> Iterator[None]:
    """Inside, runs of this process report to `progress`."""
    global _current
    before, _current = _current, progress
    try:
        yield
    finally:
        _current = before


def current() -> Progress:
    return _current
