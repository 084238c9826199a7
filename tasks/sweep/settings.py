"""What a sweep varies, and what all of its cells share."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import create_model

from artifacts.digest import identity
from artifacts.schemas import FORMAT_VERSION
from ghost.config import Settings
from ghost.errors import SettingsError
from ghost.settings import Calibration, Evaluation, Place, Pruning, RunSettings, Source

AXES = {
    "models": "model",
    "windows": "window",
    "calibration_lengths": "length",
    "recovery": "recovery",
    "seeds": "seed",
    "sparsity": "sparsity",
    "keep": "keep",
    "methods": "method",
}
"""What varies, slowest first, and the field of RunSettings that each one sets. One of sparsity and keep varies."""
WITHOUT_EFFECT = {*Place.model_fields} - {"device"}
"""Options that change nothing in the figures, and so nothing in a sweep's name; a GPU rounds in its own way."""
DEFAULTS: dict[str, tuple[Any, ...]] = {
    "models": ("demo",),
    "methods": ("ghost", "magnitude", "random"),
    "sparsity": (0.1, 0.3, 0.5, 0.7, 0.9),
    "calibration_lengths": (RunSettings.model_fields["length"].default,),
    "windows": (RunSettings.model_fields["window"].default,),
    "seeds": (0,),
    "recovery": ("none",),
}
"""The paper's sparsities; of everything else but the methods, what `ghost run` takes."""
_SHARED: dict[str, Any] = {
    name: (field.annotation, field)
    for part in (Source, Pruning, Calibration, Evaluation, Place)
    for name, field in part.model_fields.items()
    if name not in AXES.values()
}


class RunOptions(create_model("RunOptionsOfASweep", __base__=Settings, **_SHARED)):
    """The options of `ghost run` that all cells of a sweep share."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep."""

    settings: RunSettings
    label: str
    """The model as the tables name it: two folders of one name are told apart."""

    @property
    def name(self) -> str:
        """The cell in words, such as `demo: ghost at 0.5`, with what is not as in a plain run."""
        s = self.settings
        usual = (("recovery", "none"), ("length", DEFAULTS["calibration_lengths"][0]),
                 ("window", DEFAULTS["windows"][0]), ("seed", 0))  # fmt: skip
        unusual = [f"{field} {getattr(s, field)}" for field, value in usual if getattr(s, field) != value]
        how_much = f"at {s.sparsity:g}" if s.keep is None else f"keeps {s.keep}"
        return ", ".join([f"{self.label}: {s.method} {how_much}", *unusual])


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep's cells in the order they are computed, and the axes and options that made them."""

    axes: dict[str, tuple[Any, ...]]
    options: dict[str, Any]
    cells: tuple[Cell, ...]

    @property
    def store(self) -> str:
        return self.cells[0].settings.store

    @property
    def sweep_id(self) -> str:
        """16 hex digits of what was asked for, wherever it is kept."""
        asked = {name: value for name, value in self.options.items() if name not in WITHOUT_EFFECT}
        return identity(
            {"format": FORMAT_VERSION, "axes": {k: list(v) for k, v in self.axes.items()}, "options": asked}
        )


def make_sweep(axes: dict[str, Any], options: RunOptions) -> Sweep:
    """The sweep over these values; an axis that is absent or empty has its default, and a value counts once.

    SettingsError, of one line, where a cell can't be: a method, sparsity, length, window, seed or recovery that no run
    takes, or keep and sparsity at once.
    """
    chosen = {name: tuple(dict.fromkeys(axes.get(name) or DEFAULTS[name])) for name in _varied(axes)}
    shared = options.model_dump()
    labels = _labels(chosen["models"])
    cells = [
        Cell(
            settings=RunSettings.make(**{AXES[name]: v for name, v in zip(chosen, values, strict=True)}, **shared),
            label=labels[values[0]],
        )
        for values in product(*chosen.values())
    ]
    return Sweep(axes=chosen, options=shared, cells=tuple(cells))


def _varied(axes: dict[str, Any]) -> list[str]:
    """The axes, without sparsity where `keep` takes its place."""
    keep, sparsity = axes.get("keep"), tuple(axes.get("sparsity") or DEFAULTS["sparsity"])
    if keep and sparsity != DEFAULTS["sparsity"]:
        raise SettingsError(f"keep: {_listed(keep)} and sparsity {_listed(sparsity)} are both given; give one of them")
    return [name for name in AXES if name != ("sparsity" if keep else "keep")]


def _listed(values: Iterable[Any]) -> str:
    return ",".join(map(str, values))


def _labels(models: tuple[str, ...]) -> dict[str, str]:
    from tasks.run.open import display_name

    labels: dict[str, str] = {}
    for model in models:
        name = display_name(model)
        twins = sum(display_name(other) == name for other in labels)
        labels[model] = f"{name} ({twins + 1})" if twins else name
    return labels
