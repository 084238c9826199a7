"""Where downloaded objects are kept on this machine. Everything in there can be had again: delete it at will."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$GHOST_CACHE, else the folder `ghost` in the user's cache folder."""
    if chosen := os.environ.get("GHOST_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ghost"
