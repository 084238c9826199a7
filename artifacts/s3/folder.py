"""A folder on object storage, and copies of its files on this machine: each one verified, none downloaded twice."""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from artifacts.cache import cache_folder
from artifacts.digest import canonical_json, parse_object, parse_record, record_bytes, sha256_bytes, sha256_file
from artifacts.errors import DamagedArtifact, MissingArtifact, StoreError
from artifacts.keys import check_key
from artifacts.places import MANIFEST, Entry
from artifacts.s3.client import S3Options, make_client, parse_place, reporting
from artifacts.s3.reading import ObjectReader, Reading
from artifacts.s3.stream import Stream

NAME_LENGTH = 48
"""Of a copy's folder, before the digest: file systems take 255 bytes."""
_PLAIN_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


class S3Folder:
    """A `Folder` at s3://bucket/prefix. Raises StoreError where the address is none."""

    def __init__(self, url: str, options: S3Options | None = None) -> None:
        self._place, self._options = parse_place(url), options or S3Options()
        self._client = make_client(self._options)
        self._reader = ObjectReader(self._client, self._place, self._options)
        self.url, self.name = self._place.url, self._place.url.rpartition("/")[-1]

    def entries(self) -> list[Entry]:
        return sorted(self._listed(), key=lambda entry: entry.name)

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        if start == 0 and length is None:
            return self._read_whole(name)
        entry = self._entry(name)
        stop = entry.size if length is None else min(start + length, entry.size)
        if start >= stop:
            return b""
        return b"".join(Stream(self._client, self._place, name, self._options, entry.tag, (start, stop)))

    def fetch(self, names: Iterable[str]) -> Path:
        entries = [self._entry(name) for name in sorted(set(names))]
        identity = sha256_bytes(canonical_json([self.url, *([e.name, e.size, e.tag] for e in entries)]))
        copy = cache_folder() / "checkpoints" / f"{self.name[:NAME_LENGTH]}-{identity[:16]}"
        with _writing(copy):
            self._complete(copy, entries)
        return copy

    def _read_whole(self, name: str) -> bytes:
        """Without a listing before it: what is replaced now and then, as manifests are, is never found changed."""
        check_key(name)
        came = b""
        try:
            for reading in self._reader.readings(name, b"".join):
                came = reading.made
                if reading.stored in (None, reading.sha256):
                    return came
        except MissingArtifact:
            raise self._missing(name) from None
        raise self._damaged(name, f"{len(came)} bytes came")

    def _listed(self, **limits: Any) -> Iterator[Entry]:
        """Files, not the empty objects that stand for folders in some tools."""
        top = self._place.key("")
        wanted = {"Bucket": self._place.bucket, "Prefix": top} | limits
        with reporting(self._place, "list the objects"):
            for page in self._client.get_paginator("list_objects_v2").paginate(**wanted):
                for found in page.get("Contents", []):
                    if not found["Key"].endswith("/"):
                        yield Entry(found["Key"].removeprefix(top), found["Size"], found["ETag"])

    def _entry(self, name: str) -> Entry:
        """By a listing, not a HEAD, whose answer does not tell a missing object from a missing bucket."""
        check_key(name)
        first = next(self._listed(Prefix=self._place.key(name)), None)
        if first is None or first.name != name:
            raise self._missing(name)
        return first

    def _missing(self, name: str) -> MissingArtifact:
        return MissingArtifact(f"{name} is not in {self.url}; check the address")

    def _complete(self, copy: Path, entries: list[Entry]) -> None:
        """Download what the copy does not hold yet. Its record grows file by file, so that a killed one continues."""
        record = copy.with_name(f"{copy.name}.json")
        known = parse_object(record.read_bytes()) or {} if record.is_file() else {}
        listed = self._manifest()
        for entry in entries:
            path = copy / entry.name
            if not path.is_file() or known.get(entry.name) != _description(path):
                known[entry.name] = self._download(entry, path, copy.with_name(f"{copy.name}.partial"))
                _replace(record, record_bytes(known))
            if listed.get(entry.name, known[entry.name]) != known[entry.name]:
                raise DamagedArtifact(f"{self.url}/{entry.name} is not what its {MANIFEST} says; publish it again")

    def _manifest(self) -> dict[str, Any]:
        """What the manifest of a published checkpoint says about its files; nothing where there is none."""
        try:
            data = self.read(MANIFEST)
        except MissingArtifact:
            return {}
        files = (parse_record(data) or {}).get("files")
        if not isinstance(files, dict):
            raise DamagedArtifact(f"{self.url}/{MANIFEST} is damaged; publish that checkpoint again")
        return files

    def _download(self, entry: Entry, path: Path, partial: Path) -> dict[str, Any]:
        came = 0
        for reading in self._reader.readings(entry.name, lambda blocks: _written(blocks, partial), entry.tag):
            came = reading.made.size
            if _is_right(entry, reading):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial.replace(path)
                return {"size": came, "sha256": reading.sha256}
        raise self._damaged(entry.name, f"{came} of {entry.size} bytes")

    def _damaged(self, name: str, came: str) -> DamagedArtifact:
        return DamagedArtifact(
            f"{self.url}/{name} did not arrive as it was stored ({came}); try again, and if that does not help upload "
            "it again"
        )


class _Written(NamedTuple):
    size: int
    md5: str


def _written(blocks: Iterable[bytes], path: Path) -> _Written:
    size, md5 = 0, hashlib.md5(usedforsecurity=False)
    with path.open("wb") as file:
        for block in blocks:
            size += file.write(block)
            md5.update(block)
        file.flush()
        os.fsync(file.fileno())
    return _Written(size, md5.hexdigest())


def _is_right(entry: Entry, reading: Reading[_Written]) -> bool:
    """By all that the storage says: a size always, a sha256 from ghost's own uploads, and often an MD5. What looks
    like one may be a tag of another kind (encryption by keys, other services): it is, where the same bytes come twice.
    """
    if reading.made.size != entry.size:
        return False
    if reading.stored is not None:
        return reading.stored == reading.sha256
    md5 = None if reading.stream.encrypted_by_key else _PLAIN_MD5.fullmatch(entry.tag)
    return md5 is None or md5[1] == reading.made.md5 or reading.repeated


def _description(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256_file(path)}


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


@contextmanager
def _writing(copy: Path) -> Iterator[None]:
    """One process at a time downloads a copy; others wait, and find it complete. The lock ends with its process."""
    try:
        copy.mkdir(parents=True, exist_ok=True)
        with copy.with_name(f"{copy.name}.lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise StoreError(
            f"cannot keep a copy in {copy} ({error}); free some space there, or set GHOST_CACHE to another folder"
        ) from error
