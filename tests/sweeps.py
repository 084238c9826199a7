"""What the tests of sweeps share: options of a small sweep, and rows as sweeps make them."""

from pathlib import Path
from typing import Any

SIZES = {"samples": 4, "round_to": 8}


def options(folder: Path, store: Path, **changes: Any) -> dict[str, Any]:
    """Options of a sweep of the models in `folder`, with its two texts."""
    texts = {name: str(folder / f"{name}.txt") for name in ("calibration", "evaluation")}
    return texts | SIZES | {"store": str(store)} | changes


def row(**changes: Any) -> dict[str, Any]:
    """A finished cell."""
    made = {
        "model": "demo", "method": "ghost", "sparsity": 0.5, "recovery": "none", "calibration_length": 128,
        "window": 2048, "seed": 0, "run_id": "0123456789abcdef", "kept": 192, "channels": 384, "parameters": 1000,
        "d_state_dense": 128, "d_state": 64, "perplexity_dense": 10.0, "perplexity": 12.0, "rise": 0.2,
        "rise_stderr": None, "over_best": None, "over_best_stderr": None,
        "state_bytes_dense": 1000, "state_bytes": 500, "seconds": 3.0, "peak_memory_bytes": 7_000_000, "error": None,
    }  # fmt: skip
    return made | changes
