"""Where the user wants the checkpoint: checked before the work, filled after it."""

import json
import os
from pathlib import Path

from artifacts.errors import DamagedArtifact, MissingArtifact
from artifacts.folders import is_remote, open_folder
from artifacts.publish import check_writable
from ghost.errors import SettingsError
from ghost.export import PROVENANCE


def check_out(out: str | None, run_id: str) -> None:
    """SettingsError unless --out is absent, new, empty, or holds this very run's checkpoint, be it half of one.
    StoreError where a bucket is missing or may not be written to."""
    if out is None:
        return
    if is_remote(out):
        check_writable(out)
        taken = bool(open_folder(out).entries())
    else:
        taken = _taken(Path(out).expanduser())
    if taken and made_by(out) != run_id:
        raise SettingsError(f"out: {out} holds something else already; choose a new folder with --out")


def _taken(folder: Path) -> bool:
    parent = next(path for path in folder.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise SettingsError(f"out: {parent} is not a folder that can be written to; choose another --out")
    return folder.is_file() or (folder.is_dir() and any(folder.iterdir()))


def made_by(folder: str) -> str | None:
    """The run that made the checkpoint in a local folder or s3://bucket/prefix, or None."""
    try:
        return json.loads(open_folder(folder).read(PROVENANCE))["ghost"]["run_id"]
    except (MissingArtifact, DamagedArtifact, ValueError, KeyError, TypeError):
        return None
