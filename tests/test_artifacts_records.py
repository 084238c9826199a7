"""The records of a run: what they claim is verified against the store, and damage is never trusted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts import manifest, tables
from artifacts.digest import record_bytes, sha256_bytes
from artifacts.errors import DamagedArtifact, MissingArtifact
from artifacts.files import TEMPORARY
from artifacts.keys import PruningKeys, RunKeys
from artifacts.manifest import LayerRecord
from artifacts.schemas import FORMAT_VERSION, SELECTION, STATS, TOKENS
from artifacts.store import Store, open_store

KEYS = RunKeys("0123456789abcdef")
OTHER_KEYS = RunKeys("fedcba9876543210")
LAYERS, OTHER_LAYERS = PruningKeys.of("00112233445566ff"), PruningKeys.of("ff00112233445566")
CHAIN = sha256_bytes(b"the layer before")
LAYER_FILES = ["stats.parquet", "selection.parquet", "weights.safetensors", "layer.json"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def stats(layer: int, seed: int) -> bytes:
    names = ["controllability", "observability", "energy", "norm_b", "norm_c"]
    random, index = np.random.default_rng([seed, layer]), np.arange(16)
    columns: dict[str, Any] = {name: random.random(16) for name in names}
    columns |= {field.name: [None] * 16 for field in STATS if field.nullable and field.name not in columns}
    columns |= {"layer": index * 0 + layer, "group": index // 8, "channel": index % 8, "tokens": [16384] * 16}
    return tables.encode(columns, STATS)


def selection(layer: int) -> bytes:
    columns = {"layer": [layer] * 2, "group": [0] * 2, "channel": [0, 1], "saliency": [0.5, 2.0], "kept": [False, True]}
    return tables.encode(columns, SELECTION)


def put_layer(store: Store, keys: PruningKeys = LAYERS, layer: int = 0, seed: int = 0) -> LayerRecord:
    files = {
        "stats.parquet": store.put(keys.stats(layer), stats(layer, seed)),
        "selection.parquet": store.put(keys.selection(layer), selection(layer)),
        "weights.safetensors": store.put(keys.weights(layer), bytes(range(256))),
    }
    return manifest.write_layer(store, keys, layer, CHAIN, files)


def put_run(store: Store, keys: RunKeys = KEYS, layers: PruningKeys = LAYERS) -> dict[str, Any]:
    return manifest.write_manifest(store, keys, files_of_a_run(store, keys, layers))


def files_of_a_run(store: Store, keys: RunKeys = KEYS, layers: PruningKeys = LAYERS) -> dict[str, str]:
    files = {keys.run: manifest.write_record(store, keys.run, {"model": "demo"})}
    files[layers.tokens] = store.put(layers.tokens, tables.encode({"sample": [0, 1], "tokens": [[1, 2], []]}, TOKENS))
    for number in range(3):
        record = put_layer(store, layers, number)
        files |= {f"{layers.layer_folder(number)}/{name}": sha256 for name, sha256 in record.files.items()}
        files[layers.layer(number)] = record.digest
    config = f"{keys.checkpoint}/config.json"
    return files | {config: store.put(config, b'{"state_size": 64}')}


def flip(store: Store, key: str, bit: int) -> None:
    """As a disk does it: behind the store's back."""
    with Path(store.url, key).open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def some_bits(store: Store, key: str) -> list[int]:
    """Every bit of a short file, and about a hundred spread over a longer one."""
    bits = store.size(key) * 8
    return list(range(0, bits, max(1, bits // 100)))


def test_a_record_holds_what_it_is_given_and_the_format(store: Store) -> None:
    digest = manifest.write_record(store, KEYS.run, {"model": "demo", "seed": 0})
    assert json.loads(store.record(KEYS.run)) == {"model": "demo", "seed": 0, "format": FORMAT_VERSION}
    assert digest == store.sha256(KEYS.run)


@pytest.mark.parametrize("damage", [b"", b"\0", b"[7]", b'{"model":"demo"}', b'{"format":%d}' % FORMAT_VERSION])
def test_a_record_is_left_alone_if_equal_and_mended_if_not(store: Store, damage: bytes) -> None:
    record = {"model": "demo", "seed": 0}
    digest = manifest.write_record(store, KEYS.run, record)
    path, data = store.fetch(KEYS.run, digest), store.record(KEYS.run)
    inode = path.stat().st_ino
    assert manifest.write_record(store, KEYS.run, record) == digest
    assert path.stat().st_ino == inode
    store.put(KEYS.run, damage)
    assert manifest.write_record(store, KEYS.run, record) == digest
    assert store.record(KEYS.run) == data


def test_a_layer_is_read_as_it_was_written(store: Store) -> None:
    written = put_layer(store, layer=2)
    assert manifest.read_layer(store, LAYERS, 2, CHAIN) == written
    assert written.digest == store.sha256(LAYERS.layer(2))
    assert written.files == {name: store.sha256(f"{LAYERS.layer_folder(2)}/{name}") for name in LAYER_FILES[:3]}
    assert put_layer(store, layer=2) == written


def test_a_layer_of_another_chain_number_or_run_is_not_done(store: Store) -> None:
    put_layer(store, layer=2)
    store.put(LAYERS.layer(1), store.record(LAYERS.layer(2)))
    assert manifest.read_layer(store, LAYERS, 2, sha256_bytes(b"another layer before")) is None
    assert manifest.read_layer(store, LAYERS, 1, CHAIN) is None
    assert manifest.read_layer(store, OTHER_LAYERS, 2, CHAIN) is None


def test_a_layers_digest_follows_its_chain_and_its_files(store: Store) -> None:
    files = {"weights.safetensors": store.put(LAYERS.weights(0), b"weights")}
    first = manifest.write_layer(store, LAYERS, 0, CHAIN, files)
    other_chain = manifest.write_layer(store, LAYERS, 0, "another", files)
    other_files = manifest.write_layer(store, LAYERS, 0, CHAIN, {"weights.safetensors": sha256_bytes(b"others")})
    assert len({first.digest, other_chain.digest, other_files.digest}) == 3


@pytest.mark.parametrize("name", LAYER_FILES)
def test_a_layer_with_a_file_missing_is_not_done(store: Store, name: str) -> None:
    put_layer(store)
    store.delete(f"{LAYERS.layer_folder(0)}/{name}")
    assert manifest.read_layer(store, LAYERS, 0, CHAIN) is None


@pytest.mark.parametrize("name", LAYER_FILES)
def test_a_flipped_bit_in_any_file_of_a_layer_undoes_it(store: Store, name: str) -> None:
    put_layer(store)
    key = f"{LAYERS.layer_folder(0)}/{name}"
    for bit in some_bits(store, key):
        flip(store, key, bit)
        assert manifest.read_layer(store, LAYERS, 0, CHAIN) is None
        flip(store, key, bit)
        assert manifest.read_layer(store, LAYERS, 0, CHAIN) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"files": None},
        {"files": ["stats.parquet"]},
        {"files": {"../../../run.json": "0"}},
        {"files": {"": "0"}},
        {"files": {"stats.parquet": None}},
        {"files": {"stats.parquet": {}}},
        {"format": FORMAT_VERSION + 1},
        {"more": 1},
    ],
)
def test_a_layer_json_with_other_content_is_none(store: Store, change: dict[str, Any]) -> None:
    put_layer(store)
    record = json.loads(store.record(LAYERS.layer(0)))
    store.put(LAYERS.layer(0), record_bytes(record | change))
    assert manifest.read_layer(store, LAYERS, 0, CHAIN) is None


def test_the_manifest_lists_every_file_that_it_is_given_with_its_size(store: Store) -> None:
    put_run(store, OTHER_KEYS, OTHER_LAYERS)
    entries = put_run(store)
    record = json.loads(store.record(KEYS.manifest))
    assert put_run(store) == entries == record["files"] and list(entries) == sorted(entries)
    layers = {f"{LAYERS.layer_folder(layer)}/{name}" for layer in range(3) for name in LAYER_FILES}
    assert set(entries) == {KEYS.run, LAYERS.tokens, f"{KEYS.checkpoint}/config.json"} | layers
    assert entries[LAYERS.weights(1)] == {"size": 256, "sha256": sha256_bytes(bytes(range(256)))}
    assert (record["format"], record["run_id"]) == (FORMAT_VERSION, KEYS.run_id)
    assert manifest.read_manifest(store, KEYS) == {key: entry["sha256"] for key, entry in entries.items()}


def test_a_manifest_is_of_what_the_records_vouch_for_and_of_nothing_else(store: Store) -> None:
    files = files_of_a_run(store)
    store.put(f"{KEYS.checkpoint}/stray.bin", b"of a killed export")
    assert set(manifest.write_manifest(store, KEYS, files)) == set(files)
    with pytest.raises(MissingArtifact, match=f"{KEYS.evaluation} is not in the store"):
        manifest.write_manifest(store, KEYS, files | {KEYS.evaluation: "0" * 64})


@pytest.mark.parametrize("key", [LAYERS.weights(1), LAYERS.stats(0), f"{KEYS.checkpoint}/config.json"])
def test_a_file_exchanged_under_the_run_s_hands_is_in_no_manifest(store: Store, key: str) -> None:
    files = files_of_a_run(store)
    store.put(key, b"another's")
    with pytest.raises(DamagedArtifact, match=f"{key} in the store .* has sha256 .*; run the same command again"):
        manifest.write_manifest(store, KEYS, files)
    assert not store.exists(KEYS.manifest)


def test_a_manifest_of_format_3_is_read_by_the_same_keys(store: Store) -> None:
    layers = PruningKeys(KEYS.root)
    files = files_of_a_run(store, KEYS, layers)
    entries = {k.removeprefix(f"{KEYS.root}/"): {"size": store.size(k), "sha256": v} for k, v in files.items()}
    store.put(KEYS.manifest, record_bytes({"format": 3, "run_id": KEYS.run_id, "files": entries}))
    assert manifest.read_manifest(store, KEYS) == files
    store.put(KEYS.manifest, record_bytes({"format": 2, "run_id": KEYS.run_id, "files": entries}))
    assert manifest.read_manifest(store, KEYS) is None


def test_a_killed_writers_temporary_is_in_no_list_manifest_or_total(store: Store) -> None:
    put_run(store)
    before, record = store.objects(""), store.record(KEYS.manifest)
    for folder in (KEYS.checkpoint, LAYERS.layer_folder(0), KEYS.root, LAYERS.root, f"{KEYS.root}/stages"):
        Path(store.url, folder).mkdir(exist_ok=True)
        Path(store.url, folder, f"{TEMPORARY}0123").write_bytes(b"half")
    assert store.objects("") == before and store.list(f"{KEYS.root}/{TEMPORARY[:5]}") == []
    put_run(store)
    assert store.record(KEYS.manifest) == record and manifest.finished(store, KEYS)


def test_a_run_is_finished_once_it_has_a_manifest_that_holds(store: Store) -> None:
    assert not manifest.finished(store, KEYS)
    put_run(store)
    assert manifest.finished(store, KEYS)
    manifest.merge_timings(store, KEYS.timings, {"layer 0": 1.5})
    store.put(f"{KEYS.root}/stray", b"")
    assert manifest.finished(store, KEYS)
    store.delete(KEYS.manifest)
    assert not manifest.finished(store, KEYS)
    assert manifest.damaged(store, KEYS) == []


def test_the_manifest_of_another_run_does_not_finish_this_one(store: Store) -> None:
    put_run(store)
    put_run(store, OTHER_KEYS, OTHER_LAYERS)
    store.put(KEYS.manifest, store.record(OTHER_KEYS.manifest))
    assert manifest.damaged(store, KEYS) == [KEYS.manifest]


def test_the_manifest_catches_a_flipped_bit_in_every_file(store: Store) -> None:
    put_run(store)
    for key in json.loads(store.record(KEYS.manifest))["files"]:
        for bit in some_bits(store, key)[::25]:
            flip(store, key, bit)
            assert manifest.damaged(store, KEYS) == [key]
            assert not manifest.finished(store, KEYS)
            flip(store, key, bit)
    store.delete(LAYERS.tokens)
    assert manifest.damaged(store, KEYS) == [LAYERS.tokens]


def test_a_flipped_bit_in_the_manifest_itself_is_caught(store: Store) -> None:
    manifest.write_manifest(store, KEYS, {KEYS.run: store.put(KEYS.run, b"{}")})
    for bit in range(store.size(KEYS.manifest) * 8):
        flip(store, KEYS.manifest, bit)
        assert not manifest.finished(store, KEYS)
        flip(store, KEYS.manifest, bit)
    assert manifest.finished(store, KEYS)


def test_timings_are_merged_and_start_anew_when_damaged(store: Store) -> None:
    assert manifest.merge_timings(store, KEYS.timings, {"layer 0": 1.5, "export": 2.0}) == {
        "layer 0": 1.5,
        "export": 2.0,
    }
    manifest.merge_timings(store, KEYS.timings, {"export": 3})
    assert json.loads(store.record(KEYS.timings)) == {"layer 0": 1.5, "export": 3}
    for damage in (b"", b"[1]\n", b'{"layer 0": "long"}\n'):
        store.put(KEYS.timings, damage)
        assert manifest.merge_timings(store, KEYS.timings, {"report": 0.5}) == {"report": 0.5}
