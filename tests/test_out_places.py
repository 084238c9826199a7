"""--out in every kind of place: what can be filled is filled and stays what it was, what can't is refused before the
work, and the trial leaves nothing behind."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ArtifactError, StoreError
from artifacts.files import TEMPORARY
from artifacts.publish import published
from artifacts.store import Store, open_store
from ghost.errors import GhostError
from ghost.export import PROVENANCE
from tasks.run.out import check_out
from tests.finished_run import FILES, KEYS, RUN, empty, everything, finish, new, store_in
from tests.models import make_model
from tests.s3 import s3_in_this_process

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where other users may look, unlike pytest's own folders."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def store(folder: Path) -> Store:
    return store_in(folder)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """As a user to whom permissions mean something."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


@contextmanager
def as_owner() -> Iterator[None]:
    """Inside, the user is the one who started the tests."""
    user = os.geteuid()
    os.seteuid(os.getuid())
    yield
    os.seteuid(user)


def as_nobody(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)


def empty_file_system(at: Path) -> Path:
    (empty(at) / "lost+found").mkdir()
    return at / "out"


def link_to_empty(at: Path) -> Path:
    (at / "link").symlink_to(empty(at))
    return at / "link"


def dangling_link(at: Path) -> Path:
    (at / "link").symlink_to(at / "not" / "yet")
    return at / "link"


def link_to_half_of_this_run(at: Path) -> Path:
    (empty(at) / PROVENANCE).write_bytes(FILES[PROVENANCE])
    (at / "out" / f"{TEMPORARY}of a killed writer").write_bytes(b"half")
    return link_to(at, at / "out")


def killed_at_once(at: Path) -> Path:
    (empty(at) / f"{TEMPORARY}of a killed writer").write_bytes(b"half")
    return at / "out"


def link_to(at: Path, target: Path) -> Path:
    (at / "link").symlink_to(target)
    return at / "link"


@pytest.mark.parametrize(
    "kind", [new, empty, empty_file_system, link_to_empty, dangling_link, link_to_half_of_this_run, killed_at_once]
)
def test_places_that_serve(folder: Path, store: Store, kind: Callable[[Path], Path]) -> None:
    out = kind(folder)
    before = everything(folder)
    check_out(str(out), RUN)
    assert everything(folder) == before
    assert finish(store, str(out)) == str(out)
    assert before.items() <= everything(folder).items()  # a folder is the one that it was, and a link leads there still
    assert (published(str(out)) or {})["files"].keys() == FILES.keys()
    assert {name: (out / name).read_bytes() for name in FILES} == FILES
    finished = everything(folder)
    check_out(str(out), RUN)
    assert finish(store, str(out)) == str(out) and everything(folder) == finished
    with pytest.raises(GhostError, match=f"out: {out} holds something else already; choose a new folder with --out"):
        check_out(str(out), "f" * 16)


@pytest.mark.parametrize("kind", [empty, link_to_half_of_this_run])
def test_a_mount_point_is_filled_and_never_renamed(
    folder: Path, store: Store, kind: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = kind(folder)
    for name in ("rename", "replace", "rmdir"):
        monkeypatch.setattr(os, name, busy(getattr(os, name), {out, out.resolve()}))
    check_out(str(out), RUN)
    finish(store, str(out))
    assert published(str(out))


def busy(call: Callable[..., None], mounted: set[Path]) -> Callable[..., None]:
    def answer(*paths: Path, **more: Any) -> None:
        if mounted & {Path(path) for path in paths}:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(paths[0]))
        call(*paths, **more)

    return answer


def test_ones_own_folder_in_a_parent_that_is_not(folder: Path, store: Store, unprivileged: None) -> None:
    with as_owner():
        (folder / "root's").mkdir()
        (folder / "root's" / "mine").mkdir()
        as_nobody(folder / "root's" / "mine")
        (folder / "root's").chmod(0o555)
    out = str(folder / "root's" / "mine")
    check_out(out, RUN)
    finish(store, out)
    assert published(out)
    with pytest.raises(
        StoreError, match=rf"out: {folder}/root's/new cannot be written to \(.*; make it writable, or cho"
    ):
        check_out(str(folder / "root's" / "new"), RUN)


def test_a_folder_that_may_only_be_read_is_refused(folder: Path, unprivileged: None) -> None:
    with as_owner():
        empty(folder).chmod(0o555)
    with pytest.raises(StoreError, match=rf"out: {folder}/out cannot be written to \(.*Permission denied"):
        check_out(str(folder / "out"), RUN)


def full(at: Path) -> Path:
    (empty(at) / "thesis.tex").write_text("mine")
    return at / "out"


def file_in_the_way(at: Path) -> Path:
    (at / "file").write_text("mine")
    return at / "file"


def link_loop(at: Path) -> Path:
    (at / "loop").symlink_to("loop")
    return at / "loop"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (full, "holds something else already; choose a new folder"),
        (lambda at: link_to(at, full(at)), "holds something else already; choose a new folder"),
        (lambda at: make_model(at / "model"), "holds something else already; choose a new folder"),
        (file_in_the_way, "holds something else already; choose a new folder"),
        (lambda at: link_to(at, file_in_the_way(at)), "holds something else already; choose a new folder"),
        (link_loop, "holds something else already; choose a new folder"),
        (lambda at: file_in_the_way(at) / "below", "cannot be written to"),
        (lambda at: file_in_the_way(at) / "further" / "below", "cannot be written to"),
        (lambda at: at / ("n" * 300), "cannot be written to .*File name too long"),
        (lambda at: Path("/proc/ghost-out"), "cannot be written to"),
        (lambda at: at / "store", "holds something else already"),
        (lambda at: at / "store" / "out", "lies in the store .*/store; choose a folder outside of it"),
        (lambda at: at / "store" / KEYS.checkpoint, "lies in the store .*/store; choose a folder outside of it"),
        (lambda at: link_to(at, at / "store" / "out"), "lies in the store .*/store; choose a folder outside"),
    ],
)
def test_places_that_are_refused_before_the_work(
    folder: Path, store: Store, kind: Callable[[Path], Path], reason: str
) -> None:
    out = kind(folder)
    before = everything(folder)
    with pytest.raises((ArtifactError, GhostError), match=f"out: {out}.*{reason}") as refusal:
        check_out(str(out), RUN)
    assert "\n" not in str(refusal.value) and everything(folder) == before


def test_a_place_in_a_store_on_s3_is_refused(tmp_path: Path) -> None:
    with s3_in_this_process("out-places", tmp_path):
        open_store("s3://out-places/runs")
        for out in ("s3://out-places/runs/out", "s3://out-places/runs/deep/out"):
            with pytest.raises(StoreError, match=f"out: {out} lies in the store s3://out-places/runs; choose a place"):
                check_out(out, RUN)
        check_out("s3://out-places/runs-out", RUN)


def test_a_home_folder_is_found(folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    check_out("~/out", RUN)
    assert finish(store, "~/out") == str(folder / "out") and published("~/out")
    assert open_store("~/store").list("runs/") == store.list("runs/")
