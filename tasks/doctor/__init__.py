"""Is everything in place for a run: each part of the machine and each service, tried."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from artifacts.redaction import redact
from tasks.doctor.check import Check, problem
from tasks.doctor.machine import device, disk, kernels, packages, python
from tasks.doctor.services import credentials, hub, prefect_api, store_access

__all__ = ["Check", "examine"]


def examine(store: str | None) -> list[dict[str, str]]:
    """Every check's name, status (ok, warning or problem), what was found, and what to do. Nothing is raised.

    `store` is the one to try, by writing an object to it and deleting that; without it none is tried.
    """
    checks: dict[str, Callable[[], list[Check]]] = {
        "python": python,
        "packages": packages,
        "device": device,
        "kernels": kernels,
        "disk": partial(disk, store),
        "store": partial(store_access, store),
        "credentials": partial(credentials, store),
        "prefect": prefect_api,
        "hub": hub,
    }
    found = [check for name, make in checks.items() for check in _tried(name, make)]
    return [{field: redact(text) for field, text in asdict(check).items()} for check in found]


def _tried(name: str, make: Callable[[], list[Check]]) -> list[Check]:
    """A check that fails by itself is a finding too, and the others go on."""
    try:
        return make()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return [problem(name, f"could not be checked ({reason})", "mend that, or tell ghost's authors")]
