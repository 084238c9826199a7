"""A finished run in a store, and places to publish it to."""

import os
from pathlib import Path
from typing import Any

from artifacts.keys import RunKeys
from artifacts.manifest import listed, write_manifest, write_run
from artifacts.publish import publish
from artifacts.store import Store, open_store
from ghost.export import PROVENANCE

RUN = "0123456789abcdef"
KEYS = RunKeys(RUN)
FILES = {PROVENANCE: b'{"ghost": {"run_id": "0123456789abcdef"}}', "sub/folder/a.bin": b"a" * 99, "config.json": b"{}"}


def store_in(folder: Path) -> Store:
    """The store of a finished run, in a folder `store`."""
    opened = open_store(folder / "store")
    write_run(opened, KEYS, {"model": "demo"})
    for name, data in FILES.items():
        opened.put(f"{KEYS.checkpoint}/{name}", data)
    write_manifest(opened, KEYS)
    return opened


def finish(store: Store, out: str) -> str:
    return publish(store, KEYS.checkpoint, listed(store, KEYS, "checkpoint"), out, {"run_id": RUN}, PROVENANCE)


def everything(folder: Path) -> dict[str, Any]:
    """All that is below by kind: the bytes of files, where links lead, and which folders these are."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        content = path.stat().st_ino if path.is_dir() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = os.readlink(path) if path.is_symlink() else content
    return found


def new(at: Path) -> Path:
    return at / "some" / "new"


def empty(at: Path) -> Path:
    (at / "out").mkdir()
    return at / "out"
