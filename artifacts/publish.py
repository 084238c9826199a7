"""A finished checkpoint where its readers look for it: whole or not there, on disk and on object storage."""

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artifacts.digest import parse_record, record_bytes, sha256_file
from artifacts.errors import MissingArtifact, StoreError
from artifacts.folders import MANIFEST, is_remote, open_folder
from artifacts.schemas import FORMAT_VERSION

__all__ = ["MANIFEST", "publish", "published"]

ATTEMPTS = 10
"""Of putting a folder in the place of another while somebody else does the same."""
OCCUPIED = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}


def publish(source: Path, target: str, record: Mapping[str, Any], first: str = "") -> str:
    """Copy the files of `source` to a local folder or s3://bucket/prefix, and return where they are.

    The manifest (`record`, and size and sha256 of every file) appears last, and what is there as it should be is not
    written again. `first` names the file that goes ahead of the others, so that half a copy tells whose it is.
    Raises StoreError where the target cannot be written.
    """
    names = sorted((path.name for path in source.iterdir()), key=lambda name: (name != first, name))
    manifest = {"format": FORMAT_VERSION, **record, "files": {name: _entry(source / name) for name in names}}
    if is_remote(target):
        from artifacts.s3.target import S3Target  # boto3 takes a while to import

        place = S3Target(target)
        if published(target) != manifest:
            place.put(source, manifest)
        return place.url
    return _put_folder(source, Path(target).expanduser().absolute(), manifest)


def check_writable(target: str) -> None:
    """Raises StoreError where s3://bucket/prefix cannot be written to; nothing is left there."""
    from artifacts.s3.target import S3Target

    S3Target(target).check_writable()


def published(target: str) -> dict[str, Any] | None:
    """The manifest of the checkpoint at `target`, if all that it lists is there in its size; None otherwise."""
    folder = open_folder(target)
    try:
        manifest = parse_record(folder.read(MANIFEST)) or {}
        sizes = {entry.name: entry.size for entry in folder.entries()}
    except MissingArtifact:
        return None
    files = manifest.get("files")
    whole = isinstance(files, dict) and all(_size(entry) == sizes.get(name) for name, entry in files.items())
    return manifest if whole else None


def _size(entry: object) -> object:
    return entry.get("size") if isinstance(entry, dict) else None


def _entry(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256_file(path)}


def _put_folder(source: Path, target: Path, manifest: dict[str, Any]) -> str:
    """Copied under a temporary name and renamed, so that a folder named `target` is always a whole checkpoint."""
    if _holds(target, manifest):
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        for name in manifest["files"]:
            shutil.copyfile(source / name, fresh / name)
        (fresh / MANIFEST).write_bytes(record_bytes(manifest))
        _sync(fresh)
        _swap(fresh, target, manifest)
    return str(target)


def _holds(target: Path, manifest: dict[str, Any]) -> bool:
    if published(str(target)) != manifest:
        return False
    try:
        return all(sha256_file(target / name) == entry["sha256"] for name, entry in manifest["files"].items())
    except FileNotFoundError:
        return False


def _swap(fresh: Path, target: Path, manifest: dict[str, Any]) -> None:
    """Rename `fresh` to `target`. Of several at once one wins, and the others find their own files there."""
    for attempt in range(ATTEMPTS):
        if _renamed(fresh, target) or _holds(target, manifest):
            return
        _renamed(target, fresh.parent / f"former-{attempt}")
    raise StoreError(f"out: {target} changes all the time; end what else writes there, or choose another --out")


def _renamed(folder: Path, place: Path) -> bool:
    """Whether it could be; not where `place` is taken, or somebody else was faster."""
    try:
        folder.rename(place)
    except OSError as error:
        if error.errno not in OCCUPIED:
            raise StoreError(f"out: {folder} cannot be renamed to {place} ({error}); choose another --out") from error
        return False
    return True


def _sync(folder: Path) -> None:
    """Make the files survive a power cut, so that a manifest never outlives what it lists."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
