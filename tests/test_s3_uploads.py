"""Uploads in parts that fail, for a while, for good, or with their process: a whole object in the end, or nothing."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import StoreError
from artifacts.s3.store import S3Store
from tests import fault_proxy as faults
from tests.fault_proxy import ALWAYS, Fault, FaultProxy
from tests.s3 import raw_client
from tests.s3_faults import BUCKET, DATA, KEY, UPLOAD_FAULTS, failing_storage, open_at

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FaultProxy]]:
    with failing_storage(tmp_path_factory.mktemp("cache")) as service:
        yield service


@pytest.fixture
def proxy(service: tuple[str, FaultProxy]) -> FaultProxy:
    service[1].inject()
    return service[1]


@pytest.fixture
def store(proxy: FaultProxy) -> S3Store:
    return open_at(uuid.uuid4().hex, attempts=4, read_timeout=0.4)


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    """Of three parts."""
    path = tmp_path / "large"
    path.write_bytes(DATA * 3 + DATA[::-1] + b"end")
    return path


@pytest.mark.parametrize("match", ["uploads", "partNumber=2", "uploadId"])
@pytest.mark.parametrize("fault", UPLOAD_FAULTS)
def test_every_step_of_an_upload_in_parts_is_tried_again(
    store: S3Store, proxy: FaultProxy, large_file: Path, match: str, fault: str
) -> None:
    action, times = UPLOAD_FAULTS[fault]
    method = "PUT" if "part" in match else "POST"
    proxy.inject(Fault(action, method, match, times=times))
    digest = store.put_file(KEY, large_file)
    assert proxy.requests > 5
    assert store.get(KEY, digest) == large_file.read_bytes()


def test_an_upload_that_fails_for_good_leaves_nothing(
    service: tuple[str, FaultProxy], store: S3Store, proxy: FaultProxy, large_file: Path
) -> None:
    proxy.inject(Fault(faults.error(500, "InternalError"), "PUT", "partNumber=2", times=ALWAYS))
    with pytest.raises(StoreError, match=f"cannot write .*{KEY} in bucket {BUCKET}: it answered InternalError"):
        store.put_file(KEY, large_file)
    assert not store.exists(KEY)
    assert store.list("") == []
    assert uploads(raw_client(service[0]), store) == []


PUT_FILE = """
import sys
from pathlib import Path
from artifacts.s3.client import S3Options, parse_place
from artifacts.s3.store import S3Store
options = S3Options(part_bytes=5 << 20, concurrency=1)
S3Store(parse_place(sys.argv[1]), options).put_file(sys.argv[2], Path(sys.argv[3]))
"""


def test_an_upload_that_is_killed_leaves_nothing_to_see(
    service: tuple[str, FaultProxy], store: S3Store, proxy: FaultProxy, large_file: Path
) -> None:
    raw = raw_client(service[0])
    proxy.inject(Fault(faults.silent, "PUT", "partNumber=2", times=ALWAYS))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    writer = subprocess.Popen([sys.executable, "-c", PUT_FILE, store.url, KEY, str(large_file)], env=environment)
    try:
        (where,) = wait_for(lambda: uploads(raw, store))
        wait_for(lambda: raw.list_parts(**where).get("Parts"))
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    proxy.inject()
    assert not store.exists(KEY)
    assert store.list("") == []
    raw.abort_multipart_upload(**where)


def uploads(raw: Any, store: S3Store) -> list[dict[str, str]]:
    """The unfinished uploads below the store, as requests name them."""
    found = raw.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return [
        {"Bucket": BUCKET, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        for upload in found
        if store.url.endswith(upload["Key"].removesuffix(f"/{KEY}"))
    ]


def wait_for(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.02)
    raise TimeoutError
