"""What every store must do. A new kind of store is one more entry of BACKENDS and passes all of this."""

import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from artifacts.digest import sha256_bytes
from artifacts.errors import AlreadyThere, DamagedArtifact, MissingArtifact, StoreError
from artifacts.files import TEMPORARY
from artifacts.marker import MARKER
from artifacts.store import Store, open_store
from tests.s3 import s3_in_this_process

BUCKET = "store-tests"
ROUNDS = {"local": 300, "s3": 25}
"""Of a race between writers; one over HTTP takes ten times as long."""


def local_place(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("tmp_path") / "store")


def s3_place(request: pytest.FixtureRequest) -> str:
    request.getfixturevalue("s3")
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/of a test"


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], str]] = {"local": local_place, "s3": s3_place}

ODD_KEYS = [
    "plain",
    "ünïcode/日本語/😀.json",
    "e\u0301 decomposed",
    "spaces and\ttabs/ leading and trailing ",
    "quotes'\"`$(x)",
    "*?[a-z]{b}",
    "~/home",
    "%2e%2e/%2F",
    "-rf",
    ".hidden/..two dots../...",
    "runs/abc.json/tail",
    "n" * 200,
    "/".join(["deep"] * 30),
]
REFUSED_KEYS = [
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    ".",
    "./a",
    "a/./b",
    "a//b",
    "a\\b",
    "a\0b",
    "\ud800",
]
METHODS = ["put", "put_file", "record", "get", "fetch", "exists", "list", "delete", "sha256", "size", "locate"]
CONTENTS = {"empty": b"", "byte": b"\0", "text": "grüße\n".encode(), "megabytes": bytes(range(256)) * (5 << 12)}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_in_this_process(BUCKET, tmp_path_factory.mktemp("cache")) as endpoint:
        yield endpoint


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def store(request: pytest.FixtureRequest, backend: str) -> Store:
    return open_store(BACKENDS[backend](request))


@pytest.fixture
def impatient_threads() -> Iterator[None]:
    """Threads that take turns at almost every step, so that a gap between a look and a leap shows."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def flip_a_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


@pytest.mark.parametrize("data", CONTENTS.values(), ids=CONTENTS)
def test_an_object_comes_back_as_it_was_put(store: Store, data: bytes) -> None:
    digest = store.put("runs/a/object", data)
    assert digest == sha256_bytes(data) == store.sha256("runs/a/object")
    assert store.record("runs/a/object") == data == store.get("runs/a/object", digest)
    assert store.fetch("runs/a/object", digest).read_bytes() == data
    assert store.size("runs/a/object") == len(data)


@pytest.mark.parametrize("data", CONTENTS.values(), ids=CONTENTS)
def test_a_file_is_stored_with_its_content(store: Store, tmp_path: Path, data: bytes) -> None:
    source = tmp_path / "source"
    source.write_bytes(data)
    assert store.put_file("a/copy", source) == sha256_bytes(data)
    source.write_bytes(b"changed afterwards")
    assert store.record("a/copy") == data


def test_a_missing_source_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        store.put_file("a/copy", tmp_path / "nowhere")
    assert not store.exists("a/copy")


def test_a_second_put_replaces_the_object(store: Store) -> None:
    store.put("a", b"a longer first object")
    store.put("a", b"second")
    assert store.record("a") == b"second"
    assert store.size("a") == 6


def test_what_was_put_is_there_for_another_opening_of_the_store(store: Store) -> None:
    digest = store.put("runs/a/object", b"kept")
    again = open_store(store.url)
    assert again.url == store.url
    assert again.get("runs/a/object", digest) == b"kept"


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys_name_objects_like_any_other(store: Store, key: str) -> None:
    store.put(key, b"odd")
    assert store.record(key) == b"odd"
    assert store.exists(key)
    assert store.list("") == [key]
    store.delete(key)
    assert store.list("") == []


def test_keys_that_differ_a_little_are_different_objects(store: Store) -> None:
    keys = ["e\u0301", "\u00e9", "a ", "a", "a.", "a%20"]
    for key in keys:
        store.put(key, key.encode())
    assert {key: store.record(key).decode() for key in keys} == {key: key for key in keys}


@pytest.mark.parametrize("method", METHODS)
def test_keys_that_escape_are_refused(store: Store, tmp_path: Path, method: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"data")
    further = {"put": [b"data"], "put_file": [source], "get": ["0" * 64], "fetch": ["0" * 64]}.get(method, [])
    for key in REFUSED_KEYS:
        with pytest.raises(StoreError, match="is refused"):
            getattr(store, method)(key, *further)
    assert store.list("") == []


def test_names_that_the_store_itself_uses_are_refused(store: Store) -> None:
    for key in (MARKER, f"runs/{TEMPORARY}x"):
        with pytest.raises(StoreError, match="the store uses that name itself"):
            store.put(key, b"")


@pytest.mark.parametrize("key", ["", "a/"])
def test_keys_that_only_make_sense_as_prefixes_are_refused(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="is refused"):
        store.put(key, b"data")


@pytest.mark.parametrize("method", ["record", "get", "fetch", "sha256", "size"])
def test_a_missing_object_is_named_with_the_remedy(store: Store, method: str) -> None:
    store.put("a/there", b"")
    for key in ("absent", "a", "a/there/below"):
        assert not store.exists(key)
        with pytest.raises(MissingArtifact, match=rf"{key} is not in the store .*; run the same command again"):
            getattr(store, method)(key, *(["0" * 64] if method in ("get", "fetch") else []))


@pytest.mark.parametrize("method", ["get", "fetch"])
def test_a_flipped_bit_is_found_on_reading(store: Store, method: str) -> None:
    digest = store.put("a/object", CONTENTS["megabytes"])
    store.put("a/object", flip_a_bit(CONTENTS["megabytes"]))
    with pytest.raises(DamagedArtifact, match=rf"a/object .* not {digest}; run"):
        getattr(store, method)("a/object", digest)
    assert store.sha256("a/object") != digest


def test_list_gives_the_keys_with_a_prefix_in_order(store: Store) -> None:
    for key in ("runs/b/x", "runs/a/y/z", "runs/a/x", "runs/ab/x", "top", "runs/a.json"):
        store.put(key, b"")
    assert store.list("runs/a/") == ["runs/a/x", "runs/a/y/z"]
    assert store.list("runs/a") == ["runs/a.json", "runs/a/x", "runs/a/y/z", "runs/ab/x"]
    assert store.list("runs/a/x") == ["runs/a/x"]
    assert store.list("") == ["runs/a.json", "runs/a/x", "runs/a/y/z", "runs/ab/x", "runs/b/x", "top"]
    assert store.list("nothing/here/") == [] == store.list("top/")


def test_delete_removes_one_object_and_may_be_repeated(store: Store) -> None:
    store.put("a/x", b"x")
    store.put("a/y", b"y")
    for key in ("a/x", "a/x", "never", "a", "a/y/below"):
        store.delete(key)
    assert store.list("") == ["a/y"]


def test_a_conditional_put_takes_only_a_free_key(store: Store) -> None:
    assert store.put("a/x", b"first", if_absent=True) == sha256_bytes(b"first")
    with pytest.raises(AlreadyThere, match="a/x is already in the store"):
        store.put("a/x", b"second", if_absent=True)
    assert store.record("a/x") == b"first"
    store.delete("a/x")
    store.put("a/x", b"third", if_absent=True)
    assert store.record("a/x") == b"third"


def test_of_concurrent_conditional_puts_exactly_one_wins(store: Store, backend: str, impatient_threads: None) -> None:
    writers, rounds = 8, ROUNDS[backend]
    together = threading.Barrier(writers)

    def write(key: str, writer: int) -> int | None:
        together.wait()
        try:
            store.put(key, f"writer {writer}".encode() * 1000, if_absent=True)
        except AlreadyThere:
            return None
        return writer

    with ThreadPoolExecutor(writers) as pool:
        for key in (f"race/{number}" for number in range(rounds)):
            results = list(pool.map(write, [key] * writers, range(writers)))
            (winner,) = (result for result in results if result is not None)
            assert store.record(key) == f"writer {winner}".encode() * 1000
    assert len(store.list("")) == rounds


def test_a_reader_sees_whole_objects_only(store: Store) -> None:
    versions = [bytes([number]) * size for number, size in enumerate((3 << 20, 1 << 20))]
    digests = [sha256_bytes(version) for version in versions]
    store.put("a/object", versions[0])
    stop, seen, listings = threading.Event(), [], []

    def read() -> None:
        while not stop.is_set():
            seen.append(sha256_bytes(store.record("a/object")))
            listings.append(store.list(""))

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for number in range(20):
                store.put("a/object", versions[number % 2])
        finally:
            stop.set()
    for reader in readers:
        reader.result()
    assert set(seen) <= set(digests)
    assert len(seen) > 2
    assert all(keys == ["a/object"] for keys in listings)


def test_a_reader_never_sees_a_mixture_of_concurrent_writers(store: Store) -> None:
    versions = [bytes([number]) * (300_000 + number) for number in range(4)]
    digests = {sha256_bytes(version) for version in versions}
    store.put("a/object", versions[0])
    with ThreadPoolExecutor(len(versions)) as pool:
        writers = [pool.submit(lambda data: [store.put("a/object", data) for _ in range(8)], data) for data in versions]
        seen = [sha256_bytes(store.record("a/object"))]
        while not all(writer.done() for writer in writers):
            seen += [sha256_bytes(store.record("a/object")), sha256_bytes(fetched_whole(store, digests))]
    for writer in writers:
        writer.result()
    assert set(seen) <= digests
    assert store.sha256("a/object") in digests
    assert len(seen) > 2


def fetched_whole(store: Store, digests: set[str]) -> bytes:
    """What one of the writers put; another's is there as soon as not."""
    while True:
        for digest in digests:
            with suppress(DamagedArtifact):
                return store.fetch("a/object", digest).read_bytes()


def test_siblings_are_fetched_into_one_folder(store: Store) -> None:
    names = ("config.json", "model.safetensors")
    digests = {f"a/checkpoint/{name}": store.put(f"a/checkpoint/{name}", name.encode()) for name in names}
    folders = {store.fetch(key, digest).parent for key, digest in digests.items()}
    assert len(folders) == 1
    assert {path.name: path.read_text() for path in folders.pop().iterdir()} == {
        name: name for name in ("config.json", "model.safetensors")
    }
