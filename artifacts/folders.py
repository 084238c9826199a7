"""Folders that are not ghost's own, read only: a checkpoint's source, published checkpoints, texts."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from artifacts.errors import MissingArtifact, StoreError
from artifacts.files import expand, files_below
from artifacts.keys import check_key
from artifacts.places import MANIFEST, SCHEME, Entry, Folder, is_remote

__all__ = ["MANIFEST", "SCHEME", "Entry", "Folder", "LocalFolder", "is_remote", "open_folder"]


def open_folder(url: str) -> Folder:
    """The folder at a local path or s3://bucket/prefix. Raises StoreError for an address that no folder can have."""
    if is_remote(url):
        from artifacts.s3.folder import S3Folder  # boto3 takes a while to import

        return S3Folder(url)
    return LocalFolder(Path(url))


class LocalFolder:
    """A `Folder` on this machine. Symbolic links that lead out of it are no files of it."""

    def __init__(self, folder: Path) -> None:
        self._root = expand(folder).absolute()
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
        with self._reporting(f"read {name}"):
            there = path.is_file() and self._owns(path)
        if not there:
            raise MissingArtifact(f"{name} is not in the folder {self.url}; check its name")
        return path

    def _owns(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._root.resolve())

    def _walk(self) -> Iterator[Entry]:
        for path in files_below(self._root, follow_links=False):
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
