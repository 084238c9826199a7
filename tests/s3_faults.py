"""Storage that can be made to fail, and everything a store does, for the tests of what happens then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from artifacts.digest import sha256_bytes
from artifacts.s3.client import S3Options, parse_place
from artifacts.s3.store import S3Store
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.s3 import s3_in_this_process

BUCKET = "fault-tests"
KEY = "runs/a/object"
DATA = bytes(range(256)) * (3 << 12)
"""3 MiB, so that a body is torn after more than a block."""
PART_BYTES = 5 << 20


@contextmanager
def failing_storage(cache: Path) -> Iterator[tuple[str, FaultProxy]]:
    """An endpoint, and the proxy before it, through which this process's environment leads there."""
    with (
        s3_in_this_process(BUCKET, cache) as endpoint,
        faults.fault_proxy(endpoint) as (address, proxy),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ENDPOINT_URL", address)
        yield endpoint, proxy


def open_at(prefix: str, attempts: int, read_timeout: float = 10.0) -> S3Store:
    options = S3Options(
        connect_timeout=5, read_timeout=read_timeout, attempts=attempts, part_bytes=PART_BYTES, concurrency=2
    )
    return S3Store(parse_place(f"s3://{BUCKET}/{prefix}"), options)


PERMANENT = {
    "ExpiredToken": (400, "the credentials have expired; renew the credentials"),
    "AccessDenied": (403, "access denied; allow s3:ListBucket, GetObject, PutObject and DeleteObject"),
    "RequestTimeTooSkewed": (403, "this machine's clock is off; set it by NTP"),
    "NoSuchBucket": (404, "there is no such bucket; create it"),
    "InternalError": (500, "it answered InternalError; try again later"),
}
Operation = Callable[[S3Store, Path], Any]
READS: dict[str, Operation] = {
    "record": lambda store, _: store.record(KEY),
    "get": lambda store, _: store.get(KEY, sha256_bytes(DATA)),
    "fetch": lambda store, _: store.fetch(KEY, sha256_bytes(DATA)).read_bytes(),
    "sha256": lambda store, _: store.sha256(KEY),
}
LOOKS: dict[str, Operation] = {
    "exists": lambda store, _: store.exists(KEY),
    "size": lambda store, _: store.size(KEY),
    "list": lambda store, _: store.list("runs/"),
    "open": lambda store, _: S3Store(parse_place(store.url), store._options).url == store.url,
}
WRITES: dict[str, Operation] = {
    "put": lambda store, _: store.put(KEY, DATA),
    "put if absent": lambda store, _: store.put(f"{KEY}/new", DATA, if_absent=True),
    "put_file": lambda store, path: store.put_file(f"{KEY}/parts", path),
    "delete": lambda store, _: store.delete(KEY),
}
WRITTEN = {"put": KEY, "put if absent": f"{KEY}/new", "put_file": f"{KEY}/parts"}
OPERATIONS = READS | LOOKS | WRITES
EXPECTED = {
    "record": DATA,
    "get": DATA,
    "fetch": DATA,
    "sha256": sha256_bytes(DATA),
    "exists": True,
    "size": len(DATA),
    "list": [KEY],
    "open": True,
}

SERVICE_FAULTS = {
    "500": (faults.error(500, "InternalError"), 2),
    "503 SlowDown": (faults.error(503, "SlowDown"), 1),
    "dropped": (faults.dropped, 2),
    "silent": (faults.silent, 1),
}
SLOW = {"503 SlowDown": {"get", "list", "put_file"}, "silent": {"get", "exists", "put", "put_file"}}
"""What takes half a second each time is tried with these operations only."""
BODY_FAULTS = {
    "reset in the body": (faults.reset, 2),
    "truncated body": (faults.truncated, 2),
    "shortened body": (faults.shortened, 1),
    "stalled body": (faults.stalled, 1),
    "flipped bit": (faults.flipped, 1),
}
UPLOAD_FAULTS = {
    "reset in the upload": (faults.dropped_in_the_middle, 2),
    "unanswered": (faults.unanswered, 1),
}
