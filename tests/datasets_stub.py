"""A stub of the hub's routes for data sets on loopback: what `datasets` asks for when it loads one by name."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


@contextmanager
def datasets_stub(datasets: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Data sets by name, each a local folder. Yields the address and the paths that were asked for."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            status, data = _answer(datasets, unquote(self.path.partition("?")[0]).strip("/"))
            self.send_response(status)
            headers = {"Content-Length": str(len(data)), "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
                       "X-Repo-Commit": COMMIT}  # fmt: skip
            for name, value in headers.items():
                self.send_header(name, value)
            if status == 404:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(datasets: dict[str, Path], route: str) -> tuple[int, bytes]:
    for name, folder in datasets.items():
        api, files = f"api/datasets/{name}", f"datasets/{name}/resolve/"
        if route == api or route.startswith(f"{api}/revision/"):
            return 200, json.dumps({"id": name, "sha": COMMIT, "siblings": [], "tags": []}).encode()
        if route.startswith(f"{api}/tree/"):
            return _listed(folder, route.removeprefix(f"{api}/tree/").partition("/")[2])
        if route.startswith(files):
            path = folder / route.removeprefix(files).partition("/")[2]
            return (200, path.read_bytes()) if path.is_file() else (404, b"")
    return 404, b""


def _listed(folder: Path, below: str) -> tuple[int, bytes]:
    if not (folder / below).is_dir():
        return 404, b""
    return 200, json.dumps([_entry(folder, path) for path in sorted((folder / below).iterdir())]).encode()


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": COMMIT, "size": 0}
    return {
        "type": "file",
        "path": name,
        "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        "size": path.stat().st_size,
    }
