"""A finished run in a store, and places to publish it to."""

import json
import os
from pathlib import Path
from typing import Any

from artifacts.keys import RunKeys
from artifacts.manifest import write_manifest, write_record
from artifacts.publish import publish
from artifacts.store import Store, open_store
from ghost.export import PROVENANCE

RUN = "0123456789abcdef"
KEYS = RunKeys(RUN)
FILES = {PROVENANCE: b'{"ghost": {"run_id": "0123456789abcdef"}}', "sub/folder/a.bin": b"a" * 99, "config.json": b"{}"}


def store_in(folder: Path) -> Store:
    """The store of a finished run, in a folder `store`."""
    opened = open_store(folder / "store")
    files = {key: opened.put(key, data) for key, data in zip(map(key_of, FILES), FILES.values(), strict=True)}
    write_manifest(opened, KEYS, files | {KEYS.run: write_record(opened, KEYS.run, {"model": "demo"})})
    return opened


def finish(store: Store, out: str) -> str:
    entries = json.loads(store.record(KEYS.manifest))["files"]
    files = {name: entries[key_of(name)] for name in FILES}
    return publish(store, KEYS.checkpoint, files, out, {"run_id": RUN}, PROVENANCE)


def key_of(name: str) -> str:
    return f"{KEYS.checkpoint}/{name}"


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
