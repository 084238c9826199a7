"""Prefect's embedded server, watched while it starts: why one can't is told in one line, and soon."""

import atexit
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from tempfile import TemporaryFile
from typing import IO

import httpx
import prefect
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    get_current_settings,
)
from sqlalchemy import make_url

from ghost.errors import SettingsError

ELSEWHERE = "or set PREFECT_HOME to another folder"
REMEDIES = (
    ("Can't locate revision", f"use the newer Prefect that made it, move it away, {ELSEWHERE}"),
    ("database is locked", f"end the process that holds it, {ELSEWHERE}"),
    ("not a database|malformed", f"move it away, {ELSEWHERE}"),
    ("disk is full|No space left", f"free some space, {ELSEWHERE}"),
    ("unable to open|readonly|read-only|disk I/O|Permission|Not a directory", f"let it be written to, {ELSEWHERE}"),
)
"""By what the server, or SQLite, says about its database."""
LOCK_SECONDS = 10.0
"""How long another process may hold the database's lock; a migration of another server's takes a few seconds."""
EXCEPTION = re.compile(r"(\w+\.)*\w*(Error|Exception)\b.*")


class EmbeddedServer(SubprocessASGIServer):
    """The server of this process; Prefect's clients use the first that was made.

    As Prefect (3.8.8) starts it by itself, nobody notices when it ends: it is waited for until the timeout, or started
    again without end, and its errors go between the lines of the progress bars.
    """

    def start(self, timeout: int | None = None) -> None:
        """Returns once the server answers. SettingsError with its last line and the remedy where it can't start.

        What has no remedy is tried once more: the server of another run may have migrated the same database, or taken
        the port, at the same moment.
        """
        if self.running:
            return
        _try_database()
        atexit.register(self.stop)
        seconds = timeout or PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
        why = self._launch(seconds)
        if why and not _remedy(why):
            why = self._launch(seconds)
        if why:
            raise _not_started(why)
        self.running = True

    def _launch(self, seconds: float) -> str | None:
        """Why the server ended; nothing once it answers. SettingsError where it does neither for so many seconds."""
        self.port = _free_port()
        with TemporaryFile() as said, httpx.Client(trust_env=False) as client:
            self.server_process = process = self._run_uvicorn(said)
            deadline = time.monotonic() + seconds
            while not _answers(client, self.api_url):
                if process.poll() is not None:
                    return _last_error(said)
                if time.monotonic() > deadline:
                    self.stop()
                    raise _too_slow(seconds)
                time.sleep(0.1)
        return None

    def _run_uvicorn(self, said: IO[bytes]) -> "subprocess.Popen[bytes]":
        """The process, as Prefect starts it, with its output in a file."""
        ephemeral = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        chosen = get_current_settings().to_environment_variables(exclude_unset=True)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "uvicorn", f"--app-dir={prefect.__module_path__.parent}",
             "--factory", "prefect.server.api.server:create_app", "--host=127.0.0.1", f"--port={self.port}",
             "--log-level=error", "--lifespan=on"],
            env=os.environ | ephemeral | chosen, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
        )  # fmt: skip


def _answers(client: httpx.Client, api: str) -> bool:
    try:
        return client.get(f"{api}/health").is_success
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _try_database() -> None:
    """A database that can't be written to is told before the server waits a minute for it."""
    url = make_url(PREFECT_API_DATABASE_CONNECTION_URL.value())
    if url.get_backend_name() != "sqlite" or not url.database or ":memory:" in url.database:
        return
    try:
        with closing(sqlite3.connect(url.database, timeout=LOCK_SECONDS)) as database:
            database.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise _not_started(str(error)) from None


def _last_error(said: IO[bytes]) -> str:
    """The last exception that the server wrote about, else its last line."""
    said.seek(0)
    lines = [line.strip() for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    exceptions = [line for line in lines if EXCEPTION.fullmatch(line)]
    return (exceptions or lines or ["it ended without a word"])[-1]


def _remedy(why: str) -> str | None:
    return next((remedy for pattern, remedy in REMEDIES if re.search(pattern, why)), None)


def _not_started(why: str) -> SettingsError:
    place = make_url(PREFECT_API_DATABASE_CONNECTION_URL.value()).database
    remedy = _remedy(why) or "`prefect server start` shows more, and `ghost doctor` whether the packages fit"
    return SettingsError(f"Prefect's embedded server does not start ({why}), its database is {place}; {remedy}")


def _too_slow(seconds: float) -> SettingsError:
    return SettingsError(
        f"Prefect's embedded server has not started within {seconds:g} s; give it longer with "
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or start one and set PREFECT_API_URL"
    )
