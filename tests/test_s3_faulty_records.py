"""The records of a run on storage that fails: no outage makes a run look finished, or its work look undone."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from artifacts import manifest
from artifacts.errors import DamagedArtifact, StoreError
from artifacts.keys import PruningKeys, RunKeys
from artifacts.s3.store import S3Store
from tests import fault_proxy as faults
from tests.fault_proxy import ALWAYS, Fault, FaultProxy
from tests.s3_faults import BUCKET, failing_storage, open_at

KEYS = RunKeys("0123456789abcdef")
LAYERS = PruningKeys(KEYS.root)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FaultProxy]]:
    with failing_storage(tmp_path_factory.mktemp("cache")) as service:
        yield service


@pytest.fixture
def proxy(service: tuple[str, FaultProxy]) -> FaultProxy:
    service[1].inject()
    return service[1]


@pytest.fixture
def store(proxy: FaultProxy) -> S3Store:
    return open_at(uuid.uuid4().hex, attempts=4, read_timeout=0.4)


RECORDS: dict[str, Callable[[S3Store], Any]] = {
    "write_record": lambda store: manifest.write_record(store, KEYS.run, {"model": "demo"}),
    "read_layer": lambda store: manifest.read_layer(store, LAYERS, 0, "chain"),
    "write_manifest": lambda store: manifest.write_manifest(store, KEYS, {KEYS.run: "0" * 64}),
    "read_manifest": lambda store: manifest.read_manifest(store, KEYS),
    "finished": lambda store: manifest.finished(store, KEYS),
    "damaged": lambda store: manifest.damaged(store, KEYS),
    "merge_timings": lambda store: manifest.merge_timings(store, KEYS.timings, {"layer": 1.0}),
}


@pytest.mark.parametrize("fault", ["reset in the body", "AccessDenied"])
def test_an_outage_is_no_reason_to_do_the_work_again(proxy: FaultProxy, fault: str) -> None:
    """A record that cannot be read is not a record that is absent: the run ends, and the store stays as it was."""
    store = open_at(uuid.uuid4().hex, attempts=2)
    put_run(store)
    before = {key: store.sha256(key) for key in store.list("")}
    action = faults.error(403, "AccessDenied") if fault == "AccessDenied" else faults.reset
    for operation in RECORDS.values():
        proxy.inject(Fault(action, "GET", KEYS.root, times=ALWAYS))
        with pytest.raises(StoreError, match=f"in bucket {BUCKET}"):
            operation(store)
    proxy.inject()
    assert {key: store.sha256(key) for key in store.list("")} == before
    assert manifest.finished(store, KEYS)


def test_a_run_is_finished_only_with_everything_there_wherever_it_breaks(proxy: FaultProxy) -> None:
    """The storage goes away for good after each request in turn."""
    store = open_at(uuid.uuid4().hex, attempts=1)
    proxy.inject()
    put_run(store)
    requests, states = proxy.requests, []
    for skip in range(requests):
        for key in store.list(f"{KEYS.root}/"):
            store.delete(key)
        proxy.inject(Fault(faults.unanswered, skip=skip, times=ALWAYS))
        with pytest.raises(StoreError):
            put_run(store)
        proxy.inject()
        states.append(manifest.finished(store, KEYS))
        assert not states[-1] or len(store.list(f"{KEYS.root}/")) == 5
    assert states == [False] * (requests - 1) + [True]


@pytest.mark.parametrize("name", ["run.json", "stats.parquet", "weights.safetensors", "layer.json", "manifest.json"])
def test_a_file_damaged_on_its_way_never_ends_up_in_a_finished_run(
    store: S3Store, proxy: FaultProxy, name: str
) -> None:
    proxy.inject(Fault(faults.flipped_upload, "PUT", name))
    if name == "manifest.json":
        put_run(store)
    else:
        with pytest.raises(DamagedArtifact, match=name):
            put_run(store)
    assert not manifest.finished(store, KEYS)
    put_run(store)
    assert manifest.finished(store, KEYS)


def put_run(store: S3Store) -> None:
    run = manifest.write_record(store, KEYS.run, {"model": "demo"})
    names = ("stats.parquet", "weights.safetensors")
    files = {name: store.put(f"{LAYERS.layer_folder(0)}/{name}", name.encode() * 100) for name in names}
    layer = manifest.write_layer(store, LAYERS, 0, "chain", files)
    listed = {f"{LAYERS.layer_folder(0)}/{name}": sha256 for name, sha256 in files.items()}
    manifest.write_manifest(store, KEYS, {KEYS.run: run, LAYERS.layer(0): layer.digest} | listed)
