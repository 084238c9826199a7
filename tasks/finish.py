"""The end of a run: its manifest, and the checkpoint where the user wants it."""

from pathlib import Path

from artifacts.manifest import write_manifest
from tasks.checkpoint import checkpoint_folder
from tasks.out import copy_out
from tasks.run import Run


def finish(run: Run) -> str:
    """Declare the run finished, and return the checkpoint's folder: --out if it was given, else the store's."""
    if not run.was_finished:
        write_manifest(run.store, run.keys)
    stored = checkpoint_folder(run)
    if run.settings.out is None:
        return str(stored)
    return str(copy_out(stored, Path(run.settings.out).expanduser().absolute(), run.keys.run_id))
