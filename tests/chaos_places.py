"""Where tormented runs keep and publish their artifacts, on disk or on S3, and which of it was written twice."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from artifacts.files import TEMPORARY
from artifacts.folders import open_folder
from artifacts.keys import RunKeys
from artifacts.manifest import read_layer
from artifacts.publish import MANIFEST, published
from artifacts.store import open_store
from tasks.stored_run import StoredRun
from tests.chaos import contents

BUCKET = "chaos"


class Place(Protocol):
    """A store, a folder to publish to, and what happened to the objects in both."""

    kind: str
    store: str
    out: str

    def writes(self) -> int:
        """How many objects were written so far, overwritten ones included."""
        ...

    def identity(self, key: str) -> Hashable:
        """What changes with every write of the store's object, the same bytes or not."""
        ...


class LocalPlace:
    """Folders. A file that was written again is another inode."""

    kind = "local"

    def __init__(self, folder: Path) -> None:
        self.store, self.out = str(folder / "store"), str(folder / "out")
        self._folder = folder
        self._seen: set[tuple[str, int, int]] = set()

    def writes(self) -> int:
        for path in self._folder.rglob("*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # renamed meanwhile
                continue
            if path.is_file() and not path.name.startswith(TEMPORARY):
                self._seen.add((str(path), status.st_ino, status.st_mtime_ns))
        return len(self._seen)

    def identity(self, key: str) -> Hashable:
        status = (Path(self.store) / key).stat()
        return status.st_ino, status.st_mtime_ns


class S3Place:
    """Prefixes of a bucket that keeps every version of every object."""

    kind = "s3"

    def __init__(self, client: Any, name: str) -> None:
        self.store, self.out = f"s3://{BUCKET}/{name}/store", f"s3://{BUCKET}/{name}/out"
        self._client, self._name = client, name
        self._seen: set[tuple[str, str, Any]] = set()

    def writes(self) -> int:
        """Not from the list of versions: moto copies every object for it and lets none of the copies go."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self._name}/")
        found = (entry for page in pages for entry in page.get("Contents", []))
        self._seen |= {(entry["Key"], entry["ETag"], entry["LastModified"]) for entry in found}
        return len(self._seen)

    def identity(self, key: str) -> Hashable:
        return self._client.head_object(Bucket=BUCKET, Key=f"{self._name}/store/{key}")["VersionId"]


def versioned_bucket(client: Any) -> None:
    """Make the bucket of all S3 places."""
    client.create_bucket(Bucket=BUCKET)
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})


def everything(place: Place) -> dict[str, bytes]:
    """All bytes of a finished run: its artifacts, and the published checkpoint as its manifest lists it."""
    folder = open_folder(place.out)
    names = [*(published(place.out) or {"files": {}})["files"], MANIFEST]
    return contents(place.store) | {f"out/{name}": folder.read(name) for name in names}


@dataclass
class Ledger:
    """The layers of one run that are done, and whether they stay the objects that they were."""

    place: Place
    run_id: str
    _known: dict[int, Hashable] = field(default_factory=dict)
    recomputed: int = 0

    def look(self) -> int:
        """How many layers are done. A known one that was written again, or is gone, counts as recomputed."""
        done = self._done()
        self.recomputed += sum(done.get(layer) != objects for layer, objects in self._known.items())
        self._known = done
        return len(done)

    def _done(self) -> dict[int, Hashable]:
        if not self.place.writes():  # opening a store makes it, and that is the run's to do
            return {}
        store = open_store(self.place.store)
        keys = StoredRun(store, RunKeys(self.run_id)).pruning
        chain = keys.prune_id
        done: dict[int, Hashable] = {}
        while record := read_layer(store, keys, len(done), chain):
            names = ("layer.json", *record.files)
            done[len(done)] = tuple(self.place.identity(f"{keys.layer_folder(len(done))}/{name}") for name in names)
            chain = record.digest
        return done
