"""Sending a local file of any size in parts, a few of them in memory at a time."""

from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig, create_transfer_manager

from artifacts.s3.client import S3Options, S3Place, persist, reporting
from artifacts.s3.reading import SHA256


def upload_file(client: Any, place: S3Place, name: str, source: Path, sha256: str, options: S3Options) -> None:
    """Put the file's content under `name` at one instant, with its digest beside it. Raises StoreError, OSError.

    Memory: `concurrency` parts of `part_bytes`. A failed upload is aborted; a killed one stays invisible.
    """
    config = TransferConfig(
        multipart_threshold=options.part_bytes,
        multipart_chunksize=options.part_bytes,
        max_concurrency=options.concurrency,
        preferred_transfer_client="classic",  # the other one, of C, has its own retries and memory
    )

    def upload() -> None:
        with create_transfer_manager(client, config) as manager:
            extra = {"Metadata": {SHA256: sha256}}
            manager.upload(str(source), place.bucket, place.key(name), extra_args=extra).result()

    with reporting(place, "write", name):
        # An upload that was completed and whose answer was lost is unknown the next time.
        persist(options.attempts, upload, "NoSuchUpload")
