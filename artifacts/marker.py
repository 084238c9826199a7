"""The object that marks a folder, bucket or prefix as a store, so that ghost never mixes its objects with others."""

from artifacts.digest import parse_object, record_bytes
from artifacts.errors import StoreError
from artifacts.schemas import FORMAT_VERSION

MARKER = "ghost-store.json"
WHAT = "ghost artifact store"
MARK = record_bytes({"format": FORMAT_VERSION, "what": WHAT})


def check_mark(url: str, data: bytes) -> None:
    """Raise StoreError unless `data`, from the store's marker, is that of a store of this version."""
    mark = parse_object(data) or {}
    if mark.get("what") != WHAT or "format" not in mark:
        raise StoreError(
            f"store {url}: its {MARKER} is damaged; choose another --store, or write {MARK.decode().strip()} into it"
        )
    if mark["format"] != FORMAT_VERSION:
        raise StoreError(
            f"store {url} has format version {mark['format']}, this version of ghost knows {FORMAT_VERSION}; "
            "use the ghost that made it or choose another --store"
        )
