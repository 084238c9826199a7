"""Places that are not ghost's own store: folders to read from, and targets to publish to, on disk or object storage."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

SCHEME = "s3://"
MANIFEST = "ghost-manifest.json"
"""Written last into a published checkpoint: a folder without it holds none, or half of one."""


def is_remote(spec: str) -> bool:
    """Whether this is an address on object storage rather than a local path or a name."""
    return spec.startswith(SCHEME)


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
        """A file's bytes, or `length` of them from `start`. Raises MissingArtifact, and DamagedArtifact where the
        whole file is not what was stored."""
        ...

    def fetch(self, names: Iterable[str]) -> Path:
        """A local folder with these files, to be read only. Raises MissingArtifact, and DamagedArtifact where the
        bytes that came are not those that were stored."""
        ...


Source = Callable[[str], Path]
"""From a file's name to a local file with its bytes."""


class Target(Protocol):
    """A place that a checkpoint is published to. Every method raises StoreError where the place itself fails.

    A file's `entry` is its `size` and `sha256`; a manifest has those of all files under `files`, in the order in which
    they are to be written.
    """

    url: str

    def is_taken(self) -> bool:
        """Whether there is anything."""
        ...

    def rehearse(self) -> None:
        """Publish next to nothing and take it back, so that what would refuse a publication refuses now."""
        ...

    def shows(self, name: str, entry: Mapping[str, Any]) -> bool:
        """Whether this file is there, by all that the place tells without handing out its bytes: its size, and on
        object storage its digest."""
        ...

    def put(self, source: Source, manifest: Mapping[str, Any]) -> None:
        """The files, then the manifest, but for what is there already. While files are written there is no manifest.
        Raises what `source` raises."""
        ...
