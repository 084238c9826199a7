"""What `prefect deploy` puts into the deployments from where it is run: prefect.yaml's build step."""

import os
from pathlib import Path
from typing import Any

from ghost.config import environment_device

NAMES = ("GHOST_DEVICE", "GHOST_CACHE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
"""Passed on to the runs where set; otherwise each worker's own hold. Never credentials, for the server keeps these."""


def surroundings() -> dict[str, Any]:
    """The runs' environment `env`, and what the watch needs: the `recipe`, and whether it is `watching` at all.

    A process worker runs flows in a temporary folder and removes it, so the store is always a fixed place:
    $GHOST_STORE, else ghost-runs in the folder deployed from. SettingsError for a $GHOST_DEVICE that is no device.
    """
    environment_device()  # what no run could use is refused here
    store, recipe = _fixed(os.environ.get("GHOST_STORE") or "ghost-runs"), os.environ.get("GHOST_RECIPE")
    print(f"runs are kept in {store}; set GHOST_STORE before deploying to keep them elsewhere")
    passed = {name: os.environ[name] for name in NAMES if "@" not in os.environ.get(name, "@")}
    return {
        "env": {"GHOST_STORE": store} | passed,
        "recipe": _fixed(recipe) if recipe else "",
        "watching": bool(recipe),
    }


def _fixed(place: str) -> str:
    return place if "://" in place else str(Path(place).expanduser().absolute())
