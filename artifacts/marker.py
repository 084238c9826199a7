"""The object that marks a folder, bucket or prefix as a store, so that ghost never mixes its objects with others."""

from collections.abc import Sequence

from artifacts.digest import parse_object, record_bytes
from artifacts.errors import StoreError
from artifacts.schemas import FORMAT_VERSION, READABLE

MARKER = "ghost-store.json"
WHAT = "ghost artifact store"
MARK = record_bytes({"format": FORMAT_VERSION, "what": WHAT})


def check_mark(url: str, data: bytes, versions: Sequence[int]) -> None:
    """Raise StoreError unless `data`, from the store's marker, is that of a store of one of these format versions."""
    mark = parse_object(data) or {}
    if mark.get("what") != WHAT or "format" not in mark:
        raise StoreError(
            f"store {url}: its {MARKER} is damaged; choose another --store, or write {MARK.decode().strip()} into it"
        )
    if mark["format"] not in versions:
        looked_at = "; ghost show and ghost compare read it" if mark["format"] in READABLE else ""
        raise StoreError(
            f"store {url} has format version {mark['format']}, this version of ghost knows {FORMAT_VERSION}"
            f"{looked_at}; use the ghost that made it or choose another --store"
        )
