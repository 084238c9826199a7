"""A stub of the hub's routes for data sets on loopback: what `datasets` asks for when it loads one by name."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.hub_stub import COMMIT, answering


@contextmanager
def datasets_stub(datasets: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Data sets by name, each a local folder. Yields the address and the paths that were asked for."""

    def answer(path: str) -> tuple[int, bytes]:
        return _answer(datasets, unquote(path.partition("?")[0]).strip("/"))

    with answering(answer, missing="EntryNotFound") as served:
        yield served


def _answer(datasets: dict[str, Path], route: str) -> tuple[int, bytes]:
    for name, folder in datasets.items():
        api, files = f"api/datasets/{name}", f"datasets/{name}/resolve/"
        if route == api or route.startswith(f"{api}/revision/"):
            return 200, json.dumps({"id": name, "sha": COMMIT, "siblings": [], "tags": []}).encode()
        if route.startswith(f"{api}/tree/"):
            return _listed(folder, route.removeprefix(f"{api}/tree/").partition("/")[2])
        if route.startswith(files):
            path = folder / route.removeprefix(files).partition("/")[2]
            return (200, path.read_bytes()) if path.is_file() else (404, b"")
    return 404, b""


def _listed(folder: Path, below: str) -> tuple[int, bytes]:
    if not (folder / below).is_dir():
        return 404, b""
    return 200, json.dumps([_entry(folder, path) for path in sorted((folder / below).iterdir())]).encode()


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": COMMIT, "size": 0}
    return {
        "type": "file",
        "path": name,
        "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        "size": path.stat().st_size,
    }
