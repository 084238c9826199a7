"""The end of a run: its manifest, and the checkpoint where the user wants it."""

from artifacts.manifest import write_manifest
from artifacts.publish import publish
from ghost.export import PROVENANCE
from tasks.run.checkpoint import checkpoint_folder
from tasks.run.gate import check_gate
from tasks.run.open import Run, display_name
from tasks.run.out import check_out


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
    return publish(checkpoint_folder(run), out, record, first=PROVENANCE)
