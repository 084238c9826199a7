"""Who is told how far a sweep is: whoever is told of runs, and knows cells as well."""

from typing import Protocol, runtime_checkable

from tasks import progress


@runtime_checkable
class CellProgress(Protocol):
    """Told of every cell, before and after."""

    def cell(self, name: str) -> None: ...

    def cell_done(self) -> None: ...


def cell(name: str) -> None:
    """This cell begins."""
    if isinstance(told := progress.current(), CellProgress):
        told.cell(name)


def cell_done() -> None:
    """A cell has ended, one way or the other."""
    if isinstance(told := progress.current(), CellProgress):
        told.cell_done()
