"""Where the user wants the checkpoint: checked before the work, filled after it."""

import json

from artifacts.errors import DamagedArtifact, MissingArtifact
from artifacts.folders import open_folder
from artifacts.publish import open_target
from ghost.errors import SettingsError
from ghost.export import PROVENANCE


def check_out(out: str | None, run_id: str) -> None:
    """SettingsError unless --out is absent, new, empty, or holds this very run's checkpoint, be it half of one.
    StoreError where a publication, tried out there, fails."""
    if out is None:
        return
    target = open_target(out)
    if target.is_taken() and made_by(out) != run_id:
        raise SettingsError(f"out: {out} holds something else already; choose a new folder with --out")
    target.rehearse()


def made_by(folder: str) -> str | None:
    """The run that made the checkpoint in a local folder or s3://bucket/prefix, or None."""
    try:
        return json.loads(open_folder(folder).read(PROVENANCE))["ghost"]["run_id"]
    except (MissingArtifact, DamagedArtifact, ValueError, KeyError, TypeError):
        return None
