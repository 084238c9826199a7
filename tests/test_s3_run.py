"""Whole runs with model, texts, store and --out on S3: the bytes of a local run, on one machine and across two."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artifacts.digest import sha256_bytes
from artifacts.errors import MissingArtifact
from artifacts.folders import open_folder
from artifacts.keys import RunKeys
from artifacts.publish import MANIFEST, published
from artifacts.schemas import FORMAT_VERSION
from artifacts.store import open_store
from tasks.stored_run import StoredRun
from tests.chaos import Bench, contents, served_by
from tests.s3 import make_bucket, raw_client, s3_endpoint, s3_environment

ENDS = {"checkpoint", "page", "seconds"}
"""What a result says about where and how fast, not about what came out."""
NAMES = {"model": "model", "tokenizer": "model", "calibration": "calibration.txt", "evaluation": "rows.jsonl:words"}
CHANCE = {"layers", "seconds"}
"""What it says of two runs at once that depends on which was faster."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Iterator[Bench]:
    """A model of three layers and its texts, here and below s3://ghost/in."""
    folder = tmp_path_factory.mktemp("bench")
    with (
        served_by(prefect_api),
        s3_endpoint() as endpoint,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in (s3_environment(endpoint) | {"GHOST_CACHE": str(folder / "cache")}).items():
            patch.setenv(name, value)
        bench = Bench(folder, prefect_api, layers=3)
        rows = [{"words": line} for line in (folder / "evaluation.txt").read_text().splitlines()]
        (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        make_bucket(endpoint, "ghost")
        for path in (path for pattern in ("*.*", "model/*") for path in folder.glob(pattern)):
            raw_client(endpoint).upload_file(str(path), "ghost", f"in/{path.relative_to(folder)}")
        yield bench


def run(place: str, store: str, out: str | None = None) -> dict[str, Any]:
    """A run of what lies below `place`, a local folder or an s3:// address."""
    from flows.prune import ghost

    given = {name: f"{place}/{value}" for name, value in NAMES.items()}
    return ghost(**given, samples=8, length=64, window=128, round_to=8, store=store, out=out)


@pytest.fixture(scope="module")
def local_run(bench: Bench) -> tuple[dict[str, bytes], dict[str, Any]]:
    store = bench.folder / "local"
    result = run(str(bench.folder), str(store), out=str(bench.folder / "out"))
    return contents(store), result


@pytest.fixture(scope="module")
def remote_run(bench: Bench) -> dict[str, Any]:
    return run("s3://ghost/in", "s3://ghost/store", out="s3://ghost/out")


def at(url: str) -> Any:
    """`contents` takes any store's address."""
    return url


def test_a_run_with_everything_on_s3_gives_the_bytes_of_a_local_one(local_run, remote_run: dict[str, Any]) -> None:
    expected, result = local_run
    assert contents(at("s3://ghost/store")) == expected
    assert {k: v for k, v in remote_run.items() if k not in ENDS} == {k: v for k, v in result.items() if k not in ENDS}
    assert remote_run["checkpoint"] == "s3://ghost/out"
    assert open_folder("s3://ghost/out").read(MANIFEST) == open_folder(result["checkpoint"]).read(MANIFEST)


def test_the_manifest_says_what_was_published(remote_run: dict[str, Any]) -> None:
    manifest = published("s3://ghost/out") or {}
    named = {name: manifest[name] for name in ("format", "run_id", "model", "recipe")}
    assert named == {"format": FORMAT_VERSION, "run_id": remote_run["run_id"], "model": "model", "recipe": None}
    folder = open_folder("s3://ghost/out")
    files = {entry.name: folder.read(entry.name) for entry in folder.entries() if entry.name != MANIFEST}
    assert manifest["files"] == {name: {"size": len(d), "sha256": sha256_bytes(d)} for name, d in files.items()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "ghost.json", "README.md"} <= files.keys()


def test_a_second_run_takes_everything_from_the_store(bench: Bench, remote_run: dict[str, Any]) -> None:
    before = {entry.name: entry for entry in open_folder("s3://ghost").entries()}
    again = run("s3://ghost/in", "s3://ghost/store", out="s3://ghost/out")
    assert again["layers"] == {"computed": 0, "cached": bench.layers}
    assert {entry.name: entry for entry in open_folder("s3://ghost").entries()} == before


def test_another_machine_resumes_from_the_store(
    bench: Bench, local_run, remote_run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store("s3://ghost/store")
    keys = RunKeys(remote_run["run_id"])
    layer = StoredRun(store, keys).pruning.layer(2)
    for key in (keys.manifest, layer, f"{keys.checkpoint}/model.safetensors"):
        store.delete(key)
    monkeypatch.setenv("GHOST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    resumed = run("s3://ghost/in", "s3://ghost/store")
    assert resumed["layers"] == {"computed": 1, "cached": 2}
    assert resumed["checkpoint"] == f"s3://ghost/store/runs/{resumed['run_id']}/checkpoint"
    assert contents(at("s3://ghost/store")) == local_run[0]
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_two_runs_at_once_end_well_with_one_result(bench: Bench, local_run, kind: str, tmp_path: Path) -> None:
    place = str(tmp_path) if kind == "local" else "s3://ghost/shared"
    store, out = f"{place}/store", f"{place}/out"
    given = [f"--{name}={bench.folder}/{NAMES[name]}" for name in ("tokenizer", "evaluation")]
    process = bench.start(at(store), "--out", out, *given)
    try:
        while process.poll() is None and not contents(at(store)):
            time.sleep(0.05)
        here = run(str(bench.folder), store, out=out)
        printed, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    there = json.loads(printed)
    assert {name: here[name] for name in there if name not in CHANCE} == {
        name: value for name, value in there.items() if name not in CHANCE
    }
    assert contents(at(store)) == local_run[0]
    checkpoint = {name.rpartition("/")[-1]: data for name, data in local_run[0].items() if "/checkpoint/" in name}
    assert {name: open_folder(out).read(name) for name in (published(out) or {})["files"]} == checkpoint


def test_stores_and_checkpoints_on_s3_can_be_looked_at(
    bench: Bench, remote_run: dict[str, Any], tmp_path: Path
) -> None:
    from tasks.evaluate import verify_checkpoint
    from tasks.store.show import layer_rows

    title, rows = layer_rows("s3://ghost/store", remote_run["run_id"][:6])
    assert title.endswith(", finished") and len(rows) == bench.layers
    verified = verify_checkpoint("s3://ghost/out", "s3://ghost/in/model", "s3://ghost/in/rows.jsonl:words", 100)
    assert verified["difference"] < 1e-4
    for store in (str(tmp_path / "none"), "s3://ghost/none"):
        with pytest.raises(MissingArtifact, match=f"there is no store at {store}; give the one of your runs"):
            layer_rows(store, "0")
    assert not (tmp_path / "none").exists() and open_folder("s3://ghost/none").entries() == []
