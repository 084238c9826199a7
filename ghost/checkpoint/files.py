"""JSON files of a model folder, which are small: a large one is no JSON file of a model."""

import json
from pathlib import Path
from typing import Any

from ghost.checkpoint.pickled import AGAIN
from ghost.errors import CheckpointError

JSON_BYTES = 100_000_000
"""As much as safetensors allows a header, which lists the same tensors as an index does."""


def read_json(path: Path) -> Any:
    """The value in a JSON file. ValueError where it is larger than 100 MB, nested too deeply, or not JSON."""
    if (size := path.stat().st_size) > JSON_BYTES:
        raise ValueError(f"it has {size} bytes, more than {JSON_BYTES}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as a dict."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json, so it is not a model folder; {AGAIN}")
    try:
        config = read_json(path)
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); {AGAIN}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a JSON object; {AGAIN}")
    return config
