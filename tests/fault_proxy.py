"""An HTTP proxy that stands before a storage endpoint and does to chosen requests what networks and services do."""

import http.client
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

ALWAYS = 1 << 30
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass
class Fault:
    """What happens to requests of this method whose decoded path and query hold `match`: to `times` of them, after
    `skip` that pass."""

    action: Callable[["Exchange"], None]
    method: str = ""
    match: str = ""
    times: int = 1
    skip: int = 0
    seen: int = field(default=0, init=False)

    def strikes(self, method: str, path: str) -> bool:
        """Whether this request is one of them; counts it."""
        if (self.method and self.method != method) or self.match not in path:
            return False
        self.seen += 1
        return self.skip < self.seen <= self.skip + self.times


class FaultProxy:
    """Passes requests on to `upstream`, unless one of `faults` strikes. `requests` counts those that came in."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.closing = threading.Event()
        self.requests = 0
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def inject(self, *faults: Fault) -> None:
        """These instead of the ones before, and count from 0."""
        with self._lock:
            self._faults, self.requests = list(faults), 0

    def action_for(self, method: str, path: str) -> Callable[["Exchange"], None]:
        with self._lock:
            self.requests += 1
            struck = [fault for fault in self._faults if fault.strikes(method, unquote(path))]
        return struck[0].action if struck else passed_on


class Exchange(BaseHTTPRequestHandler):
    """One request, its answer from upstream, and the ways to send that."""

    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def handle_one(self) -> None:
        if self.proxy.closing.is_set():  # over a connection that was kept open
            return self.reset()
        self.proxy.action_for(self.command, self.path)(self)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

    def body(self) -> bytes:
        return self.rfile.read(self.body_length())

    def body_length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer from upstream."""
        connection = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        try:
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            self.announced = int(answer.getheader("Content-Length") or 0)
            return answer.status, headers, answer.read()
        finally:
            connection.close()

    def answer(self, status: int, headers: dict[str, str], data: bytes, length: int | None = None) -> None:
        """Send all of it, under a Content-Length of `length` where that is to be another than that of `data`."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        own = self.announced if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(own if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    announced = 0

    def reset(self) -> None:
        """Close at once, so that the other side gets a reset (RST)."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests look at what the client does."""


def passed_on(exchange: Exchange) -> None:
    exchange.answer(*exchange.forward(exchange.body()))


def error(status: int, code: str) -> Callable[[Exchange], None]:
    """An S3 error instead of an answer. The message in it is a secret that nobody may repeat."""

    def act(exchange: Exchange) -> None:
        exchange.body()
        text = f"<Error><Code>{code}</Code><Message>body-secret\nX-Amz-Signature=presigned-secret</Message></Error>"
        exchange.answer(status, {"Content-Type": "application/xml"}, text.encode())

    return act


def dropped(exchange: Exchange) -> None:
    """The connection is reset before the request got anywhere."""
    exchange.body()
    exchange.reset()


def dropped_in_the_middle(exchange: Exchange) -> None:
    """The connection is reset after half of the request's body."""
    exchange.rfile.read(exchange.body_length() // 2)
    exchange.reset()


def unanswered(exchange: Exchange) -> None:
    """The request is carried out, and then the connection is reset instead of an answer."""
    exchange.forward(exchange.body())
    exchange.reset()


def silent(exchange: Exchange) -> None:
    """Nothing ever comes back, and nothing is passed on."""
    exchange.body()
    exchange.proxy.closing.wait()
    exchange.close_connection = True


def reset(exchange: Exchange) -> None:
    """Half of the answer's body, then a reset."""
    _half(exchange)
    exchange.reset()


def truncated(exchange: Exchange) -> None:
    """Half of the answer's body under the whole one's Content-Length, then the end of the connection."""
    _half(exchange)
    exchange.close_connection = True


def stalled(exchange: Exchange) -> None:
    """Half of the answer's body, then nothing more."""
    _half(exchange)
    exchange.proxy.closing.wait()
    exchange.close_connection = True


def shortened(exchange: Exchange) -> None:
    """Half of the answer's body as if it were the whole: status and Content-Length look right."""
    status, headers, data = exchange.forward(exchange.body())
    exchange.answer(status, headers, data[: len(data) // 2])


def flipped(exchange: Exchange) -> None:
    """The whole answer with one bit of its body changed."""
    status, headers, data = exchange.forward(exchange.body())
    exchange.answer(status, headers, flip(data))


def flipped_upload(exchange: Exchange) -> None:
    """The request reaches the storage with one bit of its body changed, and is answered as if all were well."""
    exchange.answer(*exchange.forward(flip(exchange.body())))


def with_headers(change: Callable[[str], str | None], then: Callable[[bytes], bytes] = bytes) -> Callable[..., None]:
    """The whole answer, its headers' names and its body as these make them; None leaves a header out."""

    def act(exchange: Exchange) -> None:
        status, headers, data = exchange.forward(exchange.body())
        changed = {name: change(name) for name in headers}
        exchange.answer(status, {new: headers[old] for old, new in changed.items() if new is not None}, then(data))

    return act


def no_metadata(name: str) -> str | None:
    """For `with_headers`: what was stored beside an object is dropped."""
    return None if name.lower().startswith("x-amz-meta-") else name


def _half(exchange: Exchange) -> None:
    status, headers, data = exchange.forward(exchange.body())
    exchange.answer(status, headers, data[: len(data) // 2], len(data))


def flip(data: bytes) -> bytes:
    """One bit in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :] if data else data


@contextmanager
def fault_proxy(upstream: str) -> Iterator[tuple[str, FaultProxy]]:
    """A proxy on a free port before the endpoint `upstream`, for as long as the context lasts, and its URL."""
    proxy = FaultProxy(upstream)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Exchange,), {"proxy": proxy}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", proxy
    finally:
        proxy.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
