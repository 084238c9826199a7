"""Reading an object whole and right: what arrives with wrong bytes is read again, and then refused."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic

from artifacts.errors import DamagedArtifact
from artifacts.s3.client import Result, S3Options, S3Place, pause
from artifacts.s3.stream import Stream

SHA256 = "sha256"
"""Name of the metadata entry that holds the sha256 of the whole object."""


@dataclass(frozen=True)
class Reading(Generic[Result]):
    """One reading of an object: what was made of its bytes, and their sha256. `repeated`: an earlier reading had the
    same bytes, so it is not the way here that makes them what they are."""

    made: Result
    sha256: str
    repeated: bool
    stream: Stream

    @property
    def stored(self) -> str | None:
        """The sha256 that was stored with the object, if there is one."""
        return self.stream.metadata.get(SHA256)


class ObjectReader:
    """Reads objects below a place; wrong bytes are taken for a bad connection until they come twice the same."""

    def __init__(self, client: Any, place: S3Place, options: S3Options) -> None:
        self._client = client
        self._place = place
        self._options = options

    def read(self, key: str, sha256: str | None, consume: Callable[[Iterator[bytes]], Result]) -> tuple[Result, str]:
        """What `consume` makes of the object's blocks, and the sha256 of their bytes: the one asked for, else the one
        that was stored with the object. `consume` is called anew for every attempt.

        Raises MissingArtifact, DamagedArtifact for other bytes and where no digest vouches for them, and StoreError.
        """
        expected, found = sha256, ""
        for reading in self.readings(key, consume):
            expected, found = sha256 or reading.stored, reading.sha256
            if expected == found:
                return reading.made, found
            if expected is None:
                raise DamagedArtifact(
                    f"{key} in the store {self._place.url} has no {SHA256} in its metadata, so nothing vouches for it; "
                    "use storage, and proxies before it, that keep metadata, or put it there again with one"
                )
        raise DamagedArtifact(
            f"{key} in the store {self._place.url} has sha256 {found}, not {expected}; run the same command again"
        )

    def readings(
        self, key: str, consume: Callable[[Iterator[bytes]], Result], etag: str | None = None
    ) -> Iterator[Reading[Result]]:
        """One reading after the other, of the object with this etag if one is given, until two had the same bytes.

        Raises MissingArtifact (without `etag`), StoreError, and what `consume` raises.
        """
        seen: set[str] = set()
        for attempt in range(1, self._options.attempts + 1):
            stream, hasher = Stream(self._client, self._place, key, self._options, etag), hashlib.sha256()
            made = consume(_hashed(stream, hasher))
            found = hasher.hexdigest()
            yield Reading(made, found, found in seen, stream)
            if found in seen:
                return
            seen.add(found)
            pause(attempt)


def discard(blocks: Iterator[bytes]) -> None:
    """What to make of an object's blocks where only its digest is wanted."""
    for _ in blocks:
        pass


def _hashed(blocks: Stream, hasher: Any) -> Iterator[bytes]:
    for block in blocks:
        hasher.update(block)
        yield block
