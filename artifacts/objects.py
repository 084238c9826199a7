"""What a store tells about its objects without reading them."""

from typing import NamedTuple


class StoredObject(NamedTuple):
    """A key, the object's bytes, and when it was stored, in seconds since 1970."""

    key: str
    size: int
    modified: float
