"""Folders that are not ghost's own: one behaviour for local ones and for S3, and what S3's copies are checked for."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from artifacts.digest import record_bytes, sha256_bytes
from artifacts.errors import DamagedArtifact, MissingArtifact, StoreError
from artifacts.folders import MANIFEST, Folder, open_folder
from artifacts.s3.folder import S3Folder
from tests.s3 import make_bucket, raw_client, s3_endpoint, s3_environment

FILES = {"a.txt": b"alpha", "b/c.bin": bytes(range(256)) * 9000, "empty": b"", "mit Ümlaut & space": b"x"}
Put = Any


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_endpoint() as url, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(url).items():
            patch.setenv(name, value)
        make_bucket(url, "models")
        yield url


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GHOST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def put(endpoint: str, request: pytest.FixtureRequest) -> Put:
    """Put objects below s3://models/<test>, and return that address."""
    client, prefix = raw_client(endpoint), sha256_bytes(request.node.name.encode())[:16]

    def upload(files: dict[str, bytes], **options: Any) -> str:
        for name, data in files.items():
            client.put_object(Bucket="models", Key=f"{prefix}/{name}", Body=data, **options)
        return f"s3://models/{prefix}"

    return upload


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, put: Put, cache: Path) -> Folder:
    if request.param == "s3":
        return open_folder(put(FILES) + "/")
    for name, data in FILES.items():
        path = tmp_path / "here" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return open_folder(str(tmp_path / "here"))


def test_a_folder_lists_all_its_files_and_gives_their_bytes(folder: Folder) -> None:
    entries = folder.entries()
    assert [(entry.name, entry.size) for entry in entries] == sorted((n, len(data)) for n, data in FILES.items())
    assert all(entry.tag for entry in entries) and entries == folder.entries()
    assert {entry.name: folder.read(entry.name) for entry in entries} == FILES
    copy = folder.fetch(FILES)
    assert {name: (copy / name).read_bytes() for name in FILES} == FILES
    assert folder.url.endswith(folder.name) and folder.name


@pytest.mark.parametrize("start", [0, 3, 2**20 + 1, 9000 * 256 - 1, 9000 * 256, 10**9])
@pytest.mark.parametrize("length", [0, 1, 2**20 + 7, None])
def test_part_of_a_file(folder: Folder, start: int, length: int | None) -> None:
    stop = None if length is None else start + length
    assert folder.read("b/c.bin", start, length) == FILES["b/c.bin"][start:stop]


def test_what_is_not_there_is_named(folder: Folder) -> None:
    for name in ("a.tx", "a.txt.bak", "b", "b/d"):
        with pytest.raises(MissingArtifact, match=f"{name} is not in "):
            folder.read(name)
        with pytest.raises(MissingArtifact, match=f"{name} is not in "):
            folder.fetch(["a.txt", name])


@pytest.mark.parametrize("name", ["../a.txt", "b/../../a.txt", "/etc/passwd", "b\\c.bin", "", "b//c.bin", "./a.txt"])
def test_names_that_lead_elsewhere_are_refused(folder: Folder, name: str) -> None:
    for call in (folder.read, lambda name: folder.fetch([name])):
        with pytest.raises(StoreError, match="is refused"):
            call(name)


def test_links_out_of_a_local_folder_are_no_files_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/own").write_text("own")
    (tmp_path / "model/alias").symlink_to("own")
    (tmp_path / "model/out").symlink_to("../secret")
    (tmp_path / "model/up").symlink_to("..")
    folder = open_folder(str(tmp_path / "model"))
    assert [entry.name for entry in folder.entries()] == ["alias", "own"]
    for name in ("out", "up/secret"):
        with pytest.raises(MissingArtifact):
            folder.read(name)


def test_a_folder_that_is_not_there(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(MissingArtifact, match=f"there is no folder {tmp_path}/none"):
        open_folder(str(tmp_path / "none")).entries()
    assert open_folder("s3://models/none").entries() == []
    with pytest.raises(StoreError, match="bucket absent: there is no such bucket"):
        open_folder("s3://absent/none").entries()
    with pytest.raises(StoreError, match="bucket absent: there is no such bucket"):
        open_folder("s3://absent").fetch(["a"])


def states(copy: Path) -> dict[str, tuple[int, int]]:
    """Which file it is, and when it was written: both change with a download."""
    found = {path.name: path.stat() for path in copy.iterdir()}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def test_a_second_fetch_downloads_nothing_and_mends_what_was_damaged(put: Put, cache: Path) -> None:
    url = put({"a": b"first" * 1000, "b": b"second"})
    copy = open_folder(url).fetch(["a", "b"])
    assert copy.is_relative_to(cache) and {path.name for path in copy.iterdir()} == {"a", "b"}
    before = states(copy)
    assert open_folder(url).fetch(["b", "a"]) == copy and states(copy) == before
    (copy / "a").write_bytes(b"f1rst" * 1000)
    assert (open_folder(url).fetch(["a", "b"]) / "a").read_bytes() == b"first" * 1000
    assert states(copy)["b"] == before["b"]


def test_another_content_is_another_copy(put: Put, cache: Path) -> None:
    old = open_folder(put({"a": b"old"})).fetch(["a"])
    new = open_folder(put({"a": b"new"})).fetch(["a"])
    assert ((old / "a").read_bytes(), (new / "a").read_bytes()) == (b"old", b"new")


def test_a_fetch_that_stopped_continues_with_the_files_that_are_missing(put: Put, cache: Path) -> None:
    url = put({"a": b"first"})
    put({"b": b"second"}, Metadata={"sha256": sha256_bytes(b"other")})
    with pytest.raises(DamagedArtifact, match=f"{url}/b did not arrive as it was stored .*; try again"):
        open_folder(url).fetch(["a", "b"])
    copy = next(path for path in (cache / "checkpoints").iterdir() if path.is_dir())
    stopped = states(copy)
    assert stopped.keys() == {"a"}
    put({"b": b"second"}, Metadata={"sha256": sha256_bytes(b"second")})
    assert open_folder(url).fetch(["a", "b"]) == copy
    assert states(copy)["a"] == stopped["a"] and (copy / "b").read_bytes() == b"second"


def test_a_killed_fetch_leaves_no_lock_and_continues(put: Put, cache: Path) -> None:
    files = {"a": b"first", "b": bytes(64 << 20)}
    url = put(files)
    fetch = f"from artifacts.folders import open_folder; open_folder({url!r}).fetch(['a', 'b'])"
    process = subprocess.Popen([sys.executable, "-c", fetch])
    while process.poll() is None and not list(cache.glob("checkpoints/*/a")):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    copy = next(cache.glob("checkpoints/*/a")).parent
    stopped = states(copy)
    assert stopped.keys() == {"a"}
    assert open_folder(url).fetch(files) == copy
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == files
    assert not list(cache.glob("checkpoints/*.partial"))


def test_an_upload_that_changes_while_it_is_read_is_refused(put: Put, cache: Path, tmp_path: Path) -> None:
    url = put({"a": b"shard one", "b": b"shard two"})
    folder = S3Folder(url)

    def upload_goes_on(**_: Any) -> None:
        put({"b": b"shard two, longer"})

    folder._client.meta.events.register("before-send.s3.GetObject", upload_goes_on)
    with pytest.raises(StoreError, match=f"{url}/b changed while it was read; try again when its upload has ended"):
        folder.fetch(["a", "b"])
    copy = S3Folder(url).fetch(["a", "b"])
    assert (copy / "b").read_bytes() == b"shard two, longer"


@pytest.mark.parametrize("by_ghost", [True, False])
def test_an_etag_that_is_no_md5_is_a_tag_and_a_sha256_is_believed(put: Put, cache: Path, by_ghost: bool) -> None:
    """Other services' etags look like an MD5 and are none; what rots in the storage can't be told from that, except in
    what ghost put there."""
    from moto.s3.models import s3_backends

    metadata = {"Metadata": {"sha256": sha256_bytes(b"as it was uploaded")}} if by_ghost else {}
    url = put({"a": b"as it was uploaded"}, **metadata)
    backends: Any = s3_backends
    kept = next(b["global"].buckets["models"] for b in backends.values() if "models" in b["global"].buckets)
    rotten = kept.keys[f"{url.rpartition('/')[-1]}/a"]
    assert rotten.etag  # moto computes it once
    rotten._value_buffer.seek(0)
    rotten._value_buffer.write(b"4s it was uploaded")
    if by_ghost:
        with pytest.raises(DamagedArtifact, match=r"did not arrive as it was stored \(18 of 18 bytes\)"):
            open_folder(url).fetch(["a"])
        with pytest.raises(DamagedArtifact, match=r"did not arrive as it was stored \(18 bytes came\)"):
            open_folder(url).read("a")
    else:
        assert (open_folder(url).fetch(["a"]) / "a").read_bytes() == b"4s it was uploaded" == open_folder(url).read("a")


def test_the_manifest_of_a_published_checkpoint_is_held_against_it(put: Put, cache: Path) -> None:
    url = put({"a": b"good"})
    listed = {"a": {"size": 4, "sha256": sha256_bytes(b"evil")}}
    put({MANIFEST: record_bytes({"files": listed})})
    with pytest.raises(DamagedArtifact, match=f"{url}/a is not what its {MANIFEST} says"):
        open_folder(url).fetch(["a"])
    put({MANIFEST: json.dumps({"files": listed}).encode()})
    with pytest.raises(DamagedArtifact, match=f"{MANIFEST} is damaged"):
        open_folder(url).fetch(["a"])
    put({MANIFEST: record_bytes({"files": {"a": {"size": 4, "sha256": sha256_bytes(b"good")}}})})
    assert (open_folder(url).fetch(["a"]) / "a").read_bytes() == b"good"


def test_several_at_once_share_one_download(put: Put, cache: Path) -> None:
    files = {name: name.encode() * 500_000 for name in "abcd"}
    url = put(files)
    with ThreadPoolExecutor(6) as pool:
        copies = list(pool.map(lambda _: open_folder(url).fetch(files), range(6)))
    assert len(set(copies)) == 1 and {path.name: path.read_bytes() for path in copies[0].iterdir()} == files


def test_objects_with_hostile_keys_are_never_written_outside(put: Put, cache: Path, tmp_path: Path) -> None:
    url = put({"config.json": b"{}", "../escaped": b"no", "sub/../../escaped": b"no", "folder/": b""})
    folder = open_folder(url)
    for entry in folder.entries():
        if entry.name != "config.json":
            with pytest.raises(StoreError, match="is refused"):
                folder.fetch([entry.name])
    folder.fetch(["config.json"])
    assert not list(tmp_path.rglob("escaped"))
