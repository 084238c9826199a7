"""Canonical bytes and their sha256: what makes runs comparable and damage visible."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

IDENTITY_LENGTH = 16


def canonical_json(value: Any) -> bytes:
    """The one UTF-8 spelling of a JSON value: sorted keys, no spaces, no trailing newline.

    Raises ValueError for NaN and infinities and TypeError for what JSON cannot hold.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sha256_bytes(data: bytes) -> str:
    """The sha256 of `data`, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content, 64 hex digits, read in small blocks. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(determinants: Mapping[str, Any]) -> str:
    """A name of 16 hex digits for what these values determine: a pruning, a run, a sweep, a score."""
    return sha256_bytes(canonical_json(dict(determinants)))[:IDENTITY_LENGTH]


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """The bytes of a JSON file in the store: canonical, with a newline at the end."""
    return canonical_json(dict(record)) + b"\n"


def parse_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in `data`, or None where it holds none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def parse_record(data: bytes) -> dict[str, Any] | None:
    """What `record_bytes` was given, or None where `data` is not exactly its bytes, so that damage shows."""
    record = parse_object(data)
    try:
        return record if record is not None and record_bytes(record) == data else None
    except ValueError:
        return None
