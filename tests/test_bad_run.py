"""What shows only once a run is under way: still one line, and nothing as if complete."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from artifacts.digest import record_bytes, sha256_file
from artifacts.marker import MARKER, WHAT
from tests.chaos import served_by
from tests.models import make_model

pytest_plugins = ["tests.refusals"]

Arguments = Callable[..., list[str]]
Execute = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


def start(
    api: str, argv: list[str], file_bytes: int | None = None, closed: bool = False, **env: str
) -> tuple[int, str, str]:
    """`python -m flows.cli ...` as a user has it; no file may grow beyond `file_bytes`; stdin may be `closed`."""
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_LOGGING_LEVEL"}
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (file_bytes, file_bytes)) if file_bytes else None
    close = partial(os.close, 0) if closed else None
    command = [sys.executable, "-m", "flows.cli", *argv]
    environment = kept | {"PREFECT_API_URL": api} | env
    ended = subprocess.run(
        command, env=environment, preexec_fn=limit or close, capture_output=True, text=True, timeout=600
    )
    return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture
def execute(execute: Execute, prefect_api: str) -> Execute:
    """Commands run in this process, or in one of their own where the circumstances are those of a process."""

    def run(argv: list[str], **circumstances: Any) -> tuple[Any, str, str]:
        if circumstances:
            return start(prefect_api, argv, **circumstances)
        with served_by(prefect_api):
            return execute(argv)

    return run


@pytest.fixture(scope="module")
def finished(
    prefect_api: str, arguments: Arguments, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A folder with a run in its store, and what the run printed: without assertions and stdin, past a dead proxy."""
    folder = tmp_path_factory.mktemp("finished")
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    argv = [*arguments(folder), "--json"]
    code, out, err = start(prefect_api, argv, closed=True, PYTHONOPTIMIZE="1", **proxies)
    assert code == 0, err
    return folder, json.loads(out)


def spoil(model: Path, name: str, target: Path) -> Path:
    """A copy of the model with one NaN in that tensor."""
    shutil.copytree(model, target)
    tensors = load_file(target / "model.safetensors")
    tensors[name].view(-1)[7] = float("nan")
    save_file(tensors, target / "model.safetensors")
    return target


@pytest.mark.parametrize(
    "name", ["backbone.embeddings.weight", "backbone.layers.2.mixer.out_proj.weight", "backbone.norm_f.weight"]
)
def test_nan_weights_are_named_before_the_first_layer(
    name: str, originals: Path, tmp_path: Path, refused: Refused
) -> None:
    line = refused(spoil(originals / "model", name, tmp_path / "model"))
    assert f"tensor {name} in model.safetensors has NaN or infinite values" in line
    assert "download or copy the checkpoint again" in line
    assert not list(tmp_path.glob("store/prunings/*/layers/*"))


def test_a_tokenizer_with_more_words_than_the_model_is_refused(tmp_path: Path, refused: Refused) -> None:
    line = refused(make_model(tmp_path / "model", vocab_size=280))
    assert (
        "but the model's vocab_size is 280" in line and "give the tokenizer that belongs to it with --tokenizer" in line
    )


def test_cuda_is_refused_where_there_is_none(refused: Refused) -> None:
    line = refused(device="cuda", circumstances={"CUDA_VISIBLE_DEVICES": ""})
    assert "device cuda asked for, but 0 CUDA devices are here; try --device cpu" in line


@pytest.mark.parametrize(
    ("file_bytes", "thing", "remedy"),
    [(16_000, "store: no space left to write prunings/", "choose another --store"),
     (64_000, "no space left on the disk", "set TMPDIR to a larger disk")],
)  # fmt: skip
def test_a_full_disk_stops_the_run_which_later_continues(
    file_bytes: int, thing: str, remedy: str, arguments: Arguments, execute: Execute, tmp_path: Path, refused: Refused
) -> None:
    line = refused(circumstances={"file_bytes": file_bytes})
    assert thing in line and remedy in line
    done = len(list(tmp_path.glob("store/prunings/*/layers/*/layer.json")))
    code, out, err = execute([*arguments(tmp_path), "--json"])
    assert code == 0, err
    assert json.loads(out)["layers"] == {"computed": 3 - done, "cached": done}


@pytest.mark.parametrize(("version", "looks"), [(3, "; ghost show and ghost compare read it"), (7, "")])
def test_a_store_of_another_format_is_not_continued(
    version: int, looks: str, finished: tuple[Path, dict[str, Any]], tmp_path_factory: Any, refused: Refused
) -> None:
    store = shutil.copytree(finished[0] / "store", tmp_path_factory.mktemp("other") / "store")
    (store / MARKER).write_text(json.dumps({"format": version, "what": WHAT}))
    line = refused(store=store)
    assert f"store {store} has format version {version}" in line
    assert f"{looks}; use the ghost that made it or choose another --store" in line


def test_runs_of_format_3_are_shown(
    finished: tuple[Path, dict[str, Any]], tmp_path_factory: Any, execute: Execute, command: Refused
) -> None:
    """As that version left them: the layers in the run's own folder, and a manifest of names below it."""
    store = shutil.copytree(finished[0] / "store", tmp_path_factory.mktemp("former") / "store")
    (store / MARKER).write_text(json.dumps({"format": 3, "what": WHAT}))
    run, (pruning,) = store / "runs" / finished[1]["run_id"], (store / "prunings").iterdir()
    (pruning / "layers").rename(run / "layers")
    record = json.loads((run / "run.json").read_text())
    record.pop("prune_id")
    (run / "run.json").write_text(json.dumps(record | {"format": 3}))
    names = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    entries = {n: {"size": (run / n).stat().st_size, "sha256": sha256_file(run / n)} for n in names}
    manifest = {"format": 3, "run_id": run.name, "files": entries}
    (run / "manifest.json").write_bytes(record_bytes(manifest))
    code, out, err = execute(["show", run.name, f"--store={store}"])
    assert code == 0 and f"run {run.name}, finished" in out and "16 of 32" in out, err
    assert "is one run; give two or more different ones" in command("compare", run.name, run.name, "--store", store)


def test_a_run_that_is_not_there_is_answered_with_those_that_are(
    finished: tuple[Path, dict[str, Any]], command: Refused
) -> None:
    folder, result = finished
    line = command("show", "abc", "--store", folder / "store")
    assert "run 'abc' matches 0 runs" in line and f"runs there: {result['run_id']}" in line


def test_a_checkpoint_cannot_be_verified_against_another_model(
    finished: tuple[Path, dict[str, Any]], originals: Path, tmp_path: Path, command: Refused
) -> None:
    other, checkpoint = make_model(tmp_path / "other", seed=1), finished[1]["checkpoint"]
    line = command("verify", checkpoint, "--against", other, "--text", originals / "text.txt")
    assert f"{checkpoint} was not made from {other}; give that model with --against" in line


def test_a_prefect_server_that_does_not_answer_is_named(refused: Refused) -> None:
    line = refused(circumstances={"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    assert "the Prefect server does not answer (Failed to reach API at http://127.0.0.1:9/api" in line
    assert "start it, or unset PREFECT_API_URL" in line
