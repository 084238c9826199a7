"""Settings of a run. Each field is declared here once, with its help; the command line and the flow both read it."""

import os
import re
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from ghost.errors import SettingsError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class RunSettings(BaseModel):
    """Everything that a user may choose about a run. Impossible values are refused when the object is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    model: str = "demo"
    """Model to prune: `demo`, a folder or s3://bucket/prefix (transformers or native state-spaces format), or a hub
    name."""
    sparsity: float = 0.5
    """Share of the state channels to drop, between 0 and 1."""
    energy: float | None = Field(default=None, gt=0, lt=1)
    """For balanced, in place of sparsity: keep as few directions as carry this share of every layer's squared Hankel
    singular values on the dense model, such as 0.999."""
    method: str = "ghost"
    """What chooses the channels that go: ghost, ghost-mean, ghost-joint, rrqr, sparsessm, taylor, taylor2, magnitude or
    random; balanced drops directions, shedder whole layers, wanda and sparsegpt single weights. docs/methods.md says
    what each one is."""
    calibration: str = "stdlib"
    """Calibration text: `stdlib`, a .txt, .jsonl or .parquet path (`path:column`), or
    `hf:dataset:config:split:column`."""
    evaluation: str = "stdlib"
    """Evaluation text, in the same forms. `stdlib` never overlaps with the calibration text of that name."""
    samples: int = Field(default=128, ge=1)
    """Calibration windows."""
    length: int = Field(default=128, ge=2)
    """Tokens of a calibration window."""
    window: int = Field(default=2048, ge=2)
    """Tokens of an evaluation window; windows don't overlap."""
    policy: Literal["balanced", "pooled"] = "balanced"
    """`balanced` keeps as many channels in every group; `pooled` ranks a layer's groups together, as the paper does."""
    round_to: int = Field(default=16, ge=1)
    """Kept channels are rounded to a multiple of this; kernels like 8 and more."""
    soft: bool = False
    """Zero the dropped channels instead of cutting them out: same size, for comparisons."""
    sequential: bool = True
    """Score each layer on activations that went through the pruned layers before it; otherwise on the dense model."""
    recovery: Literal["none", "lstsq", "fit", "local"] = "none"
    """Correct each pruned layer towards the dense one's output: `lstsq` fits out_proj by ridge regression (no
    gradients), `fit` first fits what makes B and C by Adam, `local` takes some Adam steps on all of the layer's own
    tensors after lstsq."""
    device: str = "auto"
    """Device to compute on: cpu, cuda or cuda:N; auto takes $GHOST_DEVICE, else the first GPU, else the CPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision to compute in: auto takes float32 on a CPU and bfloat16 on a GPU. Statistics are float64 anyway."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the calibration sample and of the method `random`."""
    tokenizer: str | None = None
    """Tokenizer folder or hub name, for a model folder that has none (native ones)."""
    store: str = Field(default="auto", validate_default=True)
    """Folder or s3://bucket/prefix that keeps the artifacts of all runs; auto takes $GHOST_STORE, else the folder
    ghost-runs. A run that is started again continues from it."""
    out: str | None = None
    """Folder or s3://bucket/prefix to publish the finished checkpoint to; without it the checkpoint stays in the
    store."""
    max_perplexity: float | None = Field(default=None, gt=0)
    """Quality gate: a pruned model of higher perplexity stays in the store, is not published, and the run fails."""
    max_perplexity_rise: float | None = Field(default=None, gt=0)
    """Quality gate on the rise of perplexity over the dense model, as a share: 0.1 is ten percent."""
    evaluation_timeout: float = Field(default=21600.0, gt=0)
    """Seconds after which an evaluation is taken to hang and is ended; the pruned checkpoint is stored by then."""
    tasks: str = ""
    """lm-eval tasks that the dense and the pruned model are evaluated on, as for `ghost eval`: NAME,NAME or `default`;
    local_wikitext:FILE and local_lambada:FILE need no network."""
    limit: int | None = Field(default=None, ge=1)
    """Documents of each task, for a quick look; all of them without it."""
    allow_code: bool = False
    """Let tasks such as humaneval run the code that a model writes."""
    max_task_loss: float | None = Field(default=None, gt=0)
    """Quality gate on each task's main metric: how far it may fall, 0.02 is two points of accuracy; of a perplexity,
    how far it may rise, as a share."""
    recipe: str | None = None
    """Name and version of the recipe that asked for this run, noted beside the published checkpoint."""

    @field_validator("store")
    @classmethod
    def _store_of_the_environment(cls, store: str) -> str:
        return (os.environ.get("GHOST_STORE") or "ghost-runs") if store == "auto" else store

    @field_validator("sparsity")
    @classmethod
    def _open_interval(cls, sparsity: float) -> float:
        if not 0 < sparsity < 1:
            raise ValueError(f"{sparsity} is outside (0, 1); give the share of channels to drop, such as 0.5")
        return sparsity

    @field_validator("recovery")
    @classmethod
    def _windows_to_hold_back(cls, recovery: str, info: ValidationInfo) -> str:
        if recovery != "none" and info.data.get("samples") == 1:
            raise ValueError(f"{recovery} holds calibration windows back and samples is 1; give --samples 2 or more")
        return recovery

    @field_validator("max_task_loss")
    @classmethod
    def _tasks_to_lose_on(cls, limit: float | None, info: ValidationInfo) -> float | None:
        if limit is not None and not info.data.get("tasks", "").strip(" ,"):
            raise ValueError(f"{limit:g} limits what tasks lose, and tasks is not given; give --tasks, such as default")
        return limit

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        return known_device(device)


def known_device(device: str) -> str:
    """The name of a device as it is. ValueError for any other word."""
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?", device):
        raise ValueError(f"{device!r} is not a device; give auto, cpu, cuda or cuda:N")
    return device


def make_settings(**fields: object) -> RunSettings:
    """RunSettings, with the first bad field as a SettingsError of one line."""
    try:
        return RunSettings.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        value = "" if not field or repr(first["input"]) in message else f" (got {first['input']!r})"
        raise SettingsError(f"{field}: {message}{value}" if field else message) from None


def environment_device() -> str:
    """$GHOST_DEVICE, `auto` where it is not set. SettingsError, in the words of the option, where it is no device."""
    try:
        return known_device(os.environ.get("GHOST_DEVICE") or "auto")
    except ValueError as error:
        raise SettingsError(f"GHOST_DEVICE: {error}") from None


def resolve_device(device: str) -> torch.device:
    """`auto` is $GHOST_DEVICE, else the first GPU where there is one. SettingsError for a GPU that is not there."""
    if device == "auto":
        device = environment_device()
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"device {device} asked for, but {torch.cuda.device_count()} CUDA devices are here; try --device cpu"
        )
    return chosen


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is float32 on a CPU, bfloat16 on a GPU."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return DTYPES[dtype]
