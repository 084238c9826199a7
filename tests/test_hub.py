"""Discovery on the hub, against a stub of the hub's own routes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ghost.checkpoint.source import open_checkpoint
from ghost.errors import SettingsError
from tasks.watch.discover import Found, discover
from tests.hub_stub import COMMIT, hub_stub
from tests.models import make_model, make_native

OPEN = """
import sys
from ghost.calibration.tokens import load_tokenizer
from ghost.checkpoint.source import open_checkpoint

checkpoint = open_checkpoint(sys.argv[1])
print(checkpoint.folder, checkpoint.digest, load_tokenizer(checkpoint.folder).eos_token)
"""
LOOK = """
from tasks.watch.discover import discover
print(*discover('hf:org', 0, avoid='/x', own_tokenizer=True), sep='\\n')
"""


def look_at_hub(
    endpoint: str, home: Path, script: str = LOOK, *words: str, offline: bool = False
) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its address and whether it is offline when it is imported."""
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline)), "HF_HOME": str(home)}
    env |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", script, *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_an_organisation_of_the_hub_is_a_source_too(tmp_path: Path) -> None:
    sharded = make_model(tmp_path / "sharded", layers=2, max_shard_size="30KB")
    native = make_native(tmp_path / "native", make_model(tmp_path / "single", layers=1))
    folders = {"org/whole": sharded, "org/native": native, "org/broken": tmp_path / "none"}
    with hub_stub(folders) as (endpoint, requests):
        ended = look_at_hub(endpoint, tmp_path / "home")
    assert ended.returncode == 0, ended.stderr
    broken, native, whole = ended.stdout.splitlines()
    assert "the hub did not tell about it" in broken
    assert "has no tokenizer yet" in native
    assert whole == str(Found("org/whole", "org/whole", COMMIT))
    downloaded = {path.rpartition("/")[-1] for path in requests if "/resolve/" in path}
    assert downloaded == {"config.json", "model.safetensors.index.json"}


def test_a_hub_that_does_not_answer_is_told_in_one_line() -> None:
    with pytest.raises(
        SettingsError, match=r"source hf:org: the hub gave no list \(.+\); check the name or"
    ) as refused:
        discover("hf:org", 0.0, avoid="/elsewhere", own_tokenizer=True)  # all tests are offline
    assert "\n" not in str(refused.value)


BESIDE = ("consolidated.safetensors", "pytorch_model.bin", "model-99.safetensors", "README.md", "modeling_evil.py",
          "onnx/model.onnx", "onnx/config.json", "original/params.json", "original/tokenizer.model",
          "original/consolidated.00.pth")  # fmt: skip


def downloaded(home: Path) -> set[str]:
    (snapshot,) = (home / "hub").glob("models--*/snapshots/*")
    return {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()}


@pytest.mark.parametrize("max_shard_size", ["5GB", "30KB"])
def test_a_download_takes_what_config_and_index_name_and_what_travels(max_shard_size: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", layers=2, max_shard_size=max_shard_size)
    for name in ("NOTICE", "additional_chat_templates/tool [1].jinja"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(name)
    digest = open_checkpoint(model).digest
    expected = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    for name in BESIDE:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"not to be downloaded")
    with hub_stub({"org/model": model}) as (endpoint, requests):
        ended = look_at_hub(endpoint, tmp_path / "home", OPEN, "org/model")
    assert ended.returncode == 0, ended.stderr
    folder, found, eos = ended.stdout.split()
    assert (found, eos) == (digest, "<|endoftext|>") and Path(folder).is_relative_to(tmp_path / "home")
    assert downloaded(tmp_path / "home") == expected
    assert not [path for path in requests if any(name in path for name in BESIDE)]
    # and once it is here, without the hub: told to be offline, or finding nobody there
    for offline in (True, *([False] if max_shard_size == "5GB" else [])):  # the hub's client tries for half a minute
        again = look_at_hub(endpoint, tmp_path / "home", OPEN, "org/model", offline=offline)
        assert again.stdout == ended.stdout, again.stderr


def test_a_model_that_the_hub_does_not_have_is_told_in_one_line(tmp_path: Path) -> None:
    with hub_stub({}) as (endpoint, _):
        ended = look_at_hub(endpoint, tmp_path / "home", OPEN, "org/none")
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "ghost.errors.CheckpointError: model org/none: no such folder here, and the hub did not give"
    )
