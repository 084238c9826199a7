"""The end of a run: its manifest, and the checkpoint where the user wants it."""

from artifacts.manifest import listed, write_manifest
from artifacts.publish import publish
from ghost.export import PROVENANCE
from tasks.gate import check_gate
from tasks.out import check_out
from tasks.run import Run, display_name


def finish(run: Run) -> str:
    """Declare the run finished, publish its checkpoint to --out if that was given, and return where it is.

    QualityGateError, with the checkpoint in the store and not published, where the figures exceed the run's limits.
    """
    if not run.was_finished:
        write_manifest(run.store, run.keys)
    check_gate(run)
    out = run.settings.out
    if out is None:
        return run.store.locate(run.keys.checkpoint)
    check_out(out, run.keys.run_id)
    record = {"run_id": run.keys.run_id, "model": display_name(run.settings.model), "recipe": run.settings.recipe}
    files = listed(run.store, run.keys, "checkpoint")
    return publish(run.store, run.keys.checkpoint, files, out, record, first=PROVENANCE)
