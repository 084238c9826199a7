"""A place on object storage that a finished checkpoint is published to."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from botocore.exceptions import ClientError

from artifacts.digest import record_bytes, sha256_bytes
from artifacts.errors import DamagedArtifact, MissingArtifact, StoreError
from artifacts.marker import MARKER
from artifacts.places import MANIFEST, Source
from artifacts.s3.client import S3Options, make_client, metadata_of, parse_place, persist, reporting
from artifacts.s3.folder import S3Folder
from artifacts.s3.marker import first_names
from artifacts.s3.reading import SHA256, ObjectReader, discard
from artifacts.s3.upload import upload_file


class S3Target:
    """A `Target` at s3://bucket/prefix. Raises StoreError where the address is none."""

    def __init__(self, url: str) -> None:
        self._place, self._options = parse_place(url), S3Options()
        self._client = make_client(self._options)
        self._reader = ObjectReader(self._client, self._place, self._options)
        self.url = self._place.url

    def is_taken(self) -> bool:
        with reporting(self._place, "list the objects"):
            return bool(persist(self._options.attempts, lambda: first_names(self._client, self._place)))

    def rehearse(self) -> None:
        """Begins an upload that never becomes an object: one that was deleted again would stay as a version."""
        with reporting(self._place, "write", MANIFEST):
            begun = self._client.create_multipart_upload(**self._at(MANIFEST))
            self._client.abort_multipart_upload(**self._at(MANIFEST), UploadId=begun["UploadId"])
            store = next(filter(self._is_store, PurePosixPath(self._place.prefix, MARKER).parents), None)
        if store is not None:
            place = f"s3://{self._place.bucket}/{store}".removesuffix("/.")
            raise StoreError(f"out: {self.url} lies in the store {place}; choose a place outside of it with --out")

    def shows(self, name: str, entry: Mapping[str, Any]) -> bool:
        """By the digest beside the object. Where there is none, by its bytes, which are read."""
        try:
            with reporting(self._place, "read", name):
                found = self._client.head_object(**self._at(name))
        except MissingArtifact:
            return False
        digest = metadata_of(found).get(SHA256) or self._digest(name, entry["sha256"])
        return dict(entry) == {"size": found["ContentLength"], "sha256": digest}

    def put(self, source: Source, manifest: Mapping[str, Any]) -> None:
        files, data = manifest["files"], record_bytes(manifest)
        wrong = [name for name, entry in files.items() if not self.shows(name, entry)]
        there = self._manifest()
        if wrong and there is not None:
            with reporting(self._place, "delete", MANIFEST):
                self._client.delete_object(**self._at(MANIFEST))
        for name in wrong:
            upload_file(self._client, self._place, name, source(name), files[name]["sha256"], self._options)
        if lost := [name for name in wrong if not self.shows(name, files[name])]:
            raise StoreError(f"{self.url}/{lost[0]} is not there as it was written; run the same command again")
        if wrong or there != data:
            with reporting(self._place, "write", MANIFEST):
                self._client.put_object(**self._at(MANIFEST), Body=data, Metadata={SHA256: sha256_bytes(data)})

    def _manifest(self) -> bytes | None:
        try:
            return S3Folder(self.url).read(MANIFEST)
        except MissingArtifact:
            return None
        except DamagedArtifact:
            return b""

    def _digest(self, name: str, sha256: str) -> str | None:
        """`sha256` if it is that of the object's bytes."""
        try:
            return self._reader.read(name, sha256, discard)[1]
        except DamagedArtifact:
            return None

    def _is_store(self, prefix: PurePosixPath) -> bool:
        """Not where its marker is not for this user to see: whoever writes to a store can."""
        try:
            self._client.head_object(Bucket=self._place.bucket, Key=str(prefix / MARKER))
        except ClientError:
            return False
        return True

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._place.bucket, "Key": self._place.key(name)}
