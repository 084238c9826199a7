"""Where the user wants the checkpoint: checked before the work, filled after it."""

import json
import os
import shutil
import tempfile
from pathlib import Path

from ghost.errors import SettingsError
from ghost.export import PROVENANCE


def check_out(out: str | None, run_id: str) -> None:
    """SettingsError unless --out is absent, new, empty, or holds this very run's checkpoint."""
    if out is None:
        return
    folder = Path(out).expanduser()
    parent = next(path for path in folder.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise SettingsError(f"out: {parent} is not a folder that can be written to; choose another --out")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and made_by(folder) != run_id):
        raise SettingsError(f"out: {folder} holds something else already; choose a new folder with --out")


def made_by(folder: Path) -> str | None:
    """The run that made a checkpoint folder, or None."""
    try:
        return json.loads((folder / PROVENANCE).read_text())["ghost"]["run_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def copy_out(stored: Path, out: Path, run_id: str) -> Path:
    """Copy under a temporary name and rename, so that a folder named `out` is always a whole checkpoint."""
    check_out(str(out), run_id)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    shutil.copytree(stored, temporary, dirs_exist_ok=True)
    temporary.chmod(0o755)
    if out.exists():
        shutil.rmtree(out)
    temporary.rename(out)
    return out
