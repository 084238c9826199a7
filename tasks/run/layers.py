"""The three tasks of a layer: calibrate, score, prune. Each hands on what it found, with the digest under which the
store keeps it; a layer found done in the store ends as state `Cached`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from safetensors.torch import load, save

from artifacts.claims import NOT_THERE
from artifacts.digest import sha256_bytes
from artifacts.manifest import LayerRecord, merge_timings, read_layer, write_layer
from artifacts.schemas import SELECTION, STATS
from artifacts.tables import decode, encode, metadata
from ghost.evaluation.rows import finite
from ghost.mixer import Weights
from ghost.saliency import LayerStatistics
from ghost.selection import Selection
from tasks.run.open import Run
from tasks.tables import selection_columns, selection_from, statistics_columns, statistics_from

CHAIN = "chain"
OPTIONS: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}

Content = TypeVar("Content")


class PrunedLayer:
    """A layer that is done: its record in the store, and what was found out about it. Prefect must not look inside."""

    def __init__(self, record: LayerRecord, statistics: LayerStatistics, selection: Selection, *, cached: bool) -> None:
        self.record, self.statistics, self.selection, self.cached = record, statistics, selection, cached


class Stored(Generic[Content]):
    """What a stage found, as it lies in the store under `sha256`; and the whole layer, where it was done before.
    Prefect must not look inside."""

    def __init__(self, content: Content, sha256: str, done: PrunedLayer | None = None) -> None:
        self.content, self.sha256, self.done = content, sha256, done


def ended(result: object, key: str, *, cached: bool = False, note: str | None = None) -> State[Any]:
    """A task's state, with the result that it hands on. Key and note show in its message."""
    name = "Cached" if cached else "Completed"
    return Completed(name=name, message=f"{key}: {note}" if note else key, data=result)


@contextmanager
def timed(run: Run, timings: str, stage: str) -> Iterator[None]:
    """Note the stage's seconds in the timings at that key, which are outside the manifest."""
    started = time.perf_counter()
    yield
    merge_timings(run.store, timings, {stage: round(time.perf_counter() - started, 3)})


@task(name="calibrate_layer", task_run_name="layer {layer:02d}: calibrate", **OPTIONS)
def calibrate_layer(run: Run, layer: int, chain: str) -> State[Stored[LayerStatistics]]:
    """Statistics of the layer, to stats.parquet; adopts the whole layer, or its statistics, if the store has them.

    `chain` is the digest of the layer before, or of all that the first one depends on.
    """
    key = run.pruning.stats(layer)
    if (done := _adopt(run, layer, chain)) is not None:
        return ended(Stored(done.statistics, done.record.files["stats.parquet"], done), key, cached=True)
    if (found := _stored_statistics(run, layer, chain)) is not None:
        return ended(found, key, cached=True)
    with timed(run, run.pruning.timings, f"layer {layer:03d} calibrate"):
        statistics = run.walk.statistics(layer)
        digest = run.store.put(key, encode(statistics_columns(layer, statistics), STATS, {CHAIN: chain}))
    return ended(Stored(statistics, digest), key)


def _adopt(run: Run, layer: int, chain: str) -> PrunedLayer | None:
    """The layer out of the store, if it is done there under this chain and every digest matches."""
    if (record := read_layer(run.store, run.pruning, layer, chain)) is None:
        return None
    weights, digest = run.pruning.weights(layer), record.files["weights.safetensors"]
    try:
        stats = run.store.get(run.pruning.stats(layer), record.files["stats.parquet"])
        chosen = run.store.get(run.pruning.selection(layer), record.files["selection.parquet"])
        statistics, selection = statistics_from(decode(stats, STATS)), selection_from(decode(chosen, SELECTION))
    except NOT_THERE:
        return None
    # What is more than a cut can't be made again from the source: the walk goes on through the bytes in the store.
    run.walk.restore(layer, selection, (lambda: load(run.store.get(weights, digest))) if run.walk.changes else None)
    return PrunedLayer(record, statistics, selection, cached=True)


def _stored_statistics(run: Run, layer: int, chain: str) -> Stored[LayerStatistics] | None:
    """stats.parquet of a layer that failed after it was written: only with this chain, and to the last bit. No record
    says its digest, so it has to be what its own content is encoded to."""
    try:
        data = run.store.record(run.pruning.stats(layer))
        table = decode(data, STATS)
    except NOT_THERE:
        return None
    extra = metadata(table)
    intact = extra.get(CHAIN) == chain and encode(table, STATS, extra) == data
    return Stored(statistics_from(table), sha256_bytes(data)) if intact else None


@task(name="score_layer", task_run_name="layer {layer:02d}: score", **OPTIONS)
def score_layer(run: Run, layer: int, statistics: Stored[LayerStatistics]) -> State[Stored[Selection]]:
    """Saliency and the choice of channels, to selection.parquet."""
    key = run.pruning.selection(layer)
    if (done := statistics.done) is not None:
        return ended(Stored(done.selection, done.record.files["selection.parquet"], done), key, cached=True)
    selection = run.walk.select(layer, statistics.content)
    digest = run.store.put(key, encode(selection_columns(layer, selection), SELECTION))
    return ended(Stored(selection, digest), key)


@task(name="prune_layer", task_run_name="layer {layer:02d}: prune", **OPTIONS)
def prune_layer(
    run: Run, layer: int, chain: str, statistics: Stored[LayerStatistics], selection: Stored[Selection]
) -> State[PrunedLayer]:
    """The pruned mixer to weights.safetensors, then layer.json: from here on the layer is done."""
    key = run.pruning.weights(layer)
    if (done := selection.done) is not None:
        return ended(done, key, cached=True)
    pruned = run.walk.reduce(layer, statistics.content, selection.content)
    pruned, note, figures = _recover(run, layer, pruned)
    digest = run.store.put(key, save({name: tensor.contiguous() for name, tensor in pruned.items()}))
    files = {"stats.parquet": statistics.sha256, "selection.parquet": selection.sha256, "weights.safetensors": digest}
    record = write_layer(run.store, run.pruning, layer, chain, files, note, figures)
    run.walk.restore(layer, selection.content, partial(dict, pruned) if run.walk.changes else None)
    return ended(PrunedLayer(record, statistics.content, selection.content, cached=False), key, note=note)


def _recover(run: Run, layer: int, pruned: Weights) -> tuple[Weights, str | None, dict[str, Any] | None]:
    """The pruned tensors after recovery, and what it came to in a line and in figures, for the layer's record."""
    if run.settings.recovery == "none":
        return pruned, None, None
    with timed(run, run.pruning.timings, f"layer {layer:03d} recover"):
        recovered = run.walk.recover(layer, pruned)
    kl = {name: finite(nats) for name, nats in recovered.kl.items()}
    return recovered.mixer, f"recovery {recovered.summary()}", {"recovery": recovered.chosen, "kl": kl}
