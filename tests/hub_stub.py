"""A stub of the Hugging Face hub on loopback: the routes that list, describe and hand out models."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_stub(models: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Models by name (owner/name), each a local folder; one that is no folder is listed and then not found.

    Yields the address and the paths that were asked for.
    """
    with answering(lambda path: _answer(models, path), missing="RepoNotFound") as served:
        yield served


@contextmanager
def answering(answer: Callable[[str], tuple[int, bytes]], missing: str) -> Iterator[tuple[str, list[str]]]:
    """A server that answers a path with status and body as the hub does; `missing` is the hub's code for a 404.

    Yields the address and the paths that were asked for.
    """
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            status, data = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if status == 404:
                self.send_header("X-Error-Code", missing)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with serving(Handler) as address:
        yield address, requests


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server on a free port of the loopback for as long as the context lasts, and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(models: dict[str, Path], path: str) -> tuple[int, bytes]:
    route = path.partition("?")[0].strip("/")
    if route == "api/models":
        return 200, json.dumps([{"id": name, "modelId": name} for name in models]).encode()
    if route.startswith("api/models/") and "/tree/" in route:
        name = route.removeprefix("api/models/").partition("/tree/")[0]
        return (200, json.dumps(_tree(models[name])).encode()) if _is_there(models, name) else (404, b"")
    if route.startswith("api/models/"):
        name = route.removeprefix("api/models/").partition("/revision/")[0]
        return (200, json.dumps(_info(name, models[name])).encode()) if _is_there(models, name) else (404, b"")
    name, _, rest = route.partition("/resolve/")
    file = models[name] / unquote(rest.partition("/")[2]) if _is_there(models, name) else Path("none")
    return (200, file.read_bytes()) if file.is_file() else (404, b"")


def _is_there(models: dict[str, Path], name: str) -> bool:
    return name in models and models[name].is_dir()


def _info(name: str, folder: Path) -> dict[str, Any]:
    files = [{"rfilename": file["path"], "size": file["size"], "blobId": file["oid"]} for file in _tree(folder)]
    return {"id": name, "modelId": name, "sha": COMMIT, "siblings": files}


def _tree(folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
