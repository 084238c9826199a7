"""Time and memory of storing and fetching one large object on S3: moto on loopback, each side a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OBJECT_BYTES = 2 << 30
_BLOCK = 16 << 20


def run(device: str) -> dict[str, Any]:
    """An object of 2 GiB; `device` plays no part."""
    return measure(OBJECT_BYTES)


def measure(size: int) -> dict[str, Any]:
    """Seconds and peak memory, in bytes above what was resident before, of `put_file` and `fetch` of `size` bytes."""
    with tempfile.TemporaryDirectory(prefix="ghost-bench-s3-") as folder, _service() as endpoint:
        source = Path(folder, "source")
        _write(source, size)
        environment = os.environ | {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": "us-east-1",
            "GHOST_CACHE": f"{folder}/cache",
        }
        command = [sys.executable, "-m", "bench.s3_process", "s3://bench/store", str(source)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return {"bytes": size, **json.loads(done.stdout.splitlines()[-1])}


def _write(path: Path, size: int) -> None:
    block = os.urandom(_BLOCK)
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK):
            file.write(block[: size - start])


@contextmanager
def _service() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ghost-bench-moto-") as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "bench.s3_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": folder},
        )
        assert server.stdin is not None and server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()
            server.wait()
