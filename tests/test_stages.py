"""Records of export and evaluation: trusted where everything is as recorded, and only there."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from artifacts.errors import DamagedArtifact, StoreError
from artifacts.keys import RunKeys
from artifacts.schemas import FORMAT_VERSION
from artifacts.stages import read_stage, write_stage
from artifacts.store import LocalStore
from tests.by_hand import ByHand, small_settings, through_layers, through_report
from tests.chaos import contents

KEYS = RunKeys("0123456789abcdef")
FILES = {"checkpoint/config.json": b"{}\n", "checkpoint/model.safetensors": b"weights"}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def write(store: LocalStore, chain: str = "c" * 64) -> dict[str, str]:
    digests = {name: store.put(f"{KEYS.root}/{name}", data) for name, data in FILES.items()}
    write_stage(store, KEYS, "export", chain, digests)
    return digests


def flip(store: Path, key: str, where: int | None = None) -> None:
    """One bit of the object, in the middle by default."""
    data = bytearray((store / key).read_bytes())
    data[len(data) // 2 if where is None else where] ^= 1
    (store / key).write_bytes(bytes(data))


def test_a_record_reads_as_written_and_has_the_same_bytes_for_the_same_stage(store: LocalStore) -> None:
    digests = write(store)
    before = store.record(KEYS.stage("export"))
    record = read_stage(store, KEYS, "export", "c" * 64)
    assert record is not None and (record.stage, record.chain, record.files) == ("export", "c" * 64, digests)
    assert record.digest == store.sha256(f"{KEYS.root}/stages/export.json")
    assert write_stage(store, KEYS, "export", "c" * 64, dict(reversed(digests.items()))) == record
    assert store.record(KEYS.stage("export")) == before


def test_a_record_of_another_chain_stage_or_format_is_none(store: LocalStore) -> None:
    write(store)
    key = KEYS.stage("export")
    assert read_stage(store, KEYS, "export", "d" * 64) is None
    store.put(KEYS.stage("evaluation"), store.record(key))
    assert read_stage(store, KEYS, "evaluation", "c" * 64) is None
    store.put(key, store.record(key).replace(b'"format":%d' % FORMAT_VERSION, b'"format":%d' % (FORMAT_VERSION + 1)))
    assert read_stage(store, KEYS, "export", "c" * 64) is None


def test_any_flipped_bit_of_the_record_and_of_its_files_shows(store: LocalStore, tmp_path: Path) -> None:
    write(store)
    key = KEYS.stage("export")
    keys = [(key, position) for position in range(store.size(key))]
    for damaged, position in [*keys, *((f"{KEYS.root}/{name}", None) for name in FILES)]:
        flip(tmp_path / "store", damaged, position)
        assert read_stage(store, KEYS, "export", "c" * 64) is None, (damaged, position)
        flip(tmp_path / "store", damaged, position)
    assert read_stage(store, KEYS, "export", "c" * 64) is not None


def test_an_absent_record_or_file_is_none(store: LocalStore) -> None:
    write(store)
    store.delete(f"{KEYS.root}/checkpoint/config.json")
    assert read_stage(store, KEYS, "export", "c" * 64) is None
    assert read_stage(store, KEYS, "evaluation", "c" * 64) is None


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process can open no file: what the store finds is that it can't read."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_store_that_fails_says_nothing_about_the_record(store: LocalStore) -> None:
    write(store)
    with no_more_files(), pytest.raises(StoreError, match="cannot read"):
        read_stage(store, KEYS, "export", "c" * 64)
    assert read_stage(store, KEYS, "export", "c" * 64) is not None


def test_damage_is_found_and_mended_and_only_what_is_damaged_is_done_again(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    run = through_report(settings)
    assert set(run.states.values()) == {"Completed"}
    assert_records_follow_the_layers(run)
    expected = contents(tmp_path / "store")
    export, evaluation = {"export_checkpoint"}, {"evaluate"}
    redone = {
        "stages/export.json": export, "stages/evaluation.json": evaluation, "checkpoint/model.safetensors": export,
        "checkpoint/config.json": export, "checkpoint/tokenizer.json": export, "evaluation/results.json": evaluation,
        "evaluation/samples.parquet": evaluation,
        "checkpoint/README.md": set(), "checkpoint/ghost.json": set(), "report/index.html": set(),
    }  # fmt: skip
    for name, tasks in redone.items():
        flip(tmp_path / "store", f"{run.keys.root}/{name}")
        states = through_report(settings).states
        assert states == {task: "Completed" if task in tasks | {"report"} else "Cached" for task in states}, name
        assert contents(tmp_path / "store") == expected, name


@pytest.mark.parametrize("kind", ["weights", "selection", "stats"])
def test_a_layers_file_that_is_exchanged_after_it_was_adopted_is_vouched_for_by_nobody(
    tmp_path: Path, kind: str
) -> None:
    """Whole and readable, but another layer's, in the process that found the layer done."""
    run = through_layers(small_settings(tmp_path))
    key, other = (getattr(run.pruning, kind)(layer) for layer in range(2))
    run.store.put(key, run.store.record(other))
    with pytest.raises(DamagedArtifact, match=f"{key} in the store .* has sha256 .*; run the same command again"):
        for stage in (run.export, run.evaluate, run.report, run.finish):
            stage()
    assert not run.store.exists(run.keys.manifest)


def test_under_a_strict_umask_a_run_is_the_same_and_its_owners_alone(tmp_path: Path) -> None:
    through_report(small_settings(tmp_path)).finish()
    before = os.umask(0o077)
    try:
        settings = small_settings(tmp_path, store=str(tmp_path / "own"), out=str(tmp_path / "out"))
        through_report(settings).finish()
    finally:
        os.umask(before)
    assert contents(tmp_path / "own") == contents(tmp_path / "store")
    paths = [path for folder in ("own", "out") for path in (tmp_path / folder).rglob("*")]
    assert paths and all(path.stat().st_mode & 0o077 == 0 for path in paths)


def assert_records_follow_the_layers(run: ByHand) -> None:
    """Export from the last layer, evaluation from the export; and nothing is listed that a later task changes."""
    export, evaluation = (json.loads(run.store.record(run.keys.stage(name))) for name in ("export", "evaluation"))
    assert export["chain"] == run.store.sha256(run.pruning.layer(1))
    assert evaluation["chain"] == run.store.sha256(run.keys.stage("export"))
    stored = {key.removeprefix(f"{run.keys.root}/") for key in run.store.list(f"{run.keys.checkpoint}/")}
    assert set(export["files"]) == stored - {"checkpoint/README.md", "checkpoint/ghost.json"}
    assert set(evaluation["files"]) == {"evaluation/results.json", "evaluation/samples.parquet"}
