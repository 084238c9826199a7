"""A bucket, or a prefix in one, marked as a store."""

from collections.abc import Sequence
from typing import Any

from botocore.exceptions import ClientError

from artifacts.digest import sha256_bytes
from artifacts.errors import MissingArtifact, StoreError
from artifacts.marker import MARK, MARKER, check_mark
from artifacts.s3.client import S3Place, error_code, persist, reporting
from artifacts.s3.reading import SHA256, ObjectReader


def claim(client: Any, place: S3Place, reader: ObjectReader, attempts: int, versions: Sequence[int]) -> None:
    """Mark the place as a store if it is empty.

    Raises StoreError where it holds something else, has another format, or cannot be used.
    """
    if _is_marked(place, reader, versions):
        return
    with reporting(place, "list the keys"):
        names = persist(attempts, lambda: first_names(client, place))
    # Looked for again: whoever opened the same new place just now wrote the marker before anything else.
    if names and not _is_marked(place, reader, versions):
        raise StoreError(f"store {place.url} holds something else; choose an empty prefix with --store")
    if not names:
        _mark(client, place, attempts)
        _is_marked(place, reader, versions)


def first_names(client: Any, place: S3Place) -> set[str]:
    """Two at most; an empty object named as the folder itself is what web consoles make of "new folder"."""
    start = place.key("")
    answer = client.list_objects_v2(Bucket=place.bucket, Prefix=start, MaxKeys=2)
    return {item["Key"] for item in answer.get("Contents", [])} - {start}


def _mark(client: Any, place: S3Place, attempts: int) -> None:
    request = {"Bucket": place.bucket, "Key": place.key(MARKER), "Body": MARK, "IfNoneMatch": "*"}
    request["Metadata"] = {SHA256: sha256_bytes(MARK)}
    with reporting(place, "write", MARKER):
        try:
            persist(attempts, lambda: client.put_object(**request), "ConditionalRequestConflict")
        except ClientError as error:
            if error_code(error) != "PreconditionFailed":
                raise


def _is_marked(place: S3Place, reader: ObjectReader, versions: Sequence[int]) -> bool:
    try:
        data, _ = reader.read(MARKER, None, b"".join)
    except MissingArtifact:
        return False
    check_mark(place.url, data, versions)
    return True
