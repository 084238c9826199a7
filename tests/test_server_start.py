"""A Prefect server that can't be had is told in one line, with the cause and the remedy."""

import os
import pwd
import re
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    temporary_settings,
)

from flows.environment import loopback_past_proxies
from tasks import embedded_server
from tasks.doctor.services import prefect_api
from tasks.embedded_server import EmbeddedServer
from tests.chaos import free_port, take_database

pytest_plugins = ["tests.refusals"]

Refused = Callable[..., str]
ELSEWHERE = "or set PREFECT_HOME to another folder"


def refused_with(settings: dict[Any, Any], refused: Refused) -> str:
    with temporary_settings(settings, restore_defaults=[PREFECT_API_URL]):
        return refused()


def newer(database: Path) -> None:
    """As a Prefect that is not there yet would leave it."""
    with closing(sqlite3.connect(database)) as opened:
        opened.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        opened.execute("INSERT INTO alembic_version VALUES ('f00dfeed0123')")
        opened.commit()


DATABASES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "of a newer Prefect": (newer, "Can't locate revision identified by 'f00dfeed0123'", f"move it away, {ELSEWHERE}"),
    "no database": (lambda path: path.write_text("{}" * 999), "file is not a database", f"move it away, {ELSEWHERE}"),
    "a folder": (Path.mkdir, "unable to open database file", f"let it be written to, {ELSEWHERE}"),
}


@pytest.mark.parametrize(("make", "why", "remedy"), DATABASES.values(), ids=DATABASES)
def test_a_database_that_does_not_serve_is_named(
    make: Callable[[Path], object], why: str, remedy: str, tmp_path: Path, refused: Refused
) -> None:
    make(database := tmp_path / "prefect.db")
    line = refused_with({PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{database}"}, refused)
    assert why in line and f"its database is {database}; " in line and remedy in line


def test_a_database_that_another_process_holds_is_not_waited_for(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_server, "LOCK_SECONDS", 0.1)
    database = tmp_path / "prefect.db"
    with closing(sqlite3.connect(database)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        line = refused_with({PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{database}"}, refused)
    assert f"(database is locked), its database is {database}; end the process that holds it, {ELSEWHERE}" in line


def test_a_server_that_ends_is_told_by_its_last_exception(refused: Refused) -> None:
    nobody = "postgresql+asyncpg://user:pw-0123@127.0.0.1:9/prefect"
    line = refused_with({PREFECT_API_DATABASE_CONNECTION_URL: nobody}, refused)
    assert "does not start (ConnectionRefusedError: " in line and "`prefect server start` shows more" in line
    assert "pw-0123" not in line


def test_doctor_starts_one_on_another_port_where_its_own_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        ports = [free_port(), other.getsockname()[1]]
        monkeypatch.setattr(embedded_server, "_free_port", ports.pop)
        take_database(Path(os.environ["PREFECT_HOME"]))
        with temporary_settings(restore_defaults=[PREFECT_API_URL]):
            [check] = prefect_api()
    assert not ports and check.status == "ok", check
    assert re.fullmatch(r"no PREFECT_API_URL: each run .+; one started in \d+\.\d s, and was stopped", check.found)


def test_doctor_tells_why_none_starts(tmp_path: Path) -> None:
    settings: dict[Any, Any] = {PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{tmp_path}/none/prefect.db"}
    with temporary_settings(settings, restore_defaults=[PREFECT_API_URL]):
        [check] = prefect_api()
    assert check.status == "problem" and "(unable to open database file)" in check.found
    assert check.remedy == f"let it be written to, {ELSEWHERE}"


def test_prefects_clients_find_the_server_that_ghost_started() -> None:
    server = EmbeddedServer()
    try:
        assert SubprocessASGIServer() is server
    finally:
        server.stop()


def test_an_embedded_server_that_is_not_allowed_is_not_started(refused: Refused) -> None:
    line = refused_with({PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}, refused)
    assert "PREFECT_API_URL is not set, and PREFECT_SERVER_ALLOW_EPHEMERAL_MODE" in line
    assert "set the first to a server's address, or the second to true" in line


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user that the password file does not know, as in containers with a user of their own."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    yield


@pytest.mark.parametrize("argv", [["run", "demo"], ["sweep", "demo"], ["doctor"]], ids=lambda argv: argv[0])
def test_without_a_home_folder_it_is_told_what_to_set(argv: list[str], homeless: None, command: Refused) -> None:
    line = command(*argv)
    assert "HOME is not set, and user " in line and "has no home folder in the password file; set HOME" in line
    assert "PREFECT_HOME, GHOST_CACHE and HF_HOME" in line


ALL = "127.0.0.1,localhost,::1"
ENVIRONMENTS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "no proxy": ({"NO_PROXY": "intra.net"}, {}),
    "a proxy": ({"HTTPS_PROXY": "http://proxy"}, {"NO_PROXY": ALL, "no_proxy": ALL}),
    "exceptions": (
        {"http_proxy": "x", "NO_PROXY": "intra.net, localhost"},
        {"NO_PROXY": "intra.net,localhost,127.0.0.1,::1"},
    ),
    "both": ({"ALL_PROXY": "x", "NO_PROXY": "a", "no_proxy": "b"}, {"NO_PROXY": f"a,{ALL}", "no_proxy": f"b,{ALL}"}),
    "all excepted": ({"HTTP_PROXY": "x", "NO_PROXY": "*"}, {}),
}


@pytest.mark.parametrize(("environment", "added"), ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_the_loopback_goes_past_proxies_and_what_the_user_excepted_stays(
    environment: dict[str, str], added: dict[str, str]
) -> None:
    assert dict(loopback_past_proxies(environment)) == added
