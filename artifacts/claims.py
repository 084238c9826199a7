"""Reading what records claim: an object that is absent or damaged makes a claim untrue, a store that fails does not."""

from artifacts.errors import DamagedArtifact, MissingArtifact, StoreError
from artifacts.keys import check_key
from artifacts.store import Store

NOT_THERE = (MissingArtifact, DamagedArtifact)
"""What makes a record untrue and its work to be done again. A store that fails says nothing of the kind."""


def read(store: Store, key: str) -> bytes:
    """The record, or nothing where it is absent or damaged: none either way."""
    try:
        return store.record(key)
    except NOT_THERE:
        return b""


def holds(store: Store, key: str, sha256: object) -> bool:
    """Whether the object is there with exactly these bytes."""
    try:
        return is_key(key) and store.sha256(key) == sha256
    except NOT_THERE:
        return False


def is_key(key: str) -> bool:
    """Whether a name out of a record can be one of the store's: a flipped bit may make one that no store takes."""
    try:
        check_key(key)
    except StoreError:
        return False
    return True
