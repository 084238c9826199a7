"""What a walk found, as a checkpoint: benchmarks measure the folder, not the walk."""

from collections.abc import Sequence
from pathlib import Path

from ghost.checkpoint.source import Checkpoint
from ghost.export import export
from ghost.forms import Form
from ghost.library.build import pruned_mixer
from ghost.walk import LayerResult


def write_pruned(source: Checkpoint, results: Sequence[LayerResult], form: Form, folder: Path) -> None:
    """Write what `results` have made of the source, which is of this form, to `folder`."""
    layout = form.layout(source.mixer_layout, [result.selection for result in results], round_to=1)
    found = {result.layer: result for result in results}
    export(source, lambda i: pruned_mixer(source, found[i], form), layout, folder, {})
