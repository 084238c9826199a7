"""Where downloaded objects are kept on this machine. Everything in there can be had again: delete it at will."""

import os
import tempfile
from pathlib import Path

from artifacts.errors import StoreError
from artifacts.files import expand


def cache_folder() -> Path:
    """$GHOST_CACHE, else the folder `ghost` in the user's cache folder, or one of the user's own among the temporary
    files where there is no home. Raises StoreError where that is another user's."""
    if chosen := os.environ.get("GHOST_CACHE"):
        return expand(chosen).absolute()
    try:
        return expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ghost"
    except StoreError:
        return _among_temporary_files()


def _among_temporary_files() -> Path:
    """Anybody may make folders there, and what lies in a cache is trusted."""
    folder = Path(tempfile.gettempdir()) / f"ghost-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        own = folder.lstat().st_uid == os.getuid() and folder.is_dir() and not folder.is_symlink()
    except OSError as error:
        raise StoreError(f"cannot keep downloads in {folder} ({error}); set GHOST_CACHE to a folder") from error
    if not own:
        raise StoreError(f"cannot keep downloads in {folder}, which is another user's; set GHOST_CACHE to a folder")
    return folder
