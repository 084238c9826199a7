"""What a publication writes: the files of the run's manifest and no others, on file systems of every kind."""

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from artifacts.errors import DamagedArtifact, StoreError
from artifacts.files import TEMPORARY
from artifacts.publish import MANIFEST, published
from artifacts.store import Store
from tasks.run.out import check_out
from tests.finished_run import FILES, KEYS, RUN, empty, finish, new, store_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Store:
    return store_in(folder)


def folders_answer(number: int) -> Callable[[int], None]:
    """In place of os.fsync."""
    fsync = os.fsync

    def answer(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    return answer


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
@pytest.mark.parametrize("kind", [new, empty])
def test_a_file_system_that_syncs_no_folders_serves(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch, number: int, kind: Callable[[Path], Path]
) -> None:
    monkeypatch.setattr(os, "fsync", folders_answer(number))
    store.put("runs/again", b"")
    out = str(kind(folder))
    check_out(out, RUN)
    finish(store, out)
    assert published(out)


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.EIO, "cannot be written to"), (errno.ENOSPC, "there is no space left at")]
)
def test_what_else_a_sync_answers_is_an_error(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    monkeypatch.setattr(os, "fsync", folders_answer(number))
    with pytest.raises(StoreError, match=os.strerror(number)):
        store.put("runs/again", b"")
    for act in (lambda: check_out(str(folder / "out"), RUN), lambda: finish(store, str(folder / "out"))):
        with pytest.raises(StoreError, match=rf"out: .*{reason}.*{os.strerror(number)}.* --out"):
            act()


def test_what_is_published_is_what_the_manifest_lists(folder: Path, store: Store) -> None:
    """Not what else lies in the run's folder: a killed writer's temporary, another tool's file."""
    strays = [f"{TEMPORARY}0123", f"sub/{TEMPORARY}4567", "stray.bin"]
    for name in strays:
        (folder / "store" / KEYS.checkpoint / name).write_bytes(b"half a tensor")
    out = folder / "out"
    finish(store, str(out))
    manifest = published(str(out)) or {}
    assert manifest["files"].keys() == FILES.keys()
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {*FILES, MANIFEST}


def test_old_temporaries_of_killed_publications_are_swept(folder: Path, store: Store) -> None:
    out = empty(folder)
    fresh, old = out / f"{TEMPORARY}fresh", out / f"{TEMPORARY}old"
    for path in (fresh, old):
        path.touch()
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    finish(store, str(out))
    assert fresh.exists() and not old.exists()


@pytest.mark.parametrize("kind", [new, empty])
def test_a_file_that_is_exchanged_is_not_published(folder: Path, store: Store, kind: Callable[[Path], Path]) -> None:
    store.put(f"{KEYS.checkpoint}/config.json", b"[]")
    out = kind(folder)
    with pytest.raises(
        DamagedArtifact, match=r"checkpoint/config\.json in the store .* has sha256 .*; run the same comm"
    ):
        finish(store, str(out))
    assert published(str(out)) is None
