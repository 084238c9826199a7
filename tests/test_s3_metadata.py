"""What storage says about an object beside its bytes: metadata in another spelling or none, etags of every kind."""

import itertools
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artifacts.digest import sha256_bytes
from artifacts.errors import DamagedArtifact
from artifacts.folders import open_folder
from artifacts.publish import publish, published
from artifacts.s3.store import S3Store
from artifacts.store import open_store
from tasks.doctor.services import store_access
from tests import fault_proxy as faults
from tests.fault_proxy import ALWAYS, Fault, FaultProxy
from tests.s3 import raw_client
from tests.s3_faults import BUCKET, DATA, EXPECTED, KEY, LOOKS, READS, failing_storage, open_at

SPELLINGS: dict[str, Callable[[str], str]] = {
    "Title-Case": lambda name: name.title() if name.lower().startswith("x-amz-meta-") else name,
    "UPPER-CASE": str.upper,
}
DIGEST = sha256_bytes(DATA)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FaultProxy]]:
    with failing_storage(tmp_path_factory.mktemp("cache")) as service:
        yield service


@pytest.fixture
def proxy(service: tuple[str, FaultProxy]) -> Iterator[FaultProxy]:
    service[1].inject()
    yield service[1]
    service[1].inject()


@pytest.fixture
def store(proxy: FaultProxy) -> S3Store:
    return open_at(uuid.uuid4().hex, attempts=3)


@pytest.fixture(params=SPELLINGS)
def spelling(request: pytest.FixtureRequest) -> Callable[[str], str]:
    return SPELLINGS[request.param]


def test_metadata_counts_in_any_spelling(
    proxy: FaultProxy, store: S3Store, tmp_path: Path, spelling: Callable[[str], str]
) -> None:
    proxy.inject(Fault(faults.with_headers(spelling), times=ALWAYS))
    store.put(KEY, DATA)
    assert {name: operation(store, tmp_path) for name, operation in (READS | LOOKS).items()} == EXPECTED
    other = open_at(uuid.uuid4().hex, attempts=3)
    other.put(KEY, DATA)
    proxy.inject(Fault(faults.with_headers(spelling, faults.flip), "GET", KEY, times=ALWAYS))
    for operation in READS.values():
        with pytest.raises(DamagedArtifact, match=f"{KEY} in the store {other.url} has sha256 "):
            operation(other, tmp_path)


def test_a_conditional_put_knows_its_own_object_in_any_spelling(
    proxy: FaultProxy, store: S3Store, spelling: Callable[[str], str]
) -> None:
    proxy.inject(Fault(faults.unanswered, "PUT", KEY), Fault(faults.with_headers(spelling), times=ALWAYS))
    assert store.put(KEY, DATA, if_absent=True) == DIGEST


def test_what_carries_no_digest_is_read_by_a_known_one_alone(proxy: FaultProxy, store: S3Store) -> None:
    store.put(KEY, DATA)
    cached = store.fetch(KEY, DIGEST)
    before = cached.stat().st_ino
    proxy.inject(Fault(faults.with_headers(faults.no_metadata), times=ALWAYS))
    assert store.get(KEY, DIGEST) == DATA == store.fetch(KEY, DIGEST).read_bytes()
    assert cached.stat().st_ino != before  # the copy here proves nothing about what is there
    for read in (store.record, store.sha256):
        with pytest.raises(
            DamagedArtifact, match=f"{KEY} in the store .* has no sha256 in its metadata, so nothing vo"
        ):
            read(KEY)


def test_storage_that_drops_metadata_is_refused_before_any_work(proxy: FaultProxy) -> None:
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    proxy.inject(Fault(faults.with_headers(faults.no_metadata), times=ALWAYS))
    for _ in ("new", "marked just now"):
        with pytest.raises(
            DamagedArtifact, match=r"json in the store .* no sha256 in its metadata.*that keep metadata"
        ):
            open_store(url)


def test_the_doctor_says_whether_metadata_comes_back(proxy: FaultProxy, spelling: Callable[[str], str]) -> None:
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    proxy.inject(Fault(faults.with_headers(spelling), times=ALWAYS))
    assert [check.status for check in store_access(url)] == ["ok"]
    # Of what the doctor puts there, not only of the marker.
    for change, found in (faults.no_metadata, "no sha256 in its metadata"), (spelling, "has sha256"):
        proxy.inject(
            Fault(faults.with_headers(change, faults.flip), "GET", url.removeprefix("s3:/") + "/doctor/", times=ALWAYS)
        )
        (check,) = store_access(url)
        assert check.status == "problem" and found in check.found, check


def test_a_published_file_is_known_by_its_digest_not_its_size(
    proxy: FaultProxy, service: tuple[str, FaultProxy], tmp_path: Path, spelling: Callable[[str], str]
) -> None:
    store, prefix = open_store(tmp_path / "store"), uuid.uuid4().hex
    files = {"model.safetensors": {"size": len(DATA), "sha256": store.put("a/model.safetensors", DATA)}}
    target, raw = f"s3://{BUCKET}/{prefix}", raw_client(service[0])
    put: dict[str, Any] = {"Bucket": BUCKET, "Key": f"{prefix}/model.safetensors"}
    for change in (spelling, faults.no_metadata):
        proxy.inject(Fault(faults.with_headers(change), times=ALWAYS))
        publish(store, "a", files, target, {"run_id": "a"})
        assert published(target) is not None
        raw.put_object(**put, Body=DATA[::-1])  # of another model of this architecture, say
        assert published(target) is None
        publish(store, "a", files, target, {"run_id": "a"})
        assert published(target) is not None and raw.get_object(**put)["Body"].read() == DATA


@pytest.fixture
def foreign(service: tuple[str, FaultProxy], proxy: FaultProxy) -> str:
    """The address of a folder with a file `a` that another tool put there."""
    prefix = uuid.uuid4().hex
    raw_client(service[0]).put_object(Bucket=BUCKET, Key=f"{prefix}/a", Body=DATA)
    return f"s3://{BUCKET}/{prefix}"


def test_a_wrong_md5_is_read_again(proxy: FaultProxy, foreign: str) -> None:
    proxy.inject(Fault(faults.flipped, "GET", foreign.removeprefix("s3:/") + "/a"))
    assert (open_folder(foreign).fetch(["a"]) / "a").read_bytes() == DATA


def test_bytes_that_come_otherwise_each_time_are_damage(proxy: FaultProxy, foreign: str) -> None:
    number = itertools.count()
    struck = faults.with_headers(lambda name: name, lambda data: next(number).to_bytes(4, "big") + data[4:])
    proxy.inject(Fault(struck, "GET", foreign.removeprefix("s3:/") + "/a", times=ALWAYS))
    folder = open_folder(foreign)
    folder._reader._options = folder._options = open_at("patience", attempts=3)._options  # type: ignore[attr-defined]
    with pytest.raises(DamagedArtifact, match=rf"{foreign}/a did not arrive as it was stored .* bytes\); try again"):
        folder.fetch(["a"])
    assert next(number) == 3


def test_an_etag_of_32_hex_digits_that_is_no_md5_is_a_tag(proxy: FaultProxy, foreign: str) -> None:
    """The same other bytes each time: it is not the way here."""
    proxy.inject(Fault(faults.flipped, "GET", foreign.removeprefix("s3:/") + "/a", times=ALWAYS))
    assert (open_folder(foreign).fetch(["a"]) / "a").read_bytes() == faults.flip(DATA)
    assert proxy.requests == 4  # a listing, no manifest, two readings
