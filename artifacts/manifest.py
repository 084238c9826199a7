"""What a run claims about the store, written after the fact it claims and verified before it is trusted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from artifacts.claims import NOT_THERE, holds, is_key, read
from artifacts.digest import parse_object, parse_record, record_bytes, sha256_bytes
from artifacts.errors import DamagedArtifact
from artifacts.keys import PruningKeys, RunKeys
from artifacts.schemas import FORMAT_VERSION, READABLE
from artifacts.store import Store


@dataclass(frozen=True)
class LayerRecord:
    """One finished layer: `files` maps names in its folder to sha256, `digest` is the sha256 of its layer.json."""

    layer: int
    chain: str
    files: dict[str, str]
    digest: str
    note: str | None = None
    """What there is to say of the layer in a line."""
    figures: Mapping[str, Any] | None = None
    """The same as plain values; of records of before they were kept, and where there are none, None."""


def write_record(store: Store, key: str, record: Mapping[str, Any]) -> str:
    """Put a record, with the format version, under `key` unless it says the same already; its digest."""
    data = record_bytes({**record, "format": FORMAT_VERSION})
    return sha256_bytes(data) if read(store, key) == data else store.put(key, data)


def write_layer(
    store: Store,
    keys: PruningKeys,
    layer: int,
    chain: str,
    files: Mapping[str, str],
    note: str | None = None,
    figures: Mapping[str, Any] | None = None,
) -> LayerRecord:
    """Declare a layer done, once its files are in the store: `files` maps their names to sha256.

    `chain` is whatever the layer's content depends on, the digest of the layer before it for one.
    """
    digest = store.put(keys.layer(layer), record_bytes(_layer_json(layer, chain, files, note, figures)))
    return LayerRecord(layer, chain, dict(files), digest, note, figures)


def read_layer(store: Store, keys: PruningKeys, layer: int, chain: str) -> LayerRecord | None:
    """The layer's record if it is done under this chain and every file hashes as recorded; None otherwise.

    Absence, damage of any kind and another format or chain are all None: the layer is to be done again. Raises
    StoreError where the store cannot tell.
    """
    data = read(store, keys.layer(layer))
    record = parse_record(data) or {}
    files, note, figures = (record.get(name) for name in ("files", "note", "figures"))
    if not isinstance(files, dict) or record != _layer_json(layer, chain, files, note, figures):
        return None
    if not all(holds(store, f"{keys.layer_folder(layer)}/{name}", digest) for name, digest in files.items()):
        return None
    return LayerRecord(layer, chain, files, sha256_bytes(data), note, figures)


def write_manifest(store: Store, keys: RunKeys, files: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Declare the run finished: `files` maps the keys of all that belongs to it to sha256, as the records of its stages
    say. Returns what manifest.json lists: size and sha256 by key. A manifest that says the same is left alone.

    Raises MissingArtifact where one of the files is not in the store, DamagedArtifact where it is another one by now.
    """
    entries = {key: {"size": store.size(key), "sha256": files[key]} for key in sorted(files)}
    data = record_bytes(_manifest_json(keys, entries))
    if read(store, keys.manifest) != data:
        for key, entry in entries.items():
            _check(store, key, entry["sha256"])
        store.put(keys.manifest, data)
    return entries


def _check(store: Store, key: str, sha256: str) -> None:
    if (found := store.sha256(key)) != sha256:
        raise DamagedArtifact(
            f"{key} in the store {store.url} has sha256 {found}, not {sha256}; run the same command again"
        )


def read_manifest(store: Store, keys: RunKeys) -> dict[str, str] | None:
    """The sha256 of each file that the run's manifest lists, by key; None where there is no manifest, or a damaged one.

    Manifests of earlier formats are read too. Raises StoreError where the store cannot tell.
    """
    entries = _listed(keys, read(store, keys.manifest))
    return None if entries is None else {key: entry["sha256"] for key, entry in entries.items()}


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
    entries = _listed(keys, read(store, keys.manifest))
    if entries is None:
        return [keys.manifest]
    return [key for key, entry in entries.items() if not _is_there(store, key, entry)]


def merge_timings(store: Store, key: str, seconds: Mapping[str, float]) -> dict[str, float]:
    """Add `seconds` (name -> duration) to the timings under `key`, new values over old, and return all of them.

    Durations differ from run to run, so they lie outside the manifest; a damaged file is started anew.
    """
    known = parse_object(read(store, key)) or {}
    merged = {name: float(value) for name, value in known.items() if isinstance(value, float | int)} | dict(seconds)
    store.put(key, record_bytes(merged))
    return merged


def _layer_json(layer: int, chain: str, files: Mapping[str, str], note: object, figures: object) -> dict[str, Any]:
    said = {"note": note} | ({} if figures is None else {"figures": figures})
    return {"format": FORMAT_VERSION, "layer": layer, "chain": chain, "files": dict(files)} | said


def _manifest_json(keys: RunKeys, files: Mapping[str, Any], version: object = FORMAT_VERSION) -> dict[str, Any]:
    return {"format": version, "run_id": keys.run_id, "files": files}


def _listed(keys: RunKeys, data: bytes) -> dict[str, dict[str, Any]] | None:
    """What a manifest lists, by key, if `data` is exactly one of this run and of a format that is read."""
    record = parse_record(data) or {}
    files, version = record.get("files"), record.get("format")
    if not isinstance(files, dict) or version not in READABLE or record != _manifest_json(keys, files, version):
        return None
    if not all(isinstance(entry, dict) and isinstance(entry.get("sha256"), str) for entry in files.values()):
        return None
    return files if version == FORMAT_VERSION else {f"{keys.root}/{name}": entry for name, entry in files.items()}


def _is_there(store: Store, key: str, entry: Mapping[str, Any]) -> bool:
    try:
        return is_key(key) and {"size": store.size(key), "sha256": store.sha256(key)} == entry
    except NOT_THERE:
        return False
