"""A local folder that a finished checkpoint is published to."""

import errno
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from artifacts.digest import record_bytes, sha256_file
from artifacts.errors import StoreError
from artifacts.files import FULL, TEMPORARY, blocks, expand, occupants, sweep, sync_folder, write_atomically
from artifacts.marker import MARKER
from artifacts.places import MANIFEST, Source

ATTEMPTS = 10
"""Of putting something in a folder that somebody else makes, fills or removes at the same time."""
_MOVING = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}


class LocalTarget:
    """A `Target` on this machine. One that is not there yet appears whole, by a rename.

    One that is there is filled from inside, and never renamed or replaced: it may be a mount point, or lie in a folder
    that only others may write to. Links are followed first.
    """

    def __init__(self, url: str) -> None:
        shown = expand(url).absolute()
        self.url, self._folder = str(shown), Path(os.path.realpath(shown))

    def is_taken(self) -> bool:
        with self._reporting():
            if self._folder.is_dir():
                return bool(occupants(self._folder))
            return os.path.lexists(self._folder)

    def rehearse(self) -> None:
        probe = f"{TEMPORARY}{uuid.uuid4().hex}"
        with self._reporting():
            lineage = [self._folder, *self._folder.parents]
            if store := next((str(folder) for folder in lineage if (folder / MARKER).is_file()), None):
                raise StoreError(f"out: {self.url} lies in the store {store}; choose a folder outside of it with --out")
            made = [folder for folder in lineage if not folder.exists()]
            try:
                self._place(lambda folder: write_atomically(folder / probe, [b"\n"]))
                (self._folder / probe).unlink()
            finally:
                _remove_empty(made)

    def shows(self, name: str, entry: Mapping[str, Any]) -> bool:
        with self._reporting():
            path = self._folder / name
            return path.is_file() and path.stat().st_size == entry["size"]

    def put(self, source: Source, manifest: Mapping[str, Any]) -> None:
        with self._reporting():
            self._place(lambda folder: _fill(folder, source, manifest))
            sweep(self._folder, follow_links=False)

    def _place(self, fill: Callable[[Path], object]) -> None:
        """`fill` the folder. Of several at once, one makes it, and the others find their own files there."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._place_once(fill)
            except OSError as error:
                if error.errno not in _MOVING or attempt == ATTEMPTS:
                    raise

    def _place_once(self, fill: Callable[[Path], object]) -> None:
        if self._folder.is_dir():
            fill(self._folder)
            return
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{self._folder.name}-", dir=self._folder.parent) as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            fill(fresh)
            fresh.rename(self._folder)
        sync_folder(self._folder.parent)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                reason = f"there is no space left at {self.url} ({error.strerror}); free some space"
            else:
                reason = f"{self.url} cannot be written to ({error}); make it writable"
            raise StoreError(f"out: {reason}, or choose another --out") from error


def _fill(folder: Path, source: Source, manifest: Mapping[str, Any]) -> None:
    files, data = manifest["files"], record_bytes(manifest)
    wrong = [name for name, entry in files.items() if not _holds(folder / name, entry)]
    if wrong:
        (folder / MANIFEST).unlink(missing_ok=True)
    for name in wrong:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, blocks(source(name)), sha256=files[name]["sha256"])
    if wrong or not _reads(folder / MANIFEST, data):
        # A manifest must not outlive what it lists: a power cut may take folders that were made just now.
        for parent in sorted({parent for name in files for parent in Path(name).parents}):
            sync_folder(folder / parent)
        write_atomically(folder / MANIFEST, [data])


def _holds(path: Path, entry: Mapping[str, Any]) -> bool:
    try:
        return path.is_file() and path.stat().st_size == entry["size"] and sha256_file(path) == entry["sha256"]
    except FileNotFoundError:
        return False


def _reads(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except FileNotFoundError:
        return False


def _remove_empty(folders: list[Path]) -> None:
    """These folders, innermost first, unless somebody else uses them by now."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
