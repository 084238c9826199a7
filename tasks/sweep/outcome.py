"""What became of a cell."""

from dataclasses import dataclass

from artifacts.errors import ArtifactError
from artifacts.keys import RunKeys
from artifacts.redaction import redact
from artifacts.store import Store
from ghost.errors import GhostError, reason
from tasks.stored_run import StoredRun
from tasks.sweep.settings import Cell


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A cell with its run, or with why there is none."""

    cell: Cell
    run_id: str | None = None
    error: str | None = None

    def run(self, store: Store) -> StoredRun:
        """Its run in the store."""
        assert self.run_id is not None
        return StoredRun(store, RunKeys(self.run_id))


def failed(cell: Cell, error: object) -> Outcome:
    """The cell failed, with this error or message, in one line. What no user can mend is named as unexpected."""
    why = str(error)
    if isinstance(error, BaseException) and not isinstance(error, GhostError | ArtifactError):
        why = f"unexpected {reason(error)}"
    return Outcome(cell=cell, error=" ".join(redact(why).split()))
