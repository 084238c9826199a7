"""One line of the doctor's."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """What was looked at, whether it will do, what was found, and what to do about it."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Check:
    """It will do."""
    return Check(name, "ok", found)


def warning(name: str, found: str, remedy: str) -> Check:
    """Runs work, but slower, or not all of them."""
    return Check(name, "warning", found, remedy)


def problem(name: str, found: str, remedy: str) -> Check:
    """Runs will fail."""
    return Check(name, "problem", found, remedy)
