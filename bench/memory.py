"""Peak resident memory of pruning a model from disk to disk, with 48 and with 12 layers."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.random_checkpoint import write_random
from bench.random_hybrid import write_random_hybrid

TOKENS = (16, 128)
LAYERS = (12, 48)
TWELVE = "M-M*-MEM-M*E"
"""Mixers, MLPs, attention and experts, as often as there are layers for them."""
NARROW = {
    "hidden_size": 1024, "intermediate_size": 3584, "vocab_size": 32768, "num_attention_heads": 8,
    "num_key_value_heads": 2, "mamba_num_heads": 32, "n_routed_experts": 16, "num_experts_per_tok": 2,
    "moe_intermediate_size": 512, "moe_shared_expert_intermediate_size": 1024,
}  # fmt: skip
"""The Nano's structure in a quarter of its width."""


def _mamba2(folder: Path, layers: int) -> Path:
    return write_random(folder, "1.3b", layers)


def _nemotron_h(folder: Path, layers: int) -> Path:
    pattern = (TWELVE * layers)[:layers]
    fields = NARROW | {"num_hidden_layers": layers, "hybrid_override_pattern": pattern}
    return write_random_hybrid(folder, "nemotron-nano-9b-v2", **fields)


FAMILIES: dict[str, Callable[[Path, int], Path]] = {"mamba2": _mamba2, "nemotron_h": _nemotron_h}
"""What writes a bf16 checkpoint of so many layers."""


def run(device: str, family: str = "mamba2") -> dict[str, Any]:
    """Each size is pruned in a process of its own, which reports its peak."""
    peaks = {layers: _prune(family, layers, device) for layers in LAYERS}
    few, many = (peaks[layers]["peak_rss"] for layers in LAYERS)
    figures = {f"{layers} layers": figures for layers, figures in peaks.items()}
    return {"peaks": figures, "48 layers / 12 layers": many / few}


def _prune(family: str, layers: int, device: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        source = FAMILIES[family](Path(folder) / "source", layers)
        command = [sys.executable, "-m", "bench.prune_process", str(source), f"{folder}/pruned", device]
        done = subprocess.run([*command, *map(str, TOKENS)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])
