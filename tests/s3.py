"""A real S3 endpoint over HTTP on loopback, held by moto in this process, and the environment that leads to it."""

import io
import logging
import os
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

SECRETS = {"AWS_ACCESS_KEY_ID": "test-access-key", "AWS_SECRET_ACCESS_KEY": "test-secret-key"}


class _OneAtATime:
    """moto looks and then leaps: of two conditional puts at once both may succeed. S3 decides between them."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        # Read before, so that a client which sends slowly keeps nobody else waiting.
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        with self._lock:
            return self._app(environ, start_response)


@contextmanager
def s3_endpoint() -> Iterator[str]:
    """An empty S3 service on a free port, for as long as the context lasts; one at a time in a process, since moto's
    objects belong to the process. Yields its URL."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line on stderr for every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    server._server.app = _OneAtATime(server._server.app)  # type: ignore[union-attr]
    url = "http://{}:{}".format(*server.get_host_and_port())
    try:
        yield url
    finally:
        urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST")).close()
        server.stop()


def s3_environment(endpoint: str) -> dict[str, str]:
    """What a process needs in its environment to reach `endpoint` and nothing of the user's own."""
    return SECRETS | {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }


@contextmanager
def s3_in_this_process(bucket: str, cache: Path) -> Iterator[str]:
    """An endpoint with this bucket, to which this process's environment leads for as long as the context lasts; what
    is downloaded goes to `cache`. Yields its URL."""
    with s3_endpoint() as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(endpoint).items():
            patch.setenv(name, value)
        patch.setenv("GHOST_CACHE", str(cache))
        make_bucket(endpoint, bucket)
        yield endpoint


def raw_client(endpoint: str) -> Any:
    """A plain boto3 client, to do what ghost never does and to look at what it left."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=SECRETS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=SECRETS["AWS_SECRET_ACCESS_KEY"],
    )


def make_bucket(endpoint: str, name: str) -> None:
    """Make the bucket `name`; nothing happens where it is there already."""
    raw_client(endpoint).create_bucket(Bucket=name)
