"""Folders that are not ghost's own, read only: a checkpoint's source, published checkpoints, texts."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from artifacts.errors import MissingArtifact, StoreError
from artifacts.keys import check_key

SCHEME = "s3://"
MANIFEST = "ghost-manifest.json"
"""Written last into a published checkpoint: a folder without it holds none, or half of one."""


@dataclass(frozen=True)
class Entry:
    """A file below a folder: '/' between the segments of its name, bytes, and a tag that changes with its content
    (the etag on S3, the nanoseconds of its last change in a local folder)."""

    name: str
    size: int
    tag: str


class Folder(Protocol):
    """Files below an address. Every method raises StoreError where the place itself fails or a name is refused."""

    url: str
    name: str

    def entries(self) -> list[Entry]:
        """All files below, sorted by name. Raises MissingArtifact where there is no such folder; on object storage,
        which knows no folders, that is an empty list."""
        ...

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """A file's bytes, or `length` of them from `start`. Raises MissingArtifact."""
        ...

    def fetch(self, names: Iterable[str]) -> Path:
        """A local folder with these files, to be read only. Raises MissingArtifact, and DamagedArtifact where the
        bytes that came are not those that were stored."""
        ...


def is_remote(spec: str) -> bool:
    """Whether this is an address on object storage rather than a local path or a name."""
    return spec.startswith(SCHEME)


def open_folder(url: str) -> Folder:
    """The folder at a local path or s3://bucket/prefix. Raises StoreError for an address that no folder can have."""
    if is_remote(url):
        from artifacts.s3.folder import S3Folder  # boto3 takes a while to import

        return S3Folder(url)
    return LocalFolder(Path(url))


class LocalFolder:
    """A `Folder` on this machine. Symbolic links that lead out of it are no files of it."""

    def __init__(self, folder: Path) -> None:
        self._root = folder.expanduser().absolute()
        self.url, self.name = str(self._root), self._root.name

    def entries(self) -> list[Entry]:
        with self._reporting("list its files"):
            if not self._root.is_dir():
                raise MissingArtifact(f"there is no folder {self.url}; check the path")
            return sorted(self._walk(), key=lambda entry: entry.name)

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        path = self._path(name)
        with self._reporting(f"read {name}"), path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def fetch(self, names: Iterable[str]) -> Path:
        for name in names:
            self._path(name)
        return self._root

    def _path(self, name: str) -> Path:
        check_key(name)
        path = self._root / name
        if not path.is_file() or not self._owns(path):
            raise MissingArtifact(f"{name} is not in the folder {self.url}; check its name")
        return path

    def _owns(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._root.resolve())

    def _walk(self) -> Iterator[Entry]:
        for folder, _, names in os.walk(self._root, onerror=_unless_gone):
            for path in (Path(folder, name) for name in names):
                with suppress(FileNotFoundError):  # an upload or a clean-up may be going on
                    if path.is_file() and self._owns(path):
                        found = path.stat()
                        yield Entry(path.relative_to(self._root).as_posix(), found.st_size, str(found.st_mtime_ns))

    @contextmanager
    def _reporting(self, action: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise MissingArtifact(f"{error.filename} has just gone; try again when nobody changes it") from error
        except OSError as error:
            raise StoreError(f"folder {self.url}: cannot {action} ({error}); make it accessible") from error


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
