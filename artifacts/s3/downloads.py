"""Objects of one store as local files: each is there whole, or not at all."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from artifacts.cache import cache_folder
from artifacts.digest import sha256_bytes, sha256_file
from artifacts.errors import StoreError

PARTIAL_SECONDS = 24 * 3600.0
"""Age from which an unfinished download is taken for a killed reader's and removed."""


class Downloads:
    """The part of this machine's cache that belongs to the store of this name, laid out as its keys."""

    def __init__(self, name: str) -> None:
        top = cache_folder()
        self._partial = top / "partial"
        self._folder = top / "stores" / sha256_bytes(name.encode())[:16]

    def find(self, key: str, sha256: str) -> Path | None:
        """The file with exactly these bytes, if it was downloaded before."""
        path = self._folder / key
        with self._reporting(key):
            return path if path.is_file() and sha256_file(path) == sha256 else None

    def add(self, key: str, download: Callable[[Path], object]) -> Path:
        """The file that `download` writes to the path it is given, once it is whole. Raises StoreError, and what
        `download` raises."""
        path, partial = self._folder / key, self._partial / uuid.uuid4().hex
        with self._reporting(key):
            self._sweep()
            for folder in (path.parent, self._partial):
                folder.mkdir(parents=True, exist_ok=True)
            try:
                download(partial)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        return path

    def _sweep(self) -> None:
        before = time.time() - PARTIAL_SECONDS
        with suppress(OSError):
            for path in self._partial.iterdir():
                if path.stat().st_mtime < before:
                    path.unlink(missing_ok=True)

    @contextmanager
    def _reporting(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"cannot keep {key} in {self._folder} ({error.strerror}); make room there, or set GHOST_CACHE to "
                "another folder"
            ) from error
