"""What a walk found, as a checkpoint: benchmarks measure the folder, not the walk."""

from collections.abc import Sequence
from pathlib import Path

from ghost.checkpoint.source import Checkpoint
from ghost.export import export
from ghost.mixer import PROJECTIONS, Weights
from ghost.surgery import slice_mixer
from ghost.walk import LayerResult


def write_pruned(source: Checkpoint, results: Sequence[LayerResult], kept: int, folder: Path) -> None:
    """Write the source cut, projected or recovered as `results` have it, with a state of `kept`, to `folder`."""
    projected = PROJECTIONS[0] in (results[0].changed or ())
    export(source, lambda i: _mixer(source, results[i]), kept, folder, {}, projected=projected)


def _mixer(source: Checkpoint, result: LayerResult) -> Weights:
    if result.changed is not None:
        return result.changed
    return slice_mixer(source.mixer_layout, source.mixer(result.layer), result.selection)[1]
