"""A user's mistake ends a run as Failed, with the line that says what to mend as the state's message."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from prefect.logging import get_run_logger
from prefect.states import Failed

from artifacts.errors import ArtifactError
from artifacts.redaction import redact
from ghost.errors import GhostError
from ghost.out_of_memory import out_of_memory_in_one_line


def failing_in_one_line(function: Callable[..., Any]) -> Callable[..., Any]:
    """For a flow's function: GhostError and ArtifactError become the state, and are still raised to a direct caller."""

    @wraps(function)
    def ended(*values: Any, **named: Any) -> Any:
        try:
            with out_of_memory_in_one_line():
                return function(*values, **named)
        except (GhostError, ArtifactError) as error:
            message = redact(" ".join(str(error).split()))
            get_run_logger().error(message)
            return Failed(message=message, data=error)

    return ended
