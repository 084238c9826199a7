"""What happens to a run, as Prefect events that automations act on. They are sent by the way: no run waits for one, or
fails for its sake. Outside of a flow there is nobody to tell.

An event's id is made of what it says, so that a server counts it once however often, or by whom, it is sent.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.run.open import Run
from tasks.stored_run import StoredRun
from tasks.wording import display_name

PUBLISHED, GATE_FAILED, RESUMED = "ghost.checkpoint.published", "ghost.gate.failed", "ghost.run.resumed"
FIGURES = ("perplexity", "d_state", "state_bytes", "parameters")
"""Of an evaluation's results, dense and pruned."""
DIGEST_DIGITS = 16
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "ghost")

Inputs = ParamSpec("Inputs")


def _by_the_way(send: Callable[Inputs, None]) -> Callable[Inputs, None]:
    @wraps(send)
    def sent(*values: Inputs.args, **named: Inputs.kwargs) -> None:
        if not flow_run.id:
            return
        try:
            send(*values, **named)
        except Exception as error:  # whatever it is, the run is worth more than the news of it
            get_run_logger().warning("an event could not be sent: %s: %s", type(error).__name__, error)

    return sent


@_by_the_way
def checkpoint_published(run: Run, place: str, results: Mapping[str, Any]) -> None:
    """The checkpoint has appeared, whole, at `place`."""
    own = {"prefect.resource.id": f"ghost.checkpoint.{run.keys.run_id}", "prefect.resource.name": place}
    related = [{"prefect.resource.role": "run", **_labels(run)}, _model(run)]
    payload = {"place": place, "run_id": run.keys.run_id} | _figures(results)
    _emit(PUBLISHED, _labels(run) | own, related, payload, place)


@_by_the_way
def gate_failed(run: Run, exceeded: Sequence[str], results: Mapping[str, Any]) -> None:
    """The quality gate has stopped the run; `exceeded` are the limits in words."""
    kept = run.store.locate(run.keys.checkpoint)
    payload = {"exceeded": list(exceeded), "kept": kept, "run_id": run.keys.run_id} | _figures(results)
    _emit(GATE_FAILED, _labels(run), [_model(run)], payload, *exceeded)


@_by_the_way
def run_resumed(run: Run) -> None:
    """The store has a part of this very run. One that it has to the end is not resumed: it is there.

    To be called before this start writes anything.
    """
    if not run.store.exists(run.keys.run) or run.store.exists(run.keys.manifest):
        return
    done = len(StoredRun(run.store, run.keys).layers)
    payload = {"layers_done": done, "layers": len(run.source.mixers), "run_id": run.keys.run_id}
    _emit(RESUMED, _labels(run), [_model(run)], payload, flow_run.id, flow_run.run_count)


def _labels(run: Run) -> dict[str, str]:
    """The run as a resource. A trigger can match labels, never a payload: what one would choose by is here."""
    settings, model = run.settings, display_name(run.settings.model)
    chosen = {"ghost.model": model, "ghost.method": settings.method, "ghost.sparsity": f"{settings.sparsity:g}"}
    recipe = {"ghost.recipe": settings.recipe} if settings.recipe else {}
    name = f"{model}: {settings.method} at {settings.sparsity:g}"
    return {"prefect.resource.id": f"ghost.run.{run.keys.run_id}", "prefect.resource.name": name} | chosen | recipe


def _model(run: Run) -> dict[str, str]:
    """The dense model, by its content: the same under every name."""
    identity = f"ghost.model.{run.source.digest[:DIGEST_DIGITS]}"
    name = display_name(run.settings.model)
    return {"prefect.resource.id": identity, "prefect.resource.role": "model", "prefect.resource.name": name}


def _figures(results: Mapping[str, Any]) -> dict[str, Any]:
    return {name: results[name] for name in FIGURES}


def _emit(
    event: str, resource: dict[str, str], related: list[dict[str, str]], payload: dict[str, Any], *once: object
) -> None:
    """`once` tells this event from others of its name about the same run."""
    identity = uuid.uuid5(NAMESPACE, "\n".join(map(str, (event, payload["run_id"], *once))))
    emit_event(event, resource, related=related, payload=payload, id=identity)
