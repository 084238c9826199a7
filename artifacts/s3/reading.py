"""Reading an object whole and right: what arrives with wrong bytes is read again, and then refused."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from artifacts.errors import DamagedArtifact
from artifacts.s3.client import Result, S3Options, S3Place, pause
from artifacts.s3.stream import Stream

SHA256 = "sha256"
"""Name of the metadata entry that holds the sha256 of the whole object."""


class ObjectReader:
    """Reads objects below a place; wrong bytes are taken for a bad connection until they come twice the same."""

    def __init__(self, client: Any, place: S3Place, options: S3Options) -> None:
        self._client = client
        self._place = place
        self._options = options

    def read(self, key: str, sha256: str | None, consume: Callable[[Iterator[bytes]], Result]) -> tuple[Result, str]:
        """What `consume` makes of the object's blocks, and the sha256 of their bytes: the one asked for, else the one
        that was stored with the object, if there is any. `consume` is called anew for every attempt.

        Raises MissingArtifact, DamagedArtifact for other bytes, and StoreError.
        """
        found: list[str] = []
        for attempt in range(1, self._options.attempts + 1):
            blocks, hasher = Stream(self._client, self._place, key, self._options), hashlib.sha256()
            result = consume(_hashed(blocks, hasher))
            expected = sha256 or blocks.metadata.get(SHA256)
            found.append(hasher.hexdigest())
            if expected in (None, found[-1]):
                return result, found[-1]
            if found[-1] in found[:-1]:  # twice the same: not the way here, but what is stored
                break
            pause(attempt)
        raise DamagedArtifact(
            f"{key} in the store {self._place.url} has sha256 {found[-1]}, not {expected}; run the same command again"
        )


def _hashed(blocks: Stream, hasher: Any) -> Iterator[bytes]:
    for block in blocks:
        hasher.update(block)
        yield block
