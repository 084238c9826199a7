"""Downloads from S3 kept as files: each the bytes that are in the store now, and never the ones that were there."""

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifacts.errors import DamagedArtifact, MissingArtifact, StoreError
from artifacts.s3.downloads import PARTIAL_SECONDS
from artifacts.store import Store, open_store
from tests.s3 import s3_in_this_process

BUCKET = "cache-tests"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_in_this_process(BUCKET, tmp_path_factory.mktemp("cache")) as endpoint:
        yield endpoint


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GHOST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(s3: str, cache: Path) -> Store:
    return open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")


def cached(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_a_fetched_file_is_downloaded_once_and_again_when_either_side_changes(store: Store, cache: Path) -> None:
    first = store.put("a/object", b"first")
    path = store.fetch("a/object", first)
    inode = path.stat().st_ino
    assert cache in path.parents
    assert store.fetch("a/object", first).stat().st_ino == inode
    path.write_bytes(b"f1rst")
    assert store.fetch("a/object", first).read_bytes() == b"first"
    assert store.fetch("a/object", store.put("a/object", b"second")).read_bytes() == b"second"
    assert cached(cache) == [path]


def test_what_is_cached_hides_neither_absence_nor_damage(store: Store) -> None:
    digest = store.put("a/object", b"data")
    store.fetch("a/object", digest)
    store.put("a/object", b"other")
    with pytest.raises(DamagedArtifact, match=f"not {digest}"):
        store.fetch("a/object", digest)
    store.delete("a/object")
    with pytest.raises(MissingArtifact, match="is not in the store"):
        store.fetch("a/object", digest)


def test_stores_of_one_layout_do_not_share_cached_files(store: Store) -> None:
    other = open_store(f"{store.url}-other")
    digests = [each.put("a/object", bytes([number])) for number, each in enumerate((store, other))]
    assert store.fetch("a/object", digests[0]) != other.fetch("a/object", digests[1])


def test_what_a_killed_download_left_is_swept_when_it_is_old(store: Store, cache: Path) -> None:
    fresh, old = cache / "partial" / "fresh", cache / "partial" / "old"
    fresh.parent.mkdir(parents=True)
    for path in (fresh, old):
        path.touch()
    long_ago = time.time() - 2 * PARTIAL_SECONDS
    os.utime(old, (long_ago, long_ago))
    digest = store.put("a/object", b"data")
    assert set(cached(cache)) == {fresh, old}
    path = store.fetch("a/object", digest)
    assert set(cached(cache)) == {fresh, path}


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GHOST_CACHE", str(tmp_path / "file"))
    store = open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    digest = store.put("a/object", b"data")
    with pytest.raises(StoreError, match=rf"cannot keep a/object in {tmp_path}/file.*; make room there, or set GHOST_"):
        store.fetch("a/object", digest)
