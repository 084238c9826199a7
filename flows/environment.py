"""What a command sees to in its environment before Prefect and its HTTP clients are imported, which read it then."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ghost.errors import SettingsError

PREFECT_DEFAULTS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
}
"""Each only where the user has not set it: Prefect's own log lines would cut through the progress bar, and its default
start-up timeout is too short for a small machine."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def prepare_environment() -> None:
    """Set what this process and those it starts need. SettingsError where there is no home folder to write to."""
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.update(loopback_past_proxies(os.environ))
    _check_home()


def loopback_past_proxies(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """NO_PROXY with the loopback in it, where there is a proxy: Prefect's server listens there, and no proxy sees it.

    What the user has excepted stays. The lower-case name goes before the other one where both are set.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in PROXIES):
        return
    names = [name for name in ("no_proxy", "NO_PROXY") if environment.get(name)] or ["no_proxy", "NO_PROXY"]
    for name in names:
        excepted = [host.strip() for host in environment.get(name, "").split(",") if host.strip()]
        if "*" not in excepted:
            yield name, ",".join([*excepted, *(host for host in LOOPBACK if host not in excepted)])


def _check_home() -> None:
    """A user without a home: neither HOME is set nor is there an entry in the password file, as in some containers."""
    try:
        Path.home()
    except RuntimeError:
        raise SettingsError(
            f"HOME is not set, and user {os.getuid()} has no home folder in the password file; set HOME to a folder "
            "that can be written to (PREFECT_HOME, GHOST_CACHE and HF_HOME may still lead elsewhere)"
        ) from None
