"""Discovery on the hub, against a stub of the hub's own routes."""

import os
import subprocess
import sys
from itertools import product
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

for name in sys.argv[1:]:
    checkpoint = open_checkpoint(name)
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


def downloaded(home: Path, name: str) -> set[str]:
    (snapshot,) = (home / "hub").glob(f"models--org--{name}/snapshots/*")
    return {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_download_takes_what_config_and_index_name_and_what_travels(tmp_path: Path) -> None:
    """Of a model in one file, and of one in shards; a process of its own takes seconds to import what opens them."""
    sizes = {"whole": "5GB", "sharded": "30KB"}
    models = {name: make_model(tmp_path / name, layers=2, max_shard_size=size) for name, size in sizes.items()}
    for model, name in product(models.values(), ("NOTICE", "additional_chat_templates/tool [1].jinja")):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(name)
    digests, expected = ({name: of(model) for name, model in models.items()} for of in (digest, files))
    for model, name in product(models.values(), BESIDE):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"not to be downloaded")
    names = [f"org/{name}" for name in models]
    with hub_stub(dict(zip(names, models.values(), strict=True))) as (endpoint, requests):
        ended = look_at_hub(endpoint, tmp_path / "home", OPEN, *names)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    for name, line in zip(models, lines, strict=True):
        folder, found, eos = line.split()
        assert (found, eos) == (digests[name], "<|endoftext|>") and Path(folder).is_relative_to(tmp_path / "home")
        assert downloaded(tmp_path / "home", name) == expected[name]
    assert not [path for path in requests if any(name in path for name in BESIDE)]
    # and once they are here, without the hub: told to be offline, or finding nobody there
    again = look_at_hub(endpoint, tmp_path / "home", OPEN, *names, offline=True)
    assert again.stdout == ended.stdout, again.stderr
    again = look_at_hub(endpoint, tmp_path / "home", OPEN, names[0])  # the hub's client tries for half a minute
    assert again.stdout.splitlines() == lines[:1], again.stderr


def digest(model: Path) -> str:
    return open_checkpoint(model).digest


def test_a_model_that_the_hub_does_not_have_is_told_in_one_line(tmp_path: Path) -> None:
    with hub_stub({}) as (endpoint, _):
        ended = look_at_hub(endpoint, tmp_path / "home", OPEN, "org/none")
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "ghost.errors.CheckpointError: model org/none: no such folder here, and the hub did not give"
    )
