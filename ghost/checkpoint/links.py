"""Symbolic links in a model folder: one that leads out of it would have ghost read, and publish, what is not its."""

from pathlib import Path

from ghost.checkpoint.files import entries
from ghost.errors import CheckpointError

HUB_REPOSITORY, HUB_SNAPSHOTS, HUB_BLOBS = "models--", "snapshots", "blobs"


def check_links(folder: Path) -> None:
    """CheckpointError where a file or folder below `folder` is a link that leads out of it.

    The hub's cache is made of links; those of a snapshot, or of a folder in one, may lead to the blobs of its
    repository or of its cache.
    """
    allowed = _places(folder.resolve())
    for path in entries(folder):
        if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in allowed):
            raise CheckpointError(
                f"{path} is a link to {path.resolve()}, outside the model's folder; put the file itself there if you "
                "trust it, or remove the link"
            )


def _places(folder: Path) -> list[Path]:
    for snapshots in folder.parents:
        repository = snapshots.parent
        if snapshots.name == HUB_SNAPSHOTS and repository.name.startswith(HUB_REPOSITORY):
            return [folder, repository / HUB_BLOBS, repository.parent / HUB_BLOBS]
    return [folder]
