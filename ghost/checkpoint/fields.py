"""What a value in config.json has to be before anything is made of it: one line by the field's name where it is not.

transformers checks types where it builds a config, and no ranges; a config in memory may have been changed since.
"""

import math
from typing import Any, NoReturn

from ghost.errors import CheckpointError

UNKNOWN = {
    "quantization_config": "weights that are not quantized",
    "per_layer_config": "a model whose layers are all alike",
}
"""Fields with which transformers builds another model than ghost computes, and what to give instead."""

FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def check_unknown(config: dict[str, Any]) -> None:
    """CheckpointError for a field that ghost would have to leave out of its computation."""
    for name, remedy in UNKNOWN.items():
        if config.get(name):
            raise CheckpointError(f"config.json: {name} is given, which ghost does not compute with; give {remedy}")


def count(name: str, value: object) -> int:
    """A number of things, 1 at least."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        _refuse(name, value, "a whole number, 1 at least")
    return value


def amount(name: str, value: object) -> float:
    """A finite number, 0 at least."""
    numbers = _numbers([value])
    if not numbers or not 0 <= numbers[0] < math.inf:
        _refuse(name, value, "a number, 0 at least")
    return numbers[0]


def factors(name: str, value: object, length: int) -> tuple[float, ...]:
    """Finite numbers, so many of them."""
    numbers = _numbers(value)
    if len(numbers) != length or not all(map(math.isfinite, numbers)):
        _refuse(name, value, f"{length} numbers")
    return numbers


def interval(name: str, value: object) -> tuple[float, float]:
    """The lower and the upper end; infinity is one."""
    numbers = _numbers(value)
    if len(numbers) != 2 or not numbers[0] <= numbers[1]:
        _refuse(name, value, "two numbers, the lower first")
    return numbers[0], numbers[1]


def flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        _refuse(name, value, "true or false")
    return value


def with_infinity(value: Any) -> Any:
    """What JSON holds, with numbers in place of `{"__float__": "Infinity"}`: that is transformers 5's, not 4.57's."""
    if isinstance(value, dict):
        only = value.get("__float__") if len(value) == 1 else None
        return FLOATS[only] if only in FLOATS else {name: with_infinity(part) for name, part in value.items()}
    return [with_infinity(part) for part in value] if isinstance(value, list) else value


def _numbers(value: object) -> tuple[float, ...]:
    """Empty where it is anything but a list of numbers."""
    listed = value if isinstance(value, list | tuple) else ()
    return tuple(float(number) for number in listed) if all(map(_is_number, listed)) else ()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _refuse(name: str, value: object, wanted: str) -> NoReturn:
    raise CheckpointError(f"config.json: {name} is {_shown(value)}, and has to be {wanted}; mend config.json")


def _shown(value: object) -> str:
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
