"""Who is told how far a run is. Nobody by default; the command line draws bars."""

from typing import Protocol


class Progress(Protocol):
    """Told of every layer and of every batch of evaluated tokens."""

    def start(self, layers: int, mixers: int) -> None:
        """So many decoder layers, of which so many have a Mamba2 state and are gone through one by one."""
        ...

    def layer(self, message: str) -> None: ...

    def evaluation(self, tokens: int) -> None: ...

    def evaluated(self, tokens: int) -> None: ...


class Silent:
    """Ignores everything; a worker's log has the same lines."""

    def start(self, layers: int, mixers: int) -> None:
        pass

    def layer(self, message: str) -> None:
        pass

    def evaluation(self, tokens: int) -> None:
        pass

    def evaluated(self, tokens: int) -> None:
        pass


SILENT = Silent()
