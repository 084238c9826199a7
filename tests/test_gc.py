"""`ghost gc`, on a local store and on a real S3 endpoint: what it lists, what it removes, and what it never touches."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from artifacts.errors import StoreError
from artifacts.keys import PruningKeys, RunKeys
from artifacts.local import LocalStore
from artifacts.manifest import read_layer, write_layer, write_manifest, write_record
from artifacts.store import Store, open_store
from tasks.store.gc import DAY_SECONDS, collect
from tests.s3 import make_bucket, s3_endpoint, s3_environment

pytest_plugins = ["tests.refusals"]

OLD, FINISHED, FRESH = "a" * 16, "b" * 16, "c" * 16
GAP_SECONDS = 2.1
"""Between an old run and a fresh one: S3 tells whole seconds."""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_endpoint() as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(endpoint).items():
            patch.setenv(name, value)
        patch.setenv("GHOST_CACHE", str(tmp_path_factory.mktemp("cache")))
        make_bucket(endpoint, "runs")
        yield "s3://runs"


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(tmp_path / "store")
    return open_store(f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}")


def start_run(store: Store, run_id: str, layers: int = 2) -> RunKeys:
    """A run of so many done layers, and one begun."""
    keys, pruning = RunKeys(run_id), pruning_of(run_id)
    write_record(store, keys.run, {"prune_id": pruning.prune_id, "model": f"model of {run_id[0]}"})
    for layer in range(layers):
        files = {"stats.parquet": store.put(pruning.stats(layer), b"statistics " * 50)}
        write_layer(store, pruning, layer, "chain", files)
    store.put(pruning.stats(layers), b"begun")
    return keys


def pruning_of(run_id: str) -> PruningKeys:
    return PruningKeys.of(f"{run_id}-pruning")


def finish(store: Store, keys: RunKeys) -> None:
    write_manifest(store, keys, {keys.run: store.sha256(keys.run)})


def contents(store: Store) -> dict[str, bytes]:
    return {key: store.record(key) for key in store.list("")}


def test_objects_tells_sizes_and_times(store: Store) -> None:
    before = time.time()
    for key in ("b/2", "b/1", "a", "bb"):
        store.put(key, key.encode() * 3)
    found = store.objects("b/")
    assert [(each.key, each.size) for each in found] == [("b/1", 9), ("b/2", 9)]
    assert all(before - 2 < each.modified < time.time() + 2 for each in found)
    assert [each.key for each in store.objects("")] == store.list("")


def test_gc_lists_and_with_yes_removes_old_unfinished_runs_alone(
    store: Store, execute: Callable[..., tuple[Any, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_run(store, OLD)
    finish(store, start_run(store, FINISHED))
    a_week_later = time.time() + 7 * DAY_SECONDS + 0.5
    time.sleep(GAP_SECONDS)
    start_run(store, FRESH)
    monkeypatch.setattr("tasks.store.gc.time", SimpleNamespace(time=lambda: a_week_later))
    before, command = contents(store), ["gc", f"--store={store.url}"]
    code, out, err = execute([*command, "--json"])
    assert code == 0, err
    (listed,) = json.loads(out)["runs"]
    size = sum(len(data) for key, data in before.items() if OLD in key)
    assert listed == {"run_id": OLD, "model": "model of a", "days": 7.0, "size": size, "layers": 2}
    assert contents(store) == before
    code, out, err = execute([*command, "--yes"])
    assert code == 0 and OLD in out and "1 removed" in out, err
    assert contents(store) == {key: data for key, data in before.items() if OLD not in key}
    assert execute(command)[1].startswith("no unfinished run has been idle")


@pytest.mark.parametrize("deletions", range(7))
def test_a_removal_that_is_interrupted_leaves_no_record_without_its_files(
    deletions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, delete, left = LocalStore(tmp_path / "store"), LocalStore.delete, [deletions]
    keys = start_run(store, OLD)

    def killed_after_some(self: LocalStore, key: str) -> None:
        if not left[0]:
            raise StoreError("killed")
        left[0] -= 1
        delete(self, key)

    monkeypatch.setattr(LocalStore, "delete", killed_after_some)
    with suppress(StoreError):
        collect(store.url, 0, remove=True)
    stored = store.list("")
    assert len(stored) == 6 - deletions and (keys.run in stored or not stored)
    records = [key for key in stored if key.endswith("layer.json")]
    assert all(read_layer(store, pruning_of(OLD), int(key.split("/")[-2]), "chain") for key in records)


def test_a_run_that_is_finished_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "store")
    keys = start_run(store, OLD)
    objects, looks = LocalStore.objects, []

    def finishing(self: LocalStore, prefix: str) -> Any:
        looks.append(prefix)
        if len(looks) == 5:  # once for the ids, twice for the look, and the removal lists and looks again
            finish(store, keys)
        return objects(self, prefix)

    monkeypatch.setattr(LocalStore, "objects", finishing)
    assert collect(store.url, 0, remove=True) == []
    assert len(looks) >= 5 and store.exists(keys.manifest) and store.exists(pruning_of(OLD).stats(0))


def test_a_pruning_goes_with_the_last_run_that_has_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    keys, other, pruning = start_run(store, OLD), RunKeys(FRESH), pruning_of(OLD)
    write_record(store, other.run, {"prune_id": pruning.prune_id, "model": "another text"})
    finish(store, other)
    (found,) = collect(store.url, 0, remove=True)
    assert found["run_id"] == OLD and found["size"] < 200, "what another run has too is not counted"
    assert not store.exists(keys.run) and store.exists(pruning.layer(1))
    store.delete(other.manifest)
    assert [run["run_id"] for run in collect(store.url, 0, remove=True)] == [FRESH]
    assert store.list("") == []


def test_of_two_unfinished_runs_of_one_pruning_the_last_takes_it_along(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    start_run(store, OLD)
    write_record(store, RunKeys(FRESH).run, {"prune_id": pruning_of(OLD).prune_id, "model": "another text"})
    assert {run["run_id"] for run in collect(store.url, 0, remove=True)} == {OLD, FRESH}
    assert store.list("") == []


def test_a_run_that_began_meanwhile_keeps_the_pruning_that_it_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "store")
    keys, other, pruning = start_run(store, OLD), RunKeys(FRESH), pruning_of(OLD)
    objects, listed = LocalStore.objects, []

    def beginning(self: LocalStore, prefix: str) -> Any:
        listed.append(prefix)
        if len(listed) == 4:  # after the first look at all runs
            write_record(store, other.run, {"prune_id": pruning.prune_id, "model": "another text"})
        return objects(self, prefix)

    monkeypatch.setattr(LocalStore, "objects", beginning)
    assert [run["run_id"] for run in collect(store.url, 0, remove=True)] == [OLD]
    assert not store.exists(keys.run) and store.exists(other.run) and store.exists(pruning.layer(1))


def test_gc_makes_no_store_where_there_is_none(tmp_path: Path, command: Callable[..., str]) -> None:
    line = command("gc", "--store", tmp_path / "nothing", "--yes")
    assert f"there is no store at {tmp_path / 'nothing'}" in line
    assert not (tmp_path / "nothing").exists()
