"""A finished checkpoint where its readers look for it: whole or not there, on disk and on object storage."""

from collections.abc import Mapping
from typing import Any

from artifacts.digest import parse_record
from artifacts.errors import DamagedArtifact, MissingArtifact
from artifacts.folders import open_folder
from artifacts.keys import check_key
from artifacts.local_target import LocalTarget
from artifacts.places import MANIFEST, Target, is_remote
from artifacts.schemas import FORMAT_VERSION
from artifacts.store import Store

__all__ = ["MANIFEST", "open_target", "publish", "published"]


def publish(
    store: Store,
    folder: str,
    files: Mapping[str, Mapping[str, Any]],
    target: str,
    record: Mapping[str, Any],
    first: str = "",
) -> str:
    """Copy `files` from below a folder of the store to a local folder or s3://bucket/prefix, and return where they are.

    `files` maps names, with '/' between segments, to `size` and `sha256`, as `artifacts.manifest.listed` gives them:
    these and no others are copied, and only with these bytes. The published manifest (`record`, and `files`) appears
    last, and what is there as it should be is not written again. `first` names the file that goes ahead of the others,
    so that half a copy tells whose it is. Raises StoreError where the target cannot be written, MissingArtifact and
    DamagedArtifact where the store does not have the files.
    """
    # A model that was itself published brings its own manifest along, which is not true of what is made of it.
    names = sorted(files.keys() - {MANIFEST}, key=lambda name: (name != first, name))
    for name in names:
        check_key(name)
    manifest = {"format": FORMAT_VERSION, **record, "files": {name: dict(files[name]) for name in names}}
    place = open_target(target)
    place.put(lambda name: store.fetch(f"{folder}/{name}", files[name]["sha256"]), manifest)
    return place.url


def published(target: str) -> dict[str, Any] | None:
    """The manifest of the checkpoint at `target`, if all that it lists is there; None otherwise.

    Locally that is by the files' sizes, on object storage by their digests too. Raises StoreError.
    """
    place = open_target(target)
    try:
        manifest = parse_record(open_folder(target).read(MANIFEST)) or {}
    except (MissingArtifact, DamagedArtifact):
        return None
    files = manifest.get("files")
    whole = isinstance(files, dict) and all(_is_entry(files[name]) and place.shows(name, files[name]) for name in files)
    return manifest if whole else None


def open_target(url: str) -> Target:
    """The place at a local path or s3://bucket/prefix. Raises StoreError for an address that none can have."""
    if is_remote(url):
        from artifacts.s3.target import S3Target  # boto3 takes a while to import

        return S3Target(url)
    return LocalTarget(url)


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and {"size", "sha256"} <= entry.keys()
