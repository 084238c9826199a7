"""An object's bytes, block by block: a connection that breaks is taken up again where it broke."""

from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
from urllib3.exceptions import HTTPError

from artifacts.errors import StoreError
from artifacts.s3.client import ABSENT, S3Options, S3Place, error_code, metadata_of, pause, persist, reporting

BLOCK = 1 << 20
BROKEN = (HTTPClientError, IncompleteReadError, HTTPError, OSError)
CHANGED = {"PreconditionFailed", "412"}
PARTIAL_CONTENT = 206


class Stream:
    """One object, opened for reading once: iterate over its blocks.

    `etag` is that of the object to read, by default of what is there now; `span` the first byte and the one after the
    last, by default all. `size` and `metadata` come with the first answer. Raises MissingArtifact (without `etag`), and
    StoreError where the storage fails or the object is another than `etag` says, at once or between two blocks.
    """

    def __init__(
        self,
        client: Any,
        place: S3Place,
        name: str,
        options: S3Options,
        etag: str | None = None,
        span: tuple[int, int] | None = None,
    ) -> None:
        self._client, self._place, self._name, self._options = client, place, name, options
        self.etag, self._span = etag, span
        self._answer = self._get(span)
        self.etag = self._answer["ETag"]
        self.size: int = self._answer["ContentLength"]
        self.metadata = metadata_of(self._answer)

    @property
    def encrypted_by_key(self) -> bool:
        """Whether the etag of a single part may be no MD5 of its bytes."""
        return "SSECustomerAlgorithm" in self._answer or self._answer.get("ServerSideEncryption", "AES256") != "AES256"

    def __iter__(self) -> Iterator[bytes]:
        done, failures = 0, 0
        body = self._answer["Body"]
        while done < self.size:
            try:
                block = body.read(BLOCK)
                if not block:
                    raise IncompleteReadError(actual_bytes=done, expected_bytes=self.size)
            except BROKEN as error:
                failures += 1
                self._pause(failures, error)
                body.close()
                body = self._rest(done)
                continue
            done, failures = done + len(block), 0
            yield block
        body.close()

    def _rest(self, done: int) -> Any:
        start, stop = self._span or (0, self.size)
        answer = self._get((start + done, stop))
        if answer["ResponseMetadata"]["HTTPStatusCode"] != PARTIAL_CONTENT:
            raise self._failure("the connection broke, and this storage cannot continue in the middle; try again")
        return answer["Body"]

    def _get(self, span: tuple[int, int] | None) -> Any:
        wanted: dict[str, str] = {"IfMatch": self.etag} if self.etag else {}
        if span:
            wanted["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        with reporting(self._place, "read", self._name):
            try:
                return persist(
                    self._options.attempts,
                    lambda: self._client.get_object(
                        Bucket=self._place.bucket, Key=self._place.key(self._name), **wanted
                    ),
                )
            except ClientError as error:
                if error_code(error) not in (CHANGED | ABSENT if self.etag else CHANGED):
                    raise
                raise StoreError(
                    f"{self._place.url}/{self._name} changed while it was read; try again when its upload has ended"
                ) from error

    def _pause(self, failures: int, error: Exception) -> None:
        if failures >= self._options.attempts:
            raise self._failure(
                f"the connection broke {failures} times ({type(error).__name__}); check the network, then try again"
            ) from error
        pause(failures)

    def _failure(self, reason: str) -> StoreError:
        return StoreError(f"cannot read {self._place.key(self._name)} in bucket {self._place.bucket}: {reason}")
