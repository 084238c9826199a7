"""What a model, and smaller states of it, would cost in the runtimes that serve it: by config and headers alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from artifacts.folders import is_remote, open_folder
from ghost.checkpoint.companions import CONFIG
from ghost.checkpoint.families import layer_kinds
from ghost.checkpoint.hub import download_config
from ghost.checkpoint.source import find_folder
from ghost.errors import SettingsError
from ghost.selection import check_kept
from ghost.serving.memory import parse_memory
from ghost.serving.opened import open_model, serving_dtype
from ghost.serving.room import Blocks, room
from ghost.serving.rules import RULES, Rule, finding
from ghost.serving.runtimes import RUNTIMES, Runtime, unknown
from ghost.serving.sequence import Model, sequence
from tasks.wording import display_name

PRESETS = (96, 64, 32, 16)
"""docs/fits.md says what speaks for each."""


def examine_fits(
    model: str, *, keep: Sequence[int], server: str | None, memory: str, dtype: str, context: int
) -> dict[str, Any]:
    """Plain values about `demo`, a folder, s3://bucket/prefix or a hub name, of which config.json is enough: what it
    costs as it is and with `keep` channels a group (PRESETS without), in each runtime or in `server`.

    Sizes are in bytes. GhostError, in one line, for a model or a value that is refused.
    """
    size, runtimes = parse_memory(memory), _runtimes(server)
    if context < 1:
        raise SettingsError(f"context: {context} is no number of tokens; give 1 or more")
    opened = open_model(_folder(model))
    computed = serving_dtype(dtype, opened.config)
    dense = opened.model
    for kept in keep:
        check_kept(kept, dense.layout.d_state)
    smaller = keep or [kept for kept in PRESETS if kept < dense.layout.d_state]
    models = [dense, *map(dense.with_state, dict.fromkeys(smaller))]
    return {
        "model": display_name(model),
        **_shape(dense),
        "layers": opened.layers,
        "layer_kinds": layer_kinds(opened.config),
        "counted": opened.counted,
        "dtype": _name(computed),
        "memory_bytes": size,
        "context": context,
        "runtimes": [_runtime(runtime, models, computed, size, context) for runtime in runtimes],
    }


def _folder(model: str) -> Path:
    """With config.json, and what lies beside it here; no weights are fetched."""
    return open_folder(model).fetch([CONFIG]) if is_remote(model) else find_folder(model, download_config)


def _runtimes(server: str | None) -> list[Runtime]:
    if server is not None and server not in RUNTIMES:
        raise SettingsError(f"server: {server!r} is unknown; give one of {', '.join(RUNTIMES)}")
    return [runtime for name, runtime in RUNTIMES.items() if server in (None, name)]


def _shape(model: Model) -> dict[str, Any]:
    layout, named = model.layout, ("d_state", "n_groups", "nheads", "headdim", "d_conv", "projected_from")
    shape = {name: getattr(layout, name) for name in named}
    return {"family": model.family, "mixers": model.mixers, "attention_layers": len(model.caches)} | shape


def _runtime(
    runtime: Runtime, models: Sequence[Model], dtype: torch.dtype, memory: int, context: int
) -> dict[str, Any]:
    """One runtime; without sizes where it does not know the family."""
    refused = unknown(runtime, models[0].family)
    sizes = [] if refused else [_size(runtime, model, dtype, memory, context) for model in models]
    return {
        "runtime": runtime.name,
        "version": runtime.version,
        "known": runtime.families.get(models[0].family),
        "refused": refused,
        "source": runtime.source,
        "raises": runtime.raises,
        "sizes": sizes,
        "kernels": [] if refused else [_kernel(rule, models) for rule in RULES if rule.runtime == runtime.name],
    }


def _size(runtime: Runtime, model: Model, dtype: torch.dtype, memory: int, context: int) -> dict[str, Any]:
    one, found = sequence(runtime, model, dtype), room(runtime, model, dtype, memory, context)
    values = {name: _name(value) if isinstance(value, torch.dtype) else value for name, value in one._asdict().items()}
    return {
        "d_state": model.layout.d_state,
        "weights": model.elements * dtype.itemsize,
        **values,
        "sequences": found.sequences,
        "blocks": _blocks(found.blocks),
    }


def _blocks(blocks: Blocks | None) -> dict[str, int] | None:
    return None if blocks is None else blocks._asdict() | {"bytes": blocks.bytes}


def _kernel(rule: Rule, models: Sequence[Model]) -> dict[str, Any]:
    """One rule, and what becomes of each size by it: nothing is said of one that it takes."""
    said = {name: getattr(rule, name) for name in ("kernel", "version", "grade", "wants", "mark", "remedy", "source")}
    found = {model.layout.d_state: finding(rule, model.layout) for model in models}
    return said | {"otherwise": {str(size): each.otherwise if each else "" for size, each in found.items()}}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
