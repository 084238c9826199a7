"""Store one file on S3, fetch it back, and print seconds and memory as JSON. Run by `bench.s3`."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artifacts.s3.client import S3Options, make_client, parse_place
from artifacts.store import open_store


def main(url: str, source: str) -> None:
    """The bucket of `url` is made first."""
    make_client(S3Options()).create_bucket(Bucket=parse_place(url).bucket)
    store = open_store(url)
    store.fetch("small", store.put_file("small", Path(__file__)))
    put, digest = _measured(lambda: store.put_file("large", Path(source)))
    fetch, path = _measured(lambda: store.fetch("large", digest))
    assert path.stat().st_size == Path(source).stat().st_size
    print(json.dumps({"put_file": put, "fetch": fetch}))


def _measured(act: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Seconds, and the bytes of peak resident memory above what was resident before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before, started = _status("VmRSS"), time.perf_counter()
    result = act()
    return {"seconds": time.perf_counter() - started, "peak_rss_above": _status("VmHWM") - before}, result


def _status(name: str) -> int:
    """Bytes; Linux counts in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
