"""What a run claims about the store, written after the fact it claims and verified before it is trusted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from artifacts.claims import NOT_THERE, holds, is_key, read
from artifacts.digest import parse_object, parse_record, record_bytes, sha256_bytes
from artifacts.errors import DamagedArtifact, MissingArtifact, StoreError
from artifacts.keys import RunKeys
from artifacts.schemas import FORMAT_VERSION
from artifacts.store import Store


@dataclass(frozen=True)
class LayerRecord:
    """One finished layer: `files` maps names in its folder to sha256, `digest` is the sha256 of its layer.json."""

    layer: int
    chain: str
    files: dict[str, str]
    digest: str


def write_run(store: Store, keys: RunKeys, record: Mapping[str, Any]) -> None:
    """Put settings and provenance, with the format version, into run.json unless it says the same already."""
    data = record_bytes({**record, "format": FORMAT_VERSION})
    if read(store, keys.run) != data:
        store.put(keys.run, data)


def check_run_format(store: Store, keys: RunKeys) -> None:
    """Raise StoreError where the run is of another format version; a damaged run.json is left to `write_run`."""
    found = (parse_object(read(store, keys.run)) or {}).get("format", FORMAT_VERSION)
    if found != FORMAT_VERSION:
        raise StoreError(
            f"run {keys.run_id} in the store {store.url} has format version {found}, this version of ghost knows "
            f"{FORMAT_VERSION}; use the ghost that made it or choose another --store"
        )


def write_layer(store: Store, keys: RunKeys, layer: int, chain: str, files: Mapping[str, str]) -> LayerRecord:
    """Declare a layer done, once its files are in the store: `files` maps their names to sha256.

    `chain` is whatever the layer's content depends on, the digest of the layer before it for one.
    """
    digest = store.put(keys.layer(layer), record_bytes(_layer_json(layer, chain, files)))
    return LayerRecord(layer, chain, dict(files), digest)


def read_layer(store: Store, keys: RunKeys, layer: int, chain: str) -> LayerRecord | None:
    """The layer's record if it is done under this chain and every file hashes as recorded; None otherwise.

    Absence, damage of any kind and another format or chain are all None: the layer is to be done again. Raises
    StoreError where the store cannot tell.
    """
    data = read(store, keys.layer(layer))
    record = parse_record(data) or {}
    files = record.get("files")
    if not isinstance(files, dict) or record != _layer_json(layer, chain, files):
        return None
    if not all(holds(store, f"{keys.layer_folder(layer)}/{name}", digest) for name, digest in files.items()):
        return None
    return LayerRecord(layer, chain, files, sha256_bytes(data))


def write_manifest(store: Store, keys: RunKeys, names: list[str] | None = None) -> dict[str, Any]:
    """Declare the run finished: write manifest.json with size and sha256 of each file, and return its content.

    `names` are paths within the run's folder, by default all that are there except the manifest and the timings.
    Raises MissingArtifact where one of them is not in the store, and that or DamagedArtifact where a file of which a
    record among them (layer.json, stages/) says the sha256 is not there, or is another one by now.
    """
    chosen = _names(store, keys) if names is None else names
    files = {name: _entry(store, f"{keys.root}/{name}") for name in chosen}
    for name in chosen:
        _check_vouched(store, keys, name, files)
    record = _manifest_json(keys, files)
    store.put(keys.manifest, record_bytes(record))
    return record


def listed(store: Store, keys: RunKeys, folder: str) -> dict[str, dict[str, Any]]:
    """What the manifest lists below a folder of the run: size and sha256 of each file, by its name in that folder.

    Raises MissingArtifact for an unfinished run, DamagedArtifact where the manifest is not as it was written.
    """
    files = _manifest_files(keys, store.record(keys.manifest))
    if files is None:
        raise DamagedArtifact(f"{keys.manifest} in the store {store.url} is damaged; run the same command again")
    top = f"{folder}/"
    return {name.removeprefix(top): entry for name, entry in files.items() if name.startswith(top)}


def finished(store: Store, keys: RunKeys) -> bool:
    """Whether the run has a manifest and everything in it is in the store as listed. Reads every file.

    Raises StoreError where the store cannot tell.
    """
    return store.exists(keys.manifest) and not damaged(store, keys)


def damaged(store: Store, keys: RunKeys) -> list[str]:
    """The keys that the manifest lists and that are absent or differ, or the manifest's own where it is unreadable.

    Empty where there is no manifest: that run is unfinished, not damaged.
    """
    if not store.exists(keys.manifest):
        return []
    files = _manifest_files(keys, read(store, keys.manifest))
    if files is None:
        return [keys.manifest]
    entries = {f"{keys.root}/{name}": entry for name, entry in files.items()}
    return [key for key, entry in entries.items() if not _is_listed(store, key, entry)]


def merge_timings(store: Store, keys: RunKeys, seconds: Mapping[str, float]) -> dict[str, float]:
    """Add `seconds` (name -> duration) to timings.json, new values over old, and return all of them.

    Durations differ from run to run, so they lie outside the manifest; a damaged file is started anew.
    """
    known = parse_object(read(store, keys.timings)) or {}
    merged = {name: float(value) for name, value in known.items() if isinstance(value, float | int)} | dict(seconds)
    store.put(keys.timings, record_bytes(merged))
    return merged


def _layer_json(layer: int, chain: str, files: Mapping[str, str]) -> dict[str, Any]:
    return {"format": FORMAT_VERSION, "layer": layer, "chain": chain, "files": dict(files)}


def _manifest_json(keys: RunKeys, files: dict[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT_VERSION, "run_id": keys.run_id, "files": files}


def _manifest_files(keys: RunKeys, data: bytes) -> dict[str, Any] | None:
    record = parse_record(data) or {}
    files = record.get("files")
    return files if isinstance(files, dict) and record == _manifest_json(keys, files) else None


def _check_vouched(store: Store, keys: RunKeys, name: str, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Hold the files against what the record called `name` says of them, if it is one."""
    folder, _, last = name.rpartition("/")
    if last != "layer.json" and folder != "stages":
        return
    vouched = (parse_record(store.get(f"{keys.root}/{name}", files[name]["sha256"])) or {}).get("files")
    top = f"{folder}/" if last == "layer.json" else ""
    for file, digest in vouched.items() if isinstance(vouched, dict) else ():
        key, found = f"{keys.root}/{top}{file}", files.get(f"{top}{file}", {}).get("sha256")
        if found is None:
            raise MissingArtifact(f"{key} is not in the store {store.url}; run the same command again to make it")
        if found != digest:
            raise DamagedArtifact(
                f"{key} in the store {store.url} has sha256 {found}, not {digest}; run the same command again"
            )


def _names(store: Store, keys: RunKeys) -> list[str]:
    found = [key for key in store.list(f"{keys.root}/") if key not in (keys.manifest, keys.timings)]
    return [key.removeprefix(f"{keys.root}/") for key in found]


def _entry(store: Store, key: str) -> dict[str, Any]:
    return {"size": store.size(key), "sha256": store.sha256(key)}


def _is_listed(store: Store, key: str, entry: object) -> bool:
    try:
        return is_key(key) and _entry(store, key) == entry
    except NOT_THERE:
        return False
