"""Unfinished runs that nobody has continued for a while: found, and removed for whoever says so."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from artifacts.digest import parse_object
from artifacts.errors import ArtifactError
from artifacts.keys import RunKeys
from artifacts.store import Store
from tasks.store.show import open_existing

DAY_SECONDS = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A run without a manifest: what it was to prune, when it last stored something, and what it holds."""

    run_id: str
    model: str
    days: float
    """Since its newest object was stored."""
    size: int
    """Bytes of all its objects."""
    layers: int
    """Layers that are done."""


def collect(store: str, days: float, *, remove: bool) -> list[dict[str, Any]]:
    """The runs without a manifest that stored nothing for `days`, oldest first; gone afterwards where `remove`.

    Raises MissingArtifact where there is no store, StoreError where it fails.
    """
    opened = open_existing(store)
    run_ids = sorted({found.key.split("/")[1] for found in opened.objects("runs/")})
    found = [run for run_id in run_ids if (run := look(opened, run_id, days))]
    if remove:
        found = [run for run in found if _removed(opened, run, days)]
    return [asdict(run) for run in sorted(found, key=lambda run: -run.days)]


def look(store: Store, run_id: str, days: float) -> Unfinished | None:
    """The run, if it is unfinished and has stored nothing for `days`."""
    keys = RunKeys(run_id)
    objects = store.objects(f"{keys.root}/")
    idle = (time.time() - max((found.modified for found in objects), default=time.time())) / DAY_SECONDS
    if not objects or idle < days or any(found.key == keys.manifest for found in objects):
        return None
    layers = sum(found.key.endswith("/layer.json") for found in objects)
    size = sum(found.size for found in objects)
    return Unfinished(run_id=run_id, model=_model(store, keys), days=round(idle, 1), size=size, layers=layers)


def _model(store: Store, keys: RunKeys) -> str:
    try:
        record = parse_object(store.record(keys.run)) or {}
    except ArtifactError:
        record = {}
    return str(record.get("model", "?"))


def _removed(store: Store, run: Unfinished, days: float) -> bool:
    """Whether the run is gone now; it stays if somebody has continued or finished it meanwhile.

    Records go before what they vouch for, so that what is left of an interrupted removal claims nothing, and run.json
    last, so that it still has a name.
    """
    if look(store, run.run_id, days) is None:
        return False
    keys = RunKeys(run.run_id)
    stored = [found.key for found in store.objects(f"{keys.root}/")]
    for key in sorted(stored, key=lambda key: (key == keys.run, not key.endswith(".json"), key)):
        store.delete(key)
    return True
