"""Hybrids of real shapes with random weights, pruned from disk to disk: seconds, and the most memory that it takes.

    python -m bench.real_shapes zamba2-1.2b falcon-h1-1.5b granite-4.0-h-tiny nemotron-nano-9b-v2 --out shapes.json

Each is written, pruned to half of its state by a process of its own, and the checkpoint that comes out opened again;
the folders are removed after it. `--layers` takes the first so many layers, where disk or time ask for it.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.main import machine
from bench.random_hybrid import SHAPES, write_random_hybrid
from ghost.checkpoint.sizes import largest_layer
from ghost.checkpoint.source import Checkpoint, open_checkpoint

TOKENS = (4, 128)
"""Samples and their length, random token ids."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="+", choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--layers", type=int, help="only the first so many layers of each")
    parser.add_argument("--folder", type=Path, help="where the checkpoints are written; the temporary folder")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    args = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine(), "tokens": TOKENS}
    for shape in args.shapes:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            figures[shape] = measure(shape, args.layers, Path(folder))
        print(json.dumps({shape: figures[shape]}), flush=True)
        if args.out:
            args.out.write_text(json.dumps(figures, indent=2) + "\n")


def measure(shape: str, layers: int | None, folder: Path) -> dict[str, Any]:
    """Write, prune and open again; sizes in bytes."""
    source = open_checkpoint(write_random_hybrid(folder / "source", shape, layers))
    command = [sys.executable, "-m", "bench.prune_process", str(source.folder), f"{folder}/pruned", "cpu"]
    done = subprocess.run([*command, *map(str, TOKENS)], check=True, stdout=subprocess.PIPE, text=True)
    shutil.rmtree(folder / "pruned" / "layers")
    pruned = open_checkpoint(folder / "pruned" / "checkpoint")
    assert not missing(source, pruned), f"tensors are missing: {missing(source, pruned)[:3]}"
    return json.loads(done.stdout.splitlines()[-1]) | {
        "layers": source.layers,
        "mixers": len(source.mixers),
        "d_state": [source.mixer_layout.d_state, pruned.mixer_layout.d_state],
        "parameters": source.parameters,
        "bytes": [size(source), size(pruned)],
        "largest layer": largest_layer(source, torch.float32).bytes,
    }


def missing(source: Checkpoint, pruned: Checkpoint) -> list[str]:
    """Tensors that the source has, and the pruned one does not."""
    return sorted(source.tensors.home.keys() - pruned.tensors.home.keys())


def size(checkpoint: Checkpoint) -> int:
    return sum(path.stat().st_size for path in checkpoint.tensors.files)


if __name__ == "__main__":
    main()
