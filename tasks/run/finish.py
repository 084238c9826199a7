"""The end of a run: its manifest, and the checkpoint where the user wants it."""

from collections.abc import Mapping, Sequence

from artifacts.manifest import write_manifest
from artifacts.publish import publish
from ghost.export import PROVENANCE
from tasks.run.evaluation import Evaluated
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
    out = run.settings.out
    if out is None:
        return run.store.locate(run.keys.checkpoint)
    check_out(out, run.keys.run_id)
    record = {"run_id": run.keys.run_id, "model": display_name(run.settings.model), "recipe": run.settings.recipe}
    top = f"{run.keys.checkpoint}/"
    published = {key.removeprefix(top): entry for key, entry in listed.items() if key.startswith(top)}
    return publish(run.store, run.keys.checkpoint, published, out, record, first=PROVENANCE)


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
