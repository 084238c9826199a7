"""The three tasks of a layer: calibrate, score, prune. A layer found done in the store ends as state `Cached`."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from safetensors.torch import load, save
from torch import Tensor

from artifacts.digest import sha256_bytes
from artifacts.errors import DamagedArtifact, MissingArtifact
from artifacts.manifest import merge_timings, read_layer, write_layer
from artifacts.schemas import SELECTION, STATS
from artifacts.tables import decode, encode, metadata
from ghost.mixer import Weights
from ghost.saliency import LayerStatistics
from ghost.selection import Selection
from tasks.run import Run
from tasks.tables import read_selection, read_statistics, selection_columns, statistics_columns

CHAIN = "chain"
OPTIONS: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}


def reference(key: str, sha256: str, *, cached: bool = False, note: str | None = None) -> State[Any]:
    """A task's result: where the artifact lies, never the artifact. A note shows in the state's message."""
    name = "Cached" if cached else "Completed"
    return Completed(name=name, message=f"{key}: {note}" if note else key, data={"key": key, "sha256": sha256})


@contextmanager
def timed(run: Run, stage: str) -> Iterator[None]:
    """Note the stage's seconds in timings.json, which is outside the manifest."""
    started = time.perf_counter()
    yield
    merge_timings(run.store, run.keys, {stage: round(time.perf_counter() - started, 3)})


@task(name="calibrate_layer", task_run_name="layer {layer:02d}: calibrate", **OPTIONS)
def calibrate_layer(run: Run, layer: int) -> State[Any]:
    """Statistics of the layer, to stats.parquet; adopts the whole layer, or its statistics, if the store has them."""
    if _adopt(run, layer):
        return reference(run.keys.stats(layer), run.records[layer].files["stats.parquet"], cached=True)
    if (found := _stored_statistics(run, layer)) is not None:
        return reference(run.keys.stats(layer), sha256_bytes(found), cached=True)
    with timed(run, f"layer {layer:03d} calibrate"):
        columns = statistics_columns(layer, run.walk.statistics(layer))
        digest = run.store.put(run.keys.stats(layer), encode(columns, STATS, {CHAIN: run.chain(layer)}))
    return reference(run.keys.stats(layer), digest)


def _adopt(run: Run, layer: int) -> bool:
    """Take the layer from the store, if it is done there under this chain and every digest matches."""
    record = read_layer(run.store, run.keys, layer, run.chain(layer))
    if record is None:
        return False
    _restore(run, layer, read_selection(run.store, run.keys, layer))
    run.done(layer, record, cached=True)
    return True


def _restore(run: Run, layer: int, selection: Selection) -> None:
    """What is more than a cut can't be made again from the source: the walk goes on through the bytes in the store."""
    changes = run.walk.changes
    run.walk.restore(layer, selection, (lambda: load(run.store.get(run.keys.weights(layer)))) if changes else None)


def _stored_statistics(run: Run, layer: int) -> bytes | None:
    """stats.parquet of a layer that failed after it was written: only with this chain, and to the last bit."""
    try:
        data = run.store.get(run.keys.stats(layer))
        table = decode(data, STATS)
    except (MissingArtifact, DamagedArtifact):
        return None
    extra = metadata(table)
    intact = extra.get(CHAIN) == run.chain(layer) and encode(table, STATS, extra) == data
    return data if intact else None


@task(name="score_layer", task_run_name="layer {layer:02d}: score", **OPTIONS)
def score_layer(run: Run, layer: int) -> State[Any]:
    """Saliency and the choice of channels, from stats.parquet to selection.parquet."""
    key = run.keys.selection(layer)
    if layer in run.records:
        return reference(key, run.records[layer].files["selection.parquet"], cached=True)
    statistics = read_statistics(run.store, run.keys, layer)
    selection = run.walk.select(layer, statistics)
    digest = run.store.put(key, encode(selection_columns(layer, selection), SELECTION))
    return reference(key, digest)


def energy_dropped(statistics: LayerStatistics, selection: Selection) -> float | None:
    """Share of the squared saliency that lies in dropped channels; None where the method measures no energy."""
    return None if statistics.energy_gn is None else dropped_share(statistics.energy_gn, selection.kept_gn)


def dropped_share(energy: Tensor, kept: Tensor) -> float:
    """Share of these channels' energy that lies in those that go; 0 where they have none."""
    total = energy.sum()
    return float(torch.where(kept, 0, energy).sum() / total) if total else 0.0


def extreme(saliency: Tensor, of: Callable[[Tensor], Tensor]) -> str:
    """The least or most of some channels' saliencies; of a whole layer that stays, or goes, one side has none."""
    return f"{float(of(saliency)):.4g}" if saliency.numel() else "-"


@task(name="prune_layer", task_run_name="layer {layer:02d}: prune", **OPTIONS)
def prune_layer(run: Run, layer: int) -> State[Any]:
    """The pruned mixer to weights.safetensors, then layer.json: from here on the layer is done."""
    key = run.keys.weights(layer)
    if layer in run.records:
        return reference(key, run.records[layer].files["weights.safetensors"], cached=True)
    selection = read_selection(run.store, run.keys, layer)
    pruned = run.walk.reduce(layer, read_statistics(run.store, run.keys, layer), selection)
    pruned, note = _recover(run, layer, pruned)
    described = {"recovery": note} if note else None
    digest = run.store.put(key, save({name: tensor.contiguous() for name, tensor in pruned.items()}, described))
    names = ("stats", "selection")
    files = {f"{name}.parquet": run.store.sha256(getattr(run.keys, name)(layer)) for name in names}
    record = write_layer(run.store, run.keys, layer, run.chain(layer), files | {"weights.safetensors": digest})
    _restore(run, layer, selection)
    run.done(layer, record, cached=False)
    return reference(key, digest, note=note)


def _recover(run: Run, layer: int, pruned: Weights) -> tuple[Weights, str | None]:
    """The pruned tensors after recovery, and what it came to, for the file's metadata and the task's state."""
    if run.settings.recovery == "none":
        return pruned, None
    with timed(run, f"layer {layer:03d} recover"):
        recovered = run.walk.recover(layer, pruned)
    return recovered.mixer, f"recovery {recovered.summary()}"
