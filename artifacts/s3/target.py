"""A place on object storage that a finished checkpoint is published to."""

from pathlib import Path
from typing import Any

from artifacts.digest import record_bytes, sha256_bytes
from artifacts.errors import MissingArtifact, StoreError
from artifacts.folders import MANIFEST
from artifacts.s3.client import S3Options, make_client, parse_place, reporting
from artifacts.s3.folder import S3Folder
from artifacts.s3.reading import SHA256
from artifacts.s3.upload import upload_file


class S3Target:
    """s3://bucket/prefix, to write a checkpoint to. Raises StoreError where the address is none."""

    def __init__(self, url: str) -> None:
        self._place, self._options = parse_place(url), S3Options()
        self._client = make_client(self._options)
        self.url = self._place.url

    def check_writable(self) -> None:
        """Raises StoreError where objects cannot be written here. Begins an upload that never becomes one."""
        with reporting(self._place, "write", MANIFEST):
            begun = self._client.create_multipart_upload(**self._at(MANIFEST))
            self._client.abort_multipart_upload(**self._at(MANIFEST), UploadId=begun["UploadId"])

    def put(self, source: Path, manifest: dict[str, Any]) -> None:
        """The files of the manifest in its order, then the manifest. While they are written there is none."""
        with reporting(self._place, "delete", MANIFEST):
            self._client.delete_object(**self._at(MANIFEST))
        for name, entry in manifest["files"].items():
            if not self._holds(name, entry):
                upload_file(self._client, self._place, name, source / name, entry["sha256"], self._options)
        sizes = {entry.name: entry.size for entry in S3Folder(self.url).entries()}
        if wrong := [name for name, entry in manifest["files"].items() if sizes.get(name) != entry["size"]]:
            raise StoreError(f"{self.url}/{wrong[0]} is not there as it was written; run the same command again")
        data = record_bytes(manifest)
        with reporting(self._place, "write", MANIFEST):
            self._client.put_object(**self._at(MANIFEST), Body=data, Metadata={SHA256: sha256_bytes(data)})

    def _holds(self, name: str, entry: dict[str, Any]) -> bool:
        try:
            with reporting(self._place, "read", name):
                found = self._client.head_object(**self._at(name))
        except MissingArtifact:
            return False
        return entry == {"size": found["ContentLength"], "sha256": found["Metadata"].get(SHA256)}

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._place.bucket, "Key": self._place.key(name)}
