"""Starting a flow from the command line: a Prefect server that does not answer is the user's to mend."""

import os
from collections.abc import Callable
from typing import Any

from flows.guard import start_guard
from ghost.errors import SettingsError

NO_SERVER = ("Failed to reach API", "Timed out while attempting to connect to ephemeral")


def through_prefect(start: Callable[[], Any]) -> Any:
    """What `start` returns, which imports a flow and calls it. SettingsError where no server serves it."""
    if not os.environ.get("PREFECT_API_URL"):
        start_guard()
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        return start()
    except PrefectHTTPStatusError as error:
        answer = f"{error.response.status_code} {error.response.reason_phrase}"
        raise SettingsError(
            f"the Prefect server answered {answer}; check PREFECT_API_URL, PREFECT_API_KEY and PREFECT_API_AUTH_STRING"
        ) from None
    except RuntimeError as error:
        if not any(words in str(error) for words in NO_SERVER):
            raise
        raise SettingsError(
            f"the Prefect server does not answer ({error}); start it, or unset PREFECT_API_URL for an embedded one"
        ) from None
