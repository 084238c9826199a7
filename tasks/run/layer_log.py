"""What a run tells while it walks through the layers: a line in the log, a table, and how far it is."""

from typing import Any

import psutil
import torch
from prefect.logging import get_run_logger

from ghost.saliency import LayerStatistics
from ghost.saliency.statistics import dropped_share
from ghost.selection import Selection
from tasks.run.layers import PrunedLayer
from tasks.run.open import Run
from tasks.run.page import RunPage
from tasks.wording import extreme, layers_in_words

MB = 1_000_000


class LayerLog:
    """Tells the run page, the log and the console about the layers of one run."""

    def __init__(self, run: Run, page: RunPage) -> None:
        self._run, self._page, self._done = run, page, 0
        get_run_logger().info(layers_in_words(run.source.layers, len(run.source.mixers)))
        self._move()

    def done(self, number: int, layer: PrunedLayer, seconds: float) -> None:
        """The layer is done, after so many seconds."""
        statistics, selection = layer.statistics, layer.selection
        memory, state = memory_mb(self._run.stack.device), "cached" if layer.cached else "computed"
        get_run_logger().info(log_line(number, seconds, memory, state, statistics, selection))
        outcome = f"{'cached, ' if layer.cached else ''}{_outcome(statistics, selection)}"
        self._run.progress.layer(f"layer {number:02d} {outcome}")
        self._page.table(f"ghost-layer-{number:02d}", table_rows(statistics, selection, seconds, memory), outcome)
        self._done += 1
        self._move()

    def _move(self) -> None:
        layers, mixers = self._run.source.layers, len(self._run.source.mixers)
        words = f"{layers_in_words(layers, mixers)}, run {self._run.keys.run_id}"
        self._page.progress("ghost-progress", 100 * self._done / mixers, words)


def memory_mb(device: torch.device) -> float:
    """Memory in use, in units of 10^6 bytes: the process's own on a CPU, the most ever allocated on a GPU."""
    used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    return used / MB


def log_line(
    layer: int, seconds: float, memory: float, state: str, statistics: LayerStatistics, selection: Selection
) -> str:
    """A layer as one line of logfmt: keys and values without spaces, the same keys for every layer."""
    dropped = statistics.energy_dropped(selection.kept_gn)
    values = {
        "layer": f"{layer:02d}",
        "seconds": f"{seconds:.2f}",
        "kept": int(selection.kept_gn.sum()),
        "of": selection.kept_gn.numel(),
        "energy_dropped": "none" if dropped is None else f"{dropped:.4f}",
        "memory_mb": round(memory),
        "state": state,
    }
    return " ".join(f"{name}={value}" for name, value in values.items())


def _outcome(statistics: LayerStatistics, selection: Selection) -> str:
    """Short enough for a card on the run page."""
    message = f"keeps {int(selection.kept_gn.sum())} of {selection.kept_gn.numel()}"
    dropped = statistics.energy_dropped(selection.kept_gn)
    return message if dropped is None else f"{message}, energy -{dropped:.2%}"


def table_rows(
    statistics: LayerStatistics, selection: Selection, seconds: float, memory: float
) -> list[dict[str, Any]]:
    """One row per group; seconds and memory are the whole layer's."""
    return [
        _group_row(group, statistics, selection) | {"seconds": round(seconds, 2), "MB": round(memory)}
        for group in range(len(selection.kept_gn))
    ]


def _group_row(group: int, statistics: LayerStatistics, selection: Selection) -> dict[str, Any]:
    saliency_n, kept_n = selection.saliency_gn[group], selection.kept_gn[group]
    dropped = None if statistics.energy_gn is None else dropped_share(statistics.energy_gn[group], kept_n)
    return {
        "group": group,
        "kept": int(kept_n.sum()),
        "dropped": int((~kept_n).sum()),
        "energy dropped": "-" if dropped is None else f"{dropped:.3%}",
        "least kept saliency": extreme(saliency_n[kept_n], torch.min),
        "most dropped saliency": extreme(saliency_n[~kept_n], torch.max),
    }
