"""The end of a run: its manifest, and the checkpoint where the user wants it."""

from collections.abc import Mapping, Sequence
from typing import Any

from artifacts.manifest import write_manifest
from artifacts.publish import publish, published
from ghost.export import PROVENANCE
from tasks.run.evaluation import Evaluated
from tasks.run.events import checkpoint_published
from tasks.run.export import Exported
from tasks.run.gate import check_gate
from tasks.run.layers import PrunedLayer
from tasks.run.open import Run
from tasks.run.out import check_out
from tasks.wording import display_name


def finish(
    run: Run,
    records: Mapping[str, str],
    layers: Sequence[PrunedLayer],
    exported: Exported,
    evaluated: Evaluated,
    reported: Mapping[str, str],
) -> str:
    """Declare the run finished, publish its checkpoint to --out if that was given, and return where it is.

    `records` and `reported` are digests by key. QualityGateError, with the checkpoint in the store and not published,
    where the figures exceed the run's limits.
    """
    files = dict(records) | _vouched(run, layers, exported, evaluated) | dict(reported)
    listed = write_manifest(run.store, run.keys, files)
    check_gate(run, evaluated.results)
    if run.settings.out is None:
        return run.store.locate(run.keys.checkpoint)
    return _publish(run, run.settings.out, listed, evaluated)


def _publish(run: Run, out: str, listed: Mapping[str, Any], evaluated: Evaluated) -> str:
    """The checkpoint's files among those that the manifest lists, to `out`. What was whole there already is no news."""
    check_out(out, run.keys.run_id)
    record = {"run_id": run.keys.run_id, "model": display_name(run.settings.model), "recipe": run.settings.recipe}
    top = f"{run.keys.checkpoint}/"
    files = {key.removeprefix(top): entry for key, entry in listed.items() if key.startswith(top)}
    news = published(out) is None
    place = publish(run.store, run.keys.checkpoint, files, out, record, first=PROVENANCE)
    if news:
        checkpoint_published(run, place, evaluated.results)
    return place


def _vouched(run: Run, layers: Sequence[PrunedLayer], exported: Exported, evaluated: Evaluated) -> dict[str, str]:
    """The digests of layers and stages, and of all that their records vouch for, by key."""
    files = {}
    for layer in layers:
        number = layer.record.layer
        folder = run.pruning.layer_folder(number)
        files |= {f"{folder}/{name}": sha256 for name, sha256 in layer.record.files.items()}
        files[run.pruning.layer(number)] = layer.record.digest
    for record in (exported.record, evaluated.record):
        files |= {f"{run.keys.root}/{name}": sha256 for name, sha256 in record.files.items()}
        files[run.keys.stage(record.stage)] = record.digest
    return files
