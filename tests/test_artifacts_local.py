"""The store in a local folder: how it opens, what it refuses, and what full disks and kills leave behind."""

import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artifacts.cache import cache_folder
from artifacts.digest import sha256_bytes
from artifacts.errors import StoreError
from artifacts.files import TEMPORARY
from artifacts.folders import open_folder
from artifacts.marker import MARKER
from artifacts.schemas import FORMAT_VERSION
from artifacts.store import LocalStore, open_store

REPOSITORY = Path(__file__).parent.parent

WRITE_OVER_THE_LIMIT = """
import resource, sys
from artifacts.errors import StoreError
from artifacts.store import open_store
store = open_store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    store.put("runs/object", bytes(2 << 20))
except StoreError as error:
    print(error)
"""
WRITE_FOREVER = """
import sys
from itertools import count
from artifacts.store import open_store
store = open_store(sys.argv[1])
for number in count():
    store.put("runs/object", bytes([number % 256]) * (4 << 20))
    print(number, flush=True)
"""


def python(script: str, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )


def temporaries(folder: Path) -> list[Path]:
    return list(folder.rglob(f"{TEMPORARY}*"))


def test_a_new_folder_is_made_and_marked(tmp_path: Path) -> None:
    store = open_store(tmp_path / "some" / "new folder")
    marker = Path(store.url, MARKER)
    assert json.loads(marker.read_bytes()) == {"format": FORMAT_VERSION, "what": "ghost artifact store"}
    assert store.list("") == []


def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("here")
    monkeypatch.chdir("/")
    store.put("a", b"a")
    assert (tmp_path / "here" / "a").read_bytes() == b"a"


def test_a_line_break_in_a_key_is_no_other_than_any_character(tmp_path: Path) -> None:
    """Not among the keys that all stores are tested with, because moto cannot be asked for one."""
    store = open_store(tmp_path)
    store.put("line\nbreak", b"odd")
    assert store.list("") == ["line\nbreak"]


def test_an_object_is_located_by_its_path(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("runs/a/object", b"here")
    assert Path(store.locate("runs/a/object")).read_bytes() == b"here"


def test_a_folder_holding_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(StoreError, match=f"{tmp_path} holds something else; choose an empty folder"):
        open_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_format_is_refused_with_both_versions(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text(json.dumps({"format": 7, "what": "ghost artifact store", "more": []}))
    with pytest.raises(StoreError, match=rf"format version 7, .* knows {FORMAT_VERSION}; use the ghost that made it"):
        open_store(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"format": 1}', '{"what": "ghost artifact store"}', "\0\xff"])
def test_a_damaged_marker_is_named_with_the_remedy(tmp_path: Path, content: str) -> None:
    marker = tmp_path / MARKER
    marker.write_text(content, encoding="latin-1")
    with pytest.raises(StoreError, match=f"{MARKER} is damaged") as refusal:
        open_store(tmp_path)
    message = str(refusal.value)
    marker.write_text(message[message.index("{") : message.index("}") + 1])
    assert open_store(tmp_path).list("") == []


@pytest.mark.parametrize("url", ["gs://bucket", "S3:/bucket", Path("s3://bucket"), "https://host/x", "file:///x"])
def test_an_url_of_another_scheme_is_not_supported(url: str | Path) -> None:
    with pytest.raises(StoreError, match=r"is not supported .*; give a local folder or s3://bucket/prefix with"):
        open_store(url)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(StoreError, match="give a folder or s3://bucket/prefix with --store"):
        open_store("")


def test_a_file_is_no_store(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(StoreError, match=f"{file} is a file; choose a folder"):
        open_store(file)


def test_the_top_of_a_new_file_system_is_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    store = open_store(tmp_path)
    store.put("runs/a", b"a")
    assert store.list("") == ["runs/a"]


def test_a_home_folder_that_nobody_knows_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("~/runs", "~nobody-of-this-name/runs"):
        if place.startswith("~/"):
            without_home(monkeypatch)
        for opened in (lambda place=place: open_store(place), lambda place=place: open_folder(place)):
            with pytest.raises(StoreError, match=f"{place}: no home folder is known for it .*; give the path in full"):
                opened()


def without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user that a container was told to be by a number alone."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])


def test_downloads_are_kept_without_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_home(monkeypatch)
    for name in ("GHOST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = cache_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700 and cache_folder() == folder
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(
        StoreError, match=f"cannot keep downloads in {folder}, which is another user's; set GHOST_CACHE"
    ):
        cache_folder()
    folder.unlink()
    folder.write_text("")
    with pytest.raises(StoreError, match=f"cannot keep downloads in {folder} .*; set GHOST_CACHE to a folder"):
        cache_folder()
    monkeypatch.setenv("GHOST_CACHE", str(tmp_path / "chosen"))
    assert cache_folder() == tmp_path / "chosen"


@pytest.mark.parametrize("place", ["below a file", "in /proc", "of too long a name"])
def test_an_unwritable_place_is_refused(tmp_path: Path, place: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    too_long = tmp_path / ("n" * 300)
    folder = {"below a file": file / "store", "in /proc": Path("/proc/ghost-store")}.get(place, too_long)
    with pytest.raises(StoreError, match=rf"store {folder}: cannot open it .* choose another --store") as refusal:
        open_store(folder)
    assert "\n" not in str(refusal.value)


def test_a_place_that_became_unwritable_is_named(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    (tmp_path / "runs").write_text("a file where a folder has to be")
    with pytest.raises(StoreError, match=r"cannot write runs/a/run\.json .* choose another --store"):
        store.put("runs/a/run.json", b"{}")


def test_a_full_disk_is_told_and_leaves_the_old_object(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    digest = store.put("runs/object", b"old")
    output, _ = python(WRITE_OVER_THE_LIMIT, tmp_path).communicate(timeout=60)
    assert f"store {tmp_path}: no space left to write runs/object" in output
    assert "free some space or choose another --store" in output
    assert store.get("runs/object", digest) == b"old"
    assert temporaries(tmp_path) == []


def test_a_killed_writer_leaves_the_last_whole_object(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for delay in (0.0, 0.003, 0.007, 0.013, 0.02):
        writer = python(WRITE_FOREVER, tmp_path)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        data = store.record("runs/object")
        assert (len(data), len(set(data))) == (4 << 20, 1)
        assert store.list("") == ["runs/object"]


def test_old_temporary_files_are_swept_on_opening(tmp_path: Path) -> None:
    open_store(tmp_path).put("runs/a/object", b"kept")
    fresh, old = (tmp_path / "runs" / "a" / f"{TEMPORARY}{name}" for name in ("fresh", "old"))
    fresh.touch()
    old.touch()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    os.utime(tmp_path / "runs" / "a" / "object", (two_days_ago, two_days_ago))
    assert open_store(tmp_path).list("") == ["runs/a/object"]
    assert temporaries(tmp_path) == [fresh]


def test_a_killed_first_opening_does_not_block_the_next(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY}of the marker").touch()
    assert open_store(tmp_path).list("") == []
    assert (tmp_path / MARKER).is_file()


def test_a_new_folder_can_be_opened_by_many_at_once(tmp_path: Path) -> None:
    openers = 8
    together = threading.Barrier(openers)

    def open_and_put(folder: Path, number: int) -> str:
        together.wait()
        return open_store(folder).put(f"object/{number}", bytes([number]))

    with ThreadPoolExecutor(openers) as pool:
        for folder in (tmp_path / str(number) for number in range(10)):
            digests = list(pool.map(open_and_put, [folder] * openers, range(openers)))
            assert digests == [sha256_bytes(bytes([number])) for number in range(openers)]
            assert len(LocalStore(folder).list("")) == openers


def test_folders_behind_links_are_listed_like_any_other(tmp_path: Path) -> None:
    elsewhere = tmp_path / "bigger disk"
    elsewhere.mkdir()
    store = open_store(tmp_path / "store")
    (tmp_path / "store" / "runs").symlink_to(elsewhere)
    store.put("runs/a/object", b"")
    assert store.list("") == ["runs/a/object"] == store.list("runs/")
