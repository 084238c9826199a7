"""The runs that a recipe has already asked for, and the next one. Prefect's idempotency keys are the only memory: of
two watches that want the same attempt of the same checkpoint, one makes the run and the other is given it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from ghost.errors import SettingsError
from tasks.watch.recipe import Recipe

GATE = "quality gate: "
"""How the message of a run that the quality gate stopped begins, whatever Prefect puts before it."""
OCCUPIED = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
"""States in which a process should be at work, so that silence means it is dead."""
HEARTBEAT = "prefect.flow-run.heartbeat"


@dataclass(frozen=True)
class Decision:
    """What becomes of a checkpoint that is not published yet."""

    action: Literal["trigger", "skip", "give up"]
    why: str
    attempt: int = 0
    """The attempt to trigger, from 1."""


def attempt_key(fingerprint: str, recipe: Recipe, attempt: int) -> str:
    """The idempotency key of one attempt."""
    return f"ghost-watch/{fingerprint}/{recipe.label}/{attempt}"


def past_attempts(fingerprint: str, recipe: Recipe) -> list[FlowRun]:
    """The runs of this checkpoint and recipe, first attempt first; the silently dead are marked Crashed."""
    keys = [attempt_key(fingerprint, recipe, number + 1) for number in range(recipe.max_attempts)]
    wanted = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=wanted)
        known = sorted(runs, key=lambda run: keys.index(str(run.idempotency_key)))
        return [_buried(client, run, recipe.stale_hours) for run in known]


def decide(runs: list[FlowRun], max_attempts: int) -> Decision:
    """What to do, given the attempts so far, none of which has published anything."""
    for run in runs:
        if not _state(run).is_final():
            doing = "waiting for its turn" if _state(run).is_scheduled() else "being compressed"
            return Decision("skip", f"{doing}: run {run.name} is {str(_state(run).name).lower()}")
    if not runs:
        return Decision("trigger", "new", attempt=1)
    message = _message(runs[-1])
    if _state(runs[-1]).is_failed() and GATE in message:
        return Decision("give up", message[message.index(GATE) :])
    if len(runs) >= max_attempts:
        return Decision("give up", f"{len(runs)} of {max_attempts} attempts failed, the last with: {message}")
    number = len(runs) + 1
    return Decision("trigger", f"attempt {number} of {max_attempts}, the one before: {message}", attempt=number)


def trigger(
    deployment: str, parameters: dict[str, Any], key: str, tags: list[str], queue: str | None = None
) -> FlowRun:
    """The run of this key: made now, or by whoever was faster. SettingsError where there is no such deployment.

    `queue` is a work queue of the deployment's pool, the deployment's own by default.
    """
    try:
        made: Any = run_deployment(
            deployment, parameters=parameters, timeout=0, as_subflow=False,
            idempotency_key=key, tags=tags, work_queue_name=queue,
        )  # fmt: skip
    except ObjectNotFound:
        raise SettingsError(
            f"deployment {deployment} is not on this Prefect server; run `prefect --no-prompt deploy --all` first"
        ) from None
    return made


def _state(run: FlowRun) -> Any:
    """Every run that was made through a deployment has one."""
    return run.state


def _message(run: FlowRun) -> str:
    state = _state(run)
    if state.is_completed():
        return "it completed, yet nothing is published there"
    return " ".join((state.message or f"it is {state.name}").split())


def _buried(client: SyncPrefectClient, run: FlowRun, stale_hours: float) -> FlowRun:
    """The run; as Crashed where it should be at work and has given no sign of life for so long.

    A worker that is ended by SIGTERM takes its runs along without telling the server.
    """
    if _state(run).type not in OCCUPIED:
        return run
    silence = now() - _last_sign(client, run)
    if silence < timedelta(hours=stale_hours):
        return run
    message = f"no sign of life for {silence.total_seconds() / 3600:.1f} hours, so it was taken for dead"
    client.set_flow_run_state(run.id, Crashed(message=message))  # not by force, so that its place in the queue is freed
    return client.read_flow_run(run.id)


def now() -> datetime:
    """The time by which silence is measured; tests have their own."""
    return datetime.now(UTC)


def _last_sign(client: SyncPrefectClient, run: FlowRun) -> datetime:
    """When the run entered its state, or sent its last heartbeat, which runs do every three minutes."""
    of_run = EventResourceFilter(id=[f"prefect.flow-run.{run.id}"])
    heartbeats = EventFilter(event=EventNameFilter(name=[HEARTBEAT]), resource=of_run)
    events = client.read_events(heartbeats, limit=1).events
    return max([_state(run).timestamp, *(event.occurred for event in events)])
