"""The interface of every store: named, immutable-looking objects that appear whole or not at all."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from artifacts.errors import StoreError
from artifacts.local import LocalStore
from artifacts.objects import StoredObject
from artifacts.places import is_remote
from artifacts.schemas import FORMAT_VERSION

__all__ = ["LocalStore", "Store", "open_store"]

# A single slash too: Path("s3://bucket") has already lost one.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


class Store(Protocol):
    """Objects under keys ('/' between segments). Every method raises StoreError for a refused key and where the
    store itself fails; digests are sha256 of the whole object in hex."""

    url: str

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> str:
        """Store `data` under `key` at one instant, and return its digest.

        With `if_absent`, raise AlreadyThere where the key is taken: of concurrent writers exactly one succeeds.
        """
        ...

    def put_file(self, key: str, source: Path) -> str:
        """Store a local file's content under `key` at one instant, without loading it, and return its digest."""
        ...

    def record(self, key: str) -> bytes:
        """The bytes of a record: of what says the digests of other objects, and has none of its own to be asked for.

        Raises MissingArtifact, and DamagedArtifact where the store knows that they are not those that were put.
        """
        ...

    def get(self, key: str, sha256: str) -> bytes:
        """The object's bytes. Raises MissingArtifact, and DamagedArtifact where they are not those of `sha256`."""
        ...

    def fetch(self, key: str, sha256: str) -> Path:
        """A local file with the object's bytes, to be read only. Raises as `get` does."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object under exactly this key."""
        ...

    def list(self, prefix: str) -> list[str]:
        """The keys that start with `prefix` ('' for all), sorted; never one of an unfinished write."""
        ...

    def objects(self, prefix: str) -> tuple[StoredObject, ...]:
        """What `list` gives, with each object's size and time."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens where there is none."""
        ...

    def sha256(self, key: str) -> str:
        """The digest of the bytes that are there now. Raises as `record` does."""
        ...

    def size(self, key: str) -> int:
        """The object's length in bytes. Raises MissingArtifact."""
        ...

    def locate(self, key: str) -> str:
        """Where a person finds the object, there or not: a path, or an s3:// address."""
        ...


def open_store(url: str | Path, versions: Sequence[int] = (FORMAT_VERSION,)) -> Store:
    """The store at `url`: a local folder, made if need be, or s3://bucket/prefix.

    Raises StoreError where it cannot serve as one, or is of none of these format versions.
    """
    text = str(url)
    if not text:
        raise StoreError("store '' has no name; give a folder or s3://bucket/prefix with --store")
    if is_remote(text):
        return _open_s3(text, versions)
    if _SCHEME.match(text):
        raise StoreError(
            f"store {text} is not supported by this version; give a local folder or s3://bucket/prefix with --store"
        )
    return LocalStore(Path(text), versions)


def _open_s3(url: str, versions: Sequence[int]) -> Store:
    from artifacts.s3.client import S3Options, parse_place  # boto3 takes a while to import
    from artifacts.s3.store import S3Store

    return S3Store(parse_place(url), S3Options(), versions)
