"""Storage that fails: what passes is survived with the right bytes, what stays is told in one line, and nothing broken
is ever taken for whole. `docs/storage.md` has this as a table."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifacts.cache import cache_folder
from artifacts.errors import DamagedArtifact, MissingArtifact, StoreError
from artifacts.s3.store import S3Store
from tests import fault_proxy as faults
from tests.fault_proxy import ALWAYS, Fault, FaultProxy
from tests.s3 import SECRETS
from tests.s3_faults import (
    BODY_FAULTS,
    BUCKET,
    DATA,
    EXPECTED,
    KEY,
    LOOKS,
    OPERATIONS,
    PERMANENT,
    READS,
    SERVICE_FAULTS,
    SLOW,
    UPLOAD_FAULTS,
    WRITES,
    WRITTEN,
    failing_storage,
    open_at,
)

UNSPEAKABLE = [*SECRETS.values(), "body-secret", "presigned-secret", "Signature"]


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


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    """Of three parts."""
    path = tmp_path / "large"
    path.write_bytes(DATA * 3 + DATA[::-1] + b"end")
    return path


@pytest.mark.parametrize("fault", SERVICE_FAULTS)
def test_reading_outlasts_a_service_that_fails_for_a_while(
    store: S3Store, proxy: FaultProxy, tmp_path: Path, fault: str
) -> None:
    action, times = SERVICE_FAULTS[fault]
    store.put(KEY, DATA)
    for name, operation in (READS | LOOKS).items():
        if fault in SLOW and name not in SLOW[fault]:
            continue
        proxy.inject(Fault(action, times=times))
        assert operation(store, tmp_path) == EXPECTED[name], name
        assert proxy.requests > times, name


@pytest.mark.parametrize("fault", BODY_FAULTS)
def test_a_torn_or_wrong_body_is_read_again(store: S3Store, proxy: FaultProxy, tmp_path: Path, fault: str) -> None:
    action, times = BODY_FAULTS[fault]
    store.put(KEY, DATA)
    for name, operation in READS.items():
        proxy.inject(Fault(action, "GET", KEY, times=times))
        assert operation(store, tmp_path) == EXPECTED[name], name
        assert proxy.requests > times, name


@pytest.mark.parametrize("fault", ["reset in the body", "truncated body", "shortened body", "stalled body"])
def test_a_torn_list_is_asked_for_again(store: S3Store, proxy: FaultProxy, fault: str) -> None:
    action, times = BODY_FAULTS[fault]
    store.put(KEY, b"")
    proxy.inject(Fault(action, "GET", "list-type", times=times))
    assert store.list("") == [KEY]
    assert proxy.requests == times + 1


@pytest.mark.parametrize("fault", ["reset in the body", "truncated body", "shortened body"])
def test_a_torn_refusal_is_asked_for_again(store: S3Store, proxy: FaultProxy, fault: str) -> None:
    """An absent object is absent, not a broken service, although its 404 broke off."""
    proxy.inject(Fault(BODY_FAULTS[fault][0], "GET", KEY, times=2))
    with pytest.raises(MissingArtifact, match=f"{KEY} is not in the store {store.url}; run the same command again"):
        store.record(KEY)


@pytest.mark.parametrize("fault", SERVICE_FAULTS | UPLOAD_FAULTS)
def test_writing_outlasts_what_passes(store: S3Store, proxy: FaultProxy, large_file: Path, fault: str) -> None:
    action, times = (SERVICE_FAULTS | UPLOAD_FAULTS)[fault]
    for name, operation in WRITES.items():
        if fault in SLOW and name not in SLOW[fault]:
            continue
        proxy.inject(Fault(action, times=times))
        digest = operation(store, large_file)
        assert proxy.requests > times, name
        if name == "delete":
            assert not store.exists(KEY)
        else:
            assert store.get(WRITTEN[name], digest) == (large_file.read_bytes() if name == "put_file" else DATA)


@pytest.mark.parametrize("code", PERMANENT)
def test_what_stays_is_told_in_one_line(proxy: FaultProxy, large_file: Path, code: str) -> None:
    status, remedy = PERMANENT[code]
    store = open_at(uuid.uuid4().hex, attempts=2)
    store.put(KEY, DATA)
    proxy.inject(Fault(faults.error(status, code), times=ALWAYS))
    for name, operation in OPERATIONS.items():
        with pytest.raises(StoreError) as refusal:
            operation(store, large_file)
        assert_one_line(str(refusal.value), name, store.url, remedy)
    proxy.inject()
    assert store.record(KEY) == DATA
    assert store.list("") == [KEY]


def test_an_endpoint_that_is_not_there_is_told_in_one_line(
    service: tuple[str, FaultProxy], large_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faults.fault_proxy(service[0]) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        store = open_at(uuid.uuid4().hex, attempts=2)
        store.put(KEY, DATA)
    for name, operation in OPERATIONS.items():
        with pytest.raises(StoreError) as refusal:
            operation(store, large_file)
        assert_one_line(str(refusal.value), name, store.url, "check the network and AWS_ENDPOINT_URL, then try again")


def assert_one_line(message: str, operation: str, url: str, remedy: str) -> None:
    prefix = url.rpartition("/")[-1]
    named = {"list": "cannot list runs/ ", "open": f"{prefix}/ghost-store.json "}.get(operation, f"{prefix}/{KEY}")
    for part in (named, f"in bucket {BUCKET}", remedy):
        assert part in message, operation
    assert "\n" not in message
    assert not [secret for secret in UNSPEAKABLE if secret in message]


@pytest.mark.parametrize("fault", ["flipped bit", "shortened body", "reset in the body"])
def test_what_is_torn_every_time_is_never_handed_out(proxy: FaultProxy, tmp_path: Path, fault: str) -> None:
    """Neither as bytes, nor as a file in the cache, nor as a digest."""
    store = open_at(uuid.uuid4().hex, attempts=2)
    digest = store.put(KEY, DATA)
    proxy.inject(Fault(BODY_FAULTS[fault][0], "GET", KEY, times=ALWAYS))
    expected = DamagedArtifact if fault in ("flipped bit", "shortened body") else StoreError
    for operation in READS.values():
        with pytest.raises(expected, match=KEY):
            operation(store, tmp_path)
    with pytest.raises(expected, match=KEY):
        store.get(KEY, digest)
    assert not [path for path in cache_folder().rglob("*") if path.is_file() and path.read_bytes() != DATA]


def test_what_was_damaged_on_its_way_there_is_found_by_every_read(
    store: S3Store, proxy: FaultProxy, large_file: Path
) -> None:
    for write in (lambda: store.put(KEY, DATA), lambda: store.put_file(KEY, large_file)):
        proxy.inject(Fault(faults.flipped_upload, "PUT", KEY))
        write()
        for operation in READS.values():
            with pytest.raises(DamagedArtifact, match=f"{KEY} in the store {store.url} has sha256 .* run the same"):
                operation(store, large_file)
