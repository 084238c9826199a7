"""What the parts of a run's settings have in common, and what device, precision and memory mean on this machine."""

import os
import re
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from ghost.errors import SettingsError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CONTROL_GROUP = Path("/sys/fs/cgroup")
DEVICE = r"auto|cpu|cuda(:(0|[1-9][0-9]?))?"

Part = TypeVar("Part", bound="Settings")


class Settings(BaseModel):
    """A part of what a user may choose. Each field is declared once, with its help, beside what it governs; command
    line, flow and form read it from there. Impossible values are refused when the object is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    @classmethod
    def make(cls, **fields: object) -> Self:
        """With the first bad field as a SettingsError of one line."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            value = "" if not field or repr(first["input"]) in message else f" (got {first['input']!r})"
            raise SettingsError(f"{field}: {message}{value}" if field else message) from None

    def part(self, of: type[Part]) -> Part:
        """The part `of` these settings, which are a sum that has it."""
        return of.model_validate({name: getattr(self, name) for name in of.model_fields})

    def digested(self) -> dict[str, Any]:
        """Plain values of all fields, for a digest and for records."""
        return self.model_dump(mode="json")


def check_device(device: str) -> str:
    """The name of a device, or ValueError."""
    if not re.fullmatch(DEVICE, device):
        raise ValueError(f"{device!r} is not a device; give auto, cpu, cuda or cuda:N")
    return device


def environment_device() -> str:
    """$GHOST_DEVICE, `auto` where it is not set. SettingsError, in the words of the option, where it is no device."""
    try:
        return check_device(os.environ.get("GHOST_DEVICE") or "auto")
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


def free_bytes(device: torch.device) -> int:
    """Bytes that this process could still take there: of a CPU's memory, what neither machine nor container gives to
    others."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([psutil.virtual_memory().available, *_left_to_the_container()])


def _left_to_the_container() -> list[int]:
    """What the limit of the control group leaves, where there is one (version 2); its caches of files can go."""
    try:
        most, used = (int((CONTROL_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        caches = dict(line.split() for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines())
        return [max(0, most - used + int(caches["inactive_file"]))]
    except (OSError, ValueError, KeyError):  # none, or without a limit: "max"
        return []
