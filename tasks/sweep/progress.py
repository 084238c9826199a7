"""Who is told how far a sweep is: whoever is told of runs, and knows cells as well."""

from typing import Protocol

from tasks.progress import Progress, Silent


class CellProgress(Progress, Protocol):
    """Told of every cell, before and after, and of what its run does."""

    def cell(self, name: str) -> None: ...

    def cell_done(self) -> None: ...


class SilentCells(Silent):
    """Ignores everything."""

    def cell(self, name: str) -> None:
        pass

    def cell_done(self) -> None:
        pass


SILENT_CELLS = SilentCells()
