"""What only the store on S3 has: metadata, parts, pages, and other people's objects beside it."""

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from artifacts.digest import sha256_bytes
from artifacts.errors import DamagedArtifact, StoreError
from artifacts.marker import MARKER
from artifacts.s3.client import S3Options, make_client, parse_place
from artifacts.s3.store import S3Store
from artifacts.schemas import FORMAT_VERSION
from artifacts.store import Store, open_store
from tests.s3 import raw_client, s3_in_this_process

BUCKET = "s3-tests"
PART_BYTES = 5 << 20
"""The smallest that S3 takes."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client to do what ghost does not."""
    with s3_in_this_process(BUCKET, tmp_path_factory.mktemp("cache")) as endpoint:
        yield raw_client(endpoint)


@pytest.fixture
def prefix(raw: Any) -> str:
    return uuid.uuid4().hex


@pytest.fixture
def store(prefix: str) -> Store:
    return open_store(f"s3://{BUCKET}/{prefix}")


def test_the_whole_bucket_is_a_store_too(raw: Any) -> None:
    raw.create_bucket(Bucket="of-its-own")
    store = open_store("s3://of-its-own/")
    store.put("runs/a", b"a")
    assert (store.url, store.list(""), store.locate("runs/a")) == (
        "s3://of-its-own",
        ["runs/a"],
        "s3://of-its-own/runs/a",
    )
    assert json.loads(raw.get_object(Bucket="of-its-own", Key=MARKER)["Body"].read())["format"] == FORMAT_VERSION


def test_every_object_carries_the_sha256_of_its_bytes(store: Store, prefix: str, raw: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"data")
    store.put("put", b"data")
    store.put("conditional", b"data", if_absent=True)
    store.put_file("file", source)
    for key in ("put", "conditional", "file"):
        assert raw.head_object(Bucket=BUCKET, Key=f"{prefix}/{key}")["Metadata"]["sha256"] == sha256_bytes(b"data")


def test_a_file_of_several_parts_is_one_object_with_one_digest(prefix: str, raw: Any, tmp_path: Path) -> None:
    data = b"".join(bytes([part]) * PART_BYTES for part in range(3)) + b"end"
    source = tmp_path / "source"
    source.write_bytes(data)
    store = S3Store(parse_place(f"s3://{BUCKET}/{prefix}"), S3Options(part_bytes=PART_BYTES))
    assert store.put_file("a/large", source) == sha256_bytes(data) == store.sha256("a/large")
    assert store.size("a/large") == len(data)
    assert store.fetch("a/large", sha256_bytes(data)).read_bytes() == data
    head = raw.head_object(Bucket=BUCKET, Key=f"{prefix}/a/large")
    assert head["ETag"].endswith('-4"')
    assert head["Metadata"]["sha256"] == sha256_bytes(data)


def test_more_keys_than_a_page_holds_are_listed(store: Store, prefix: str) -> None:
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    keys = sorted(f"runs/ü {number}" for number in range(2100))
    for key in keys:
        backend.put_object(BUCKET, f"{prefix}/{key}", b"")
    assert store.list("") == keys
    assert store.list("runs/ü 20") == [key for key in keys if key.startswith("runs/ü 20")]


@pytest.mark.parametrize("method", ["record", "get", "fetch", "sha256"])
def test_bytes_replaced_behind_the_stores_back_are_found(store: Store, prefix: str, raw: Any, method: str) -> None:
    digest = store.put("a/object", b"data")
    raw.put_object(Bucket=BUCKET, Key=f"{prefix}/a/object", Body=b"dat4", Metadata={"sha256": digest})
    with pytest.raises(DamagedArtifact, match=f"a/object .* has sha256 {sha256_bytes(b'dat4')}, not {digest}"):
        getattr(store, method)("a/object", *([digest] if method in ("get", "fetch") else []))


def test_an_object_that_another_tool_put_is_trusted_only_where_the_caller_knows_its_digest(
    store: Store, prefix: str, raw: Any
) -> None:
    raw.put_object(Bucket=BUCKET, Key=f"{prefix}/a/object", Body=b"data")
    digest = sha256_bytes(b"data")
    assert store.get("a/object", digest) == b"data" == store.fetch("a/object", digest).read_bytes()
    for read in (store.get, store.fetch):
        with pytest.raises(DamagedArtifact, match="a/object"):
            read("a/object", sha256_bytes(b"other"))
    for read in (store.record, store.sha256):
        with pytest.raises(
            DamagedArtifact, match=r"a/object in the store .* has no sha256 in its metadata, so nothing"
        ):
            read("a/object")


def test_a_key_that_is_too_long_with_its_prefix_is_refused(store: Store) -> None:
    room = 1024 - len(store.url.rpartition("/")[-1]) - 1
    store.put("ü" * (room // 2), b"")
    with pytest.raises(StoreError, match=r"is refused: with the prefix of .* has 1025 bytes, and S3 takes 1024; "):
        store.put("x" * (room + 1), b"")


def test_a_prefix_holding_something_else_is_left_alone(raw: Any, prefix: str) -> None:
    raw.put_object(Bucket=BUCKET, Key=f"{prefix}/thesis.tex", Body=b"mine")
    with pytest.raises(StoreError, match=f"store s3://{BUCKET}/{prefix} holds something else; choose an empty prefix"):
        open_store(f"s3://{BUCKET}/{prefix}")
    assert raw.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["KeyCount"] == 1


def test_a_prefix_beside_another_of_the_same_beginning_is_its_own(raw: Any, prefix: str) -> None:
    raw.put_object(Bucket=BUCKET, Key=f"{prefix}-else/thesis.tex", Body=b"mine")
    store = open_store(f"s3://{BUCKET}/{prefix}/")
    store.put("a", b"a")
    assert store.list("") == ["a"]


def test_the_folders_of_a_web_console_are_no_objects(raw: Any, prefix: str) -> None:
    raw.put_object(Bucket=BUCKET, Key=f"{prefix}/", Body=b"")
    store = open_store(f"s3://{BUCKET}/{prefix}")
    raw.put_object(Bucket=BUCKET, Key=f"{prefix}/runs/", Body=b"")
    assert store.list("") == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"format": 7, "what": "ghost artifact store"}', "has format version 7, this version of ghost knows 4; use"),
        (b"{", f"its {MARKER} is damaged; choose another --store, or write "),
        (b'{"format": 1}', f"its {MARKER} is damaged"),
    ],
)
def test_a_marker_of_another_kind_is_refused(raw: Any, prefix: str, content: bytes, complaint: str) -> None:
    raw.put_object(Bucket=BUCKET, Key=f"{prefix}/{MARKER}", Body=content, Metadata={"sha256": sha256_bytes(content)})
    with pytest.raises(StoreError, match=complaint):
        open_store(f"s3://{BUCKET}/{prefix}")


def test_a_new_place_can_be_opened_by_many_at_once(prefix: str) -> None:
    openers = 6
    together = threading.Barrier(openers)

    def open_and_put(number: int) -> None:
        together.wait()
        open_store(f"s3://{BUCKET}/{prefix}").put(f"object/{number}", b"")

    with ThreadPoolExecutor(openers) as pool:
        list(pool.map(open_and_put, range(openers)))
    assert len(open_store(f"s3://{BUCKET}/{prefix}").list("")) == openers


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "s3://b", "s3://bucket/a//b", "s3://bucket/../x"])
def test_an_address_that_is_none_is_refused_with_the_form(url: str) -> None:
    with pytest.raises(StoreError, match="give s3://bucket/prefix"):
        open_store(url)


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(StoreError, match="without credentials or host") as refusal:
        open_store("s3://AKIA123:hush@bucket/prefix")
    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize(("name", "value"), [("AWS_ENDPOINT_URL", "user:hush@host"), ("AWS_PROFILE", "nobody")])
def test_settings_that_cannot_be_used_are_told_without_their_values(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=f"cannot set up S3 .*{name}") as refusal:
        make_client(S3Options())
    assert value not in str(refusal.value)


def test_missing_credentials_are_told(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match=f"in bucket {BUCKET}: there are no complete credentials .* set AWS_ACC"):
        open_store(f"s3://{BUCKET}/{prefix}")


def test_a_missing_bucket_is_told_on_opening(raw: Any) -> None:
    with pytest.raises(StoreError, match="in bucket not-there: there is no such bucket; create it"):
        open_store("s3://not-there/prefix")
