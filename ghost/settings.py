"""Settings of a run: the sum of its parts."""

import os
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ghost.calibration.settings import Calibration
from ghost.config import DEVICE, Settings, check_device
from ghost.errors import SettingsError
from ghost.evaluation.settings import Evaluation
from ghost.pruning import Pruning


class Source(Settings):
    """Model: what is pruned."""

    model: str = "demo"
    """Model to prune: `demo`, a folder or s3://bucket/prefix (transformers or native state-spaces format), or a hub
    name."""
    tokenizer: str | None = None
    """Tokenizer folder or hub name in place of the model folder's own; native folders have none."""


class Gate(Settings):
    """Quality gate: limits that a pruned model has to keep to be published."""

    max_perplexity: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Quality gate: a pruned model of higher perplexity stays in the store, is not published, and the run fails."""
    max_perplexity_rise: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Quality gate on the rise of perplexity over the dense model, as a share: 0.1 is ten percent."""
    max_task_loss: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Quality gate on each task's main metric: how far it may fall, 0.02 is two points of accuracy; of a perplexity,
    how far it may rise, as a share."""

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {name: limit for name in Gate.model_fields if (limit := getattr(self, name)) is not None}


class Place(Settings):
    """Place: where, and how patiently, a run computes and keeps what it makes."""

    device: str = Field(default="auto", json_schema_extra={"pattern": f"^({DEVICE})$"})
    """Device to compute on: cpu, cuda or cuda:N; auto takes $GHOST_DEVICE, else the first GPU, else the CPU."""
    processes: int = Field(default=1, ge=0, le=64)
    """Processes to compute with, each on its share of the texts; 0 is one per GPU. The results are the same to the last
    byte for any number of them with as many threads each."""
    store: str = Field(default="auto", validate_default=True)
    """Folder or s3://bucket/prefix that keeps the artifacts of all runs; auto takes $GHOST_STORE, else the folder
    ghost-runs. A run that is started again continues from it."""
    evaluation_timeout: float = Field(default=21600.0, gt=0)
    """Seconds after which an evaluation is taken to hang and is ended; the pruned checkpoint is stored by then."""

    @field_validator("store")
    @classmethod
    def _store_of_the_environment(cls, store: str) -> str:
        return (os.environ.get("GHOST_STORE") or "ghost-runs") if store == "auto" else store

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        return check_device(device)


class Publication(Settings):
    """Publication: where the finished checkpoint goes."""

    out: str | None = None
    """Folder or s3://bucket/prefix to publish the finished checkpoint to; without it the checkpoint stays in the
    store."""
    format: Literal["hf", "native"] = "hf"
    """Format of the finished checkpoint: `hf` is transformers', `native` the state-spaces one that mamba_ssm loads, for
    plain Mamba2."""
    recipe: str | None = None
    """Name and version of the recipe that asked for this run, noted beside the published checkpoint."""


class RunSettings(Publication, Place, Gate, Evaluation, Calibration, Pruning, Source):
    """Everything that a user may choose about a run. Impossible values are refused when the object is made."""

    @model_validator(mode="after")
    def _parts_that_agree(self) -> Self:
        if self.recovery != "none" and self.samples == 1:
            raise SettingsError(
                f"recovery: {self.recovery} holds calibration windows back and samples is 1; give --samples 2 or more"
            )
        if self.max_task_loss is not None and not self.tasks.strip(" ,"):
            raise SettingsError(
                f"max_task_loss: {self.max_task_loss:g} limits what tasks lose, and tasks is not given; give --tasks, "
                "such as default"
            )
        return self


PARTS = (Source, Pruning, Calibration, Evaluation, Gate, Place, Publication)
"""In the order that people read them in."""
