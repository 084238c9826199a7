"""A bucket, or a prefix in one, as a store: one S3 object per key, each with the sha256 of all its bytes."""

import io
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from artifacts.digest import sha256_bytes, sha256_file
from artifacts.errors import AlreadyThere, MissingArtifact, StoreError
from artifacts.files import is_temporary
from artifacts.keys import check_key
from artifacts.marker import MARKER
from artifacts.objects import StoredObject
from artifacts.s3.client import S3Options, S3Place, error_code, make_client, metadata_of, persist, reporting
from artifacts.s3.downloads import Downloads
from artifacts.s3.marker import claim
from artifacts.s3.reading import SHA256, ObjectReader, discard
from artifacts.s3.upload import upload_file
from artifacts.schemas import FORMAT_VERSION

MAX_KEY_BYTES = 1024
WRITER = "writer"
"""Name of the metadata entry by which a conditional put recognises its own object after a lost answer."""


class S3Store:
    """A `Store` in object storage, marked as one if empty. Downloads are kept in the cache folder.

    Raises StoreError where the bucket cannot be used, or the place holds something else or has another format.
    """

    def __init__(self, place: S3Place, options: S3Options, versions: Sequence[int] = (FORMAT_VERSION,)) -> None:
        self.url = place.url
        self._place = place
        self._options = options
        self._client = make_client(options)
        self._reader = ObjectReader(self._client, place, options)
        # The endpoint too: buckets of one name at two services are two stores.
        self._downloads = Downloads(f"{self._client.meta.endpoint_url} {place.url}")
        claim(self._client, place, self._reader, options.attempts, versions)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> str:
        self._check(key)
        digest = sha256_bytes(data)
        with reporting(self._place, "write", key):
            if if_absent:
                self._put_if_absent(key, data, digest)
            else:
                self._client.put_object(**self._at(key), Body=data, Metadata={SHA256: digest})
        return digest

    def put_file(self, key: str, source: Path) -> str:
        self._check(key)
        with self._reading_file(key, source):
            digest = sha256_file(source)
            upload_file(self._client, self._place, key, source, digest, self._options)
        return digest

    def record(self, key: str) -> bytes:
        return self._get(key, None)

    def get(self, key: str, sha256: str) -> bytes:
        return self._get(key, sha256)

    def fetch(self, key: str, sha256: str) -> Path:
        stored = metadata_of(self._head(key)).get(SHA256)
        if stored == sha256 and (path := self._downloads.find(key, sha256)):
            return path

        def write(path: Path, blocks: Iterator[bytes]) -> None:
            with path.open("wb") as file:
                file.writelines(blocks)

        return self._downloads.add(key, lambda path: self._reader.read(key, sha256, lambda blocks: write(path, blocks)))

    def exists(self, key: str) -> bool:
        try:
            self._head(key)
        except MissingArtifact:
            return False
        return True

    def list(self, prefix: str) -> list[str]:
        return [found.key for found in self.objects(prefix)]

    def objects(self, prefix: str) -> tuple[StoredObject, ...]:
        if prefix:
            check_key(prefix.removesuffix("/"))
        with reporting(self._place, f"list {prefix or 'the keys'}"):
            found = persist(self._options.attempts, lambda: self._objects(prefix))
        return tuple(found[key] for key in sorted(filter(_is_key, found)))

    def delete(self, key: str) -> None:
        self._check(key)
        with reporting(self._place, "delete", key):
            self._client.delete_object(**self._at(key))

    def sha256(self, key: str) -> str:
        self._check(key)
        return self._reader.read(key, None, discard)[1]

    def size(self, key: str) -> int:
        return self._head(key)["ContentLength"]

    def locate(self, key: str) -> str:
        self._check(key)
        return f"{self.url}/{key}"

    def _check(self, key: str) -> None:
        check_key(key)
        if key == MARKER or any(is_temporary(segment) for segment in key.split("/")):
            raise StoreError(f"key {key!r} is refused: the store uses that name itself; choose another")
        if (length := len(self._place.key(key).encode())) > MAX_KEY_BYTES:
            raise StoreError(
                f"key {key!r} is refused: with the prefix of {self.url} it has {length} bytes, and S3 takes "
                f"{MAX_KEY_BYTES}; choose a shorter prefix or name"
            )

    def _get(self, key: str, sha256: str | None) -> bytes:
        self._check(key)

        def collect(blocks: Iterator[bytes]) -> bytes:
            buffer = io.BytesIO()
            for block in blocks:
                buffer.write(block)
            return buffer.getvalue()

        return self._reader.read(key, sha256, collect)[0]

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._place.bucket, "Key": self._place.key(key)}

    def _head(self, key: str) -> dict[str, Any]:
        self._check(key)
        with reporting(self._place, "read", key):
            try:
                return self._client.head_object(**self._at(key))
            except ClientError:
                # The answer to HEAD has no body and so no code; this one tells bucket, permission and clock apart.
                self._client.list_objects_v2(Bucket=self._place.bucket, Prefix=self._place.key(key), MaxKeys=1)
                raise

    def _put_if_absent(self, key: str, data: bytes, digest: str) -> None:
        writer = uuid.uuid4().hex
        request = {**self._at(key), "Body": data, "Metadata": {SHA256: digest, WRITER: writer}, "IfNoneMatch": "*"}
        try:
            persist(self._options.attempts, lambda: self._client.put_object(**request), "ConditionalRequestConflict")
        except ClientError as error:
            if error_code(error) != "PreconditionFailed":
                raise
            # The first attempt may have succeeded without our hearing of it.
            if metadata_of(self._client.head_object(**self._at(key))).get(WRITER) != writer:
                raise AlreadyThere(f"{key} is already in the store {self.url}; read it, or delete it first") from error

    def _objects(self, prefix: str) -> dict[str, StoredObject]:
        pages = self._client.get_paginator("list_objects_v2")
        start = self._place.key("")
        found = (
            StoredObject(item["Key"].removeprefix(start), item["Size"], item["LastModified"].timestamp())
            for page in pages.paginate(Bucket=self._place.bucket, Prefix=start + prefix)
            for item in page.get("Contents", [])
        )
        return {item.key: item for item in found}

    @contextmanager
    def _reading_file(self, key: str, source: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"cannot write {key} to {self.url}: {source} cannot be read ({error.strerror})") from error


def _is_key(name: str) -> bool:
    """Whether the store's methods take this name: another tool's objects, such as `folder/`, are not its own."""
    try:
        check_key(name)
    except StoreError:
        return False
    return name != MARKER
