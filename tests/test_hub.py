"""Discovery on the hub, against a stub of the hub's own routes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ghost.errors import SettingsError
from tasks.watch.discover import Found, discover
from tests.hub_stub import COMMIT, hub_stub
from tests.models import make_model, make_native

LOOK = """
from tasks.watch.discover import discover
print(*discover('hf:org', 0, avoid='/x', own_tokenizer=True), sep='\\n')
"""


def look_at_hub(endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its address and whether it is offline when it is imported."""
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
    env |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run([sys.executable, "-c", LOOK], env=env, capture_output=True, text=True, timeout=120)


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
