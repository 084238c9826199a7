"""Sources that are watched by a recipe, for tests against a real server."""

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from queue import Queue
from typing import Any

import yaml
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.events.filters import EventFilter, EventIDFilter
from prefect.states import Cancelled

from artifacts.publish import published
from flows.watch import ghost_watch
from tasks.watch.recipe import read_recipe
from tests.chaos import served_by
from tests.hub_stub import serving
from tests.pipeline import ROOT, client, prefect

SIZES = {"samples": 8, "length": 64, "window": 128, "round_to": 8}


@dataclass
class House:
    """A server with its deployments, models to drop, texts for the recipes, and the store."""

    api: str
    folder: Path

    @contextmanager
    def watched(self, name: str, **fields: Any) -> Iterator["Watched"]:
        """A source of its own with a recipe of this name."""
        texts = {kind: str(self.folder / f"{kind}.txt") for kind in ("calibration", "evaluation")}
        folder = self.folder / name
        (folder / "new").mkdir(parents=True)
        settings = SIZES | texts | {"store": str(self.folder / "store")} | fields.pop("settings", {})
        places = {"source": str(folder / "new"), "publish": str(folder / "pruned")}
        recipe = {"name": name, **places, "settings": settings, **fields}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        with served_by(self.api):
            yield Watched(self, folder)

    def artifacts(self) -> dict[str, str]:
        """What Prefect shows, by key."""
        with client(self.api) as opened:
            return {str(artifact.key): str(artifact.data) for artifact in opened.read_artifacts()}


@dataclass
class Watched:
    """A source folder `new`, a folder `pruned` to publish to, and a recipe.yaml."""

    house: House
    folder: Path

    @property
    def recipe(self) -> str:
        return str(self.folder / "recipe.yaml")

    def drop(self, model: str, path: str, *, but: str = "") -> None:
        shutil.copytree(self.house.folder / model, self.folder / "new" / path, ignore=shutil.ignore_patterns(but))

    def look(self, **parameters: Any) -> dict[str, Any]:
        return ghost_watch(self.recipe, **{"settle": 0.0} | parameters)

    def runs(self) -> list[FlowRun]:
        """The runs that looks with this recipe have made, in their order."""
        tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=["ghost-watch", read_recipe(self.recipe).label]))
        with client(self.house.api) as opened:
            return sorted(opened.read_flow_runs(flow_run_filter=tagged), key=lambda run: str(run.created))

    def published(self) -> list[str]:
        """The names of the checkpoints that have a manifest and are whole."""
        folders = sorted((self.folder / "pruned").glob("*")) if (self.folder / "pruned").is_dir() else []
        return [folder.name.rpartition(f"-{self.folder.name}-")[0] for folder in folders if published(str(folder))]

    def put(self, run: FlowRun, state: State) -> None:
        """Put a run into a state, in place of the worker."""
        with client(self.house.api) as opened:
            opened.set_flow_run_state(run.id, state, force=True)

    def beat(self, run: FlowRun) -> None:
        """A heartbeat of the run: as the run's own process sends them, but on order."""
        event = {
            "id": str(uuid.uuid4()),
            "event": "prefect.flow-run.heartbeat",
            "occurred": datetime.now(UTC).isoformat(),
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
            "related": [
                {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in run.tags
            ],
        }
        with client(self.house.api) as opened:
            opened._client.post("/events", json=[event]).raise_for_status()
            sent = EventFilter(id=EventIDFilter(id=[uuid.UUID(event["id"])]))
            wait_until(lambda: opened.read_events(sent, limit=1).events)  # a server writes events every few seconds

    def abandon(self) -> None:
        """End what no worker took, so that none will."""
        for run in self.runs():
            self.put(run, Cancelled())


@contextmanager
def automated(house: House, notify: str = "http://127.0.0.1:9/", silence: int = 600) -> Iterator[None]:
    """The automations of deploy/automations.yaml, by the commands of docs/operations.md, with messages to `notify`, and
    runs taken for dead after so many seconds of `silence`, 10 at least."""
    hook = {"name": "ghost", "url": notify, "json_data": {"text": "{{subject}}: {{body}}"}}
    with served_by(house.api):
        made = CustomWebhookNotificationBlock.model_validate(hook).save("ghost-alerts", overwrite=True)
    file, text = house.folder / "automations.yaml", (ROOT / "deploy/automations.yaml").read_text()
    file.write_text(text.replace("NOTIFICATION_BLOCK", str(made)).replace("within: 600", f"within: {silence}"))
    prefect(house.api, "automation", "create", "--from-file", str(file))
    try:
        yield
    finally:
        for name in ("ghost-silent-runs", "ghost-failed-gates"):
            prefect(house.api, "automation", "delete", name)


@contextmanager
def listening() -> Iterator[tuple[str, "Queue[str]"]]:
    """An HTTP address, and what is posted to it."""
    posted: Queue[str] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

    with serving(Handler) as address:
        yield f"{address}/", posted


@contextmanager
def scheduled(watched: Watched) -> Iterator[None]:
    """The deployed watch looks with this recipe every few seconds."""
    often, parameters = IntervalSchedule(interval=timedelta(seconds=8)), {"recipe": watched.recipe, "settle": 0.5}
    with client(watched.house.api) as opened:
        deployment = opened.read_deployment_by_name("ghost-watch/nightly").id
        (made,) = opened.create_deployment_schedules(deployment, [(often, True)], parameters=parameters)
        yield
        opened.delete_deployment_schedule(deployment, made.id)


def wait_until(met: Callable[[], Any], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(1)


def reasons(report: dict[str, Any], action: str) -> dict[str, str]:
    return {row["checkpoint"]: row["why"] for row in report[action]}
