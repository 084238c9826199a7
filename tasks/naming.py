"""What models, texts and places are called in records and on pages."""

from pathlib import Path

from artifacts.folders import SCHEME


def display_name(spec: str) -> str:
    """A model or corpus by name: hub names whole, paths and s3:// addresses without their folders."""
    return Path(spec).name if Path(spec).exists() or spec.startswith(("/", ".", "~", SCHEME)) else spec
