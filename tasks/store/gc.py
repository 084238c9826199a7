"""Unfinished runs that nobody has continued for a while: found, and removed for whoever says so."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from artifacts.keys import RUNS, RunKeys
from artifacts.objects import StoredObject
from artifacts.store import Store
from tasks.stored_run import StoredRun, open_existing

DAY_SECONDS = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A run without a manifest: what it was to prune, when it last stored something, and what it holds."""

    run_id: str
    model: str
    days: float
    """Since its newest object was stored."""
    size: int
    """Bytes of all its objects, and of its pruning's where no other run has the same."""
    layers: int
    """Layers that are done."""


def collect(store: str, days: float, *, remove: bool) -> list[dict[str, Any]]:
    """The runs without a manifest that stored nothing for `days`, oldest first; gone afterwards where `remove`.

    Raises MissingArtifact where there is no store, StoreError where it fails.
    """
    opened = open_existing(store)
    runs = _runs(opened)
    found = [unfinished for run in runs if (unfinished := look(run, runs, days))]
    if remove:
        by_id = {run.keys.run_id: run for run in runs}
        found = [unfinished for unfinished in found if _removed(by_id[unfinished.run_id], days)]
    return [asdict(run) for run in sorted(found, key=lambda run: -run.days)]


def _runs(store: Store) -> list[StoredRun]:
    """Those that are there now."""
    run_ids = sorted({found.key.split("/")[1] for found in store.objects(RUNS)})
    return [StoredRun(store, RunKeys(run_id)) for run_id in run_ids]


def look(run: StoredRun, runs: Sequence[StoredRun], days: float) -> Unfinished | None:
    """The run, one of `runs`, if it is unfinished and neither it nor its pruning has stored anything for `days`."""
    own, pruned = _objects(run.store, run.keys.root), _objects(run.store, run.pruning.root)
    newest = max((found.modified for found in (*own, *pruned)), default=time.time())
    idle = (time.time() - newest) / DAY_SECONDS
    if not own or idle < days or any(found.key == run.keys.manifest for found in own):
        return None
    return Unfinished(
        run_id=run.keys.run_id,
        model=str(run.record.get("model", "?")),
        days=round(idle, 1),
        size=sum(found.size for found in {*own, *(() if _shared(run, runs) else pruned)}),
        layers=len(run.layers),
    )


def _objects(store: Store, root: str) -> tuple[StoredObject, ...]:
    return store.objects(f"{root}/")


def _shared(run: StoredRun, runs: Sequence[StoredRun]) -> bool:
    """Whether another run has the same pruning."""
    return any(other.pruning == run.pruning and other.keys != run.keys for other in runs)


def _removed(run: StoredRun, days: float) -> bool:
    """Whether the run is gone now, and its pruning with the last run that has it; it stays if somebody has continued or
    finished it meanwhile.

    Records go before what they vouch for, so that what is left of an interrupted removal claims nothing, and run.json
    last, so that it still has a name.
    """
    runs = _runs(run.store)  # not those of before: one that began meanwhile may have the same pruning
    if look(run, runs, days) is None:
        return False
    roots = {run.keys.root} if _shared(run, runs) else {run.keys.root, run.pruning.root}
    stored = [found.key for root in roots for found in _objects(run.store, root)]
    for key in sorted(stored, key=lambda key: (key == run.keys.run, not key.endswith(".json"), key)):
        run.store.delete(key)
    return True
