"""Starting a flow from the command line: a Prefect server that is lacking, or silent, is the user's to mend."""

from collections.abc import Callable
from typing import Any

from flows.guard import start_guard
from ghost.errors import SettingsError

NO_ANSWER = "Failed to reach API"


def through_prefect(start: Callable[[], Any]) -> Any:
    """What `start` returns, which imports a flow and calls it. SettingsError where no server serves it."""
    from prefect.client.base import ServerType, determine_server_type
    from prefect.exceptions import PrefectHTTPStatusError

    server = determine_server_type()
    if server == ServerType.UNCONFIGURED:
        raise SettingsError(
            "there is no Prefect server to use: PREFECT_API_URL is not set, and PREFECT_SERVER_ALLOW_EPHEMERAL_MODE or "
            "the Prefect profile forbids an embedded one; set the first to a server's address, or the second to true"
        )
    try:
        if server == ServerType.EPHEMERAL:
            _start_embedded()
        return start()
    except PrefectHTTPStatusError as error:
        answer = f"{error.response.status_code} {error.response.reason_phrase}"
        raise SettingsError(
            f"the Prefect server answered {answer}; check PREFECT_API_URL, PREFECT_API_KEY and PREFECT_API_AUTH_STRING"
        ) from None
    except RuntimeError as error:
        if NO_ANSWER not in str(error):
            raise
        embedded = "the same command starts it again and continues from here"
        served = "start it, or unset PREFECT_API_URL for an embedded one"
        remedy = embedded if server == ServerType.EPHEMERAL else served
        raise SettingsError(f"the Prefect server does not answer ({error}); {remedy}") from None


def _start_embedded() -> None:
    """Prefect would start it too, at the first request; by then the guard has to be there."""
    start_guard()
    from tasks.embedded_server import EmbeddedServer

    EmbeddedServer().start()
