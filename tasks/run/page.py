"""The run page of Prefect's UI: artifacts of the running flow, sent through one client, for making one takes 45 ms."""

import json
import time
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

PROGRESS_SECONDS = 1.0
"""Nobody reads a progress bar more often; fast layers don't wait for it."""


class RunPage:
    """What the running flow shows. Where Prefect's server does not take it, a warning is logged and the run goes on."""

    def __init__(self) -> None:
        self._client = get_client(sync_client=True)
        self._progress: UUID | None = None
        self._updated = 0.0

    def table(self, key: str, rows: list[dict[str, Any]], description: str) -> None:
        """Show rows of the same columns under `key` (lower-case letters, digits and dashes)."""
        self._create("table", key, json.dumps(rows), description)

    def markdown(self, key: str, text: str, description: str) -> None:
        """Show a text under `key`."""
        self._create("markdown", key, text, description)

    def progress(self, key: str, percent: float, description: str) -> None:
        """Show or move the run's one progress bar."""
        if self._progress is None:
            self._progress = self._create("progress", key, percent, description)
        elif percent == 100 or time.monotonic() - self._updated >= PROGRESS_SECONDS:
            self._updated = time.monotonic()
            self._tell(self._client.update_artifact, self._progress, ArtifactUpdate(data=percent))

    def _create(self, kind: str, key: str, data: str | float, description: str) -> UUID | None:
        run_id = UUID(flow_run.id)
        artifact = ArtifactCreate(type=kind, key=key, data=data, description=description, flow_run_id=run_id)
        created = self._tell(self._client.create_artifact, artifact)
        return created and created.id

    def _tell(self, send: Any, *values: Any) -> Any:
        try:
            return send(*values)
        except httpx.HTTPError as error:
            get_run_logger().warning("the run page lacks something: %s: %s", type(error).__name__, error)
            return None
