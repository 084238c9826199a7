"""A tensor that no machine has the memory for: torch's own allocator refuses it."""

from typing import Any

import torch

TOO_MUCH = 1 << 50


def take_too_much(*_: Any, **__: Any) -> Any:
    return torch.empty(TOO_MUCH)
