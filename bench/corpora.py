"""How far a long text is read to calibrate on: seconds, bytes and peak memory; a process for each form.

    python -m bench.corpora --gigabytes 5

writes JSON lines of so many gigabytes to a temporary folder, and less of the other forms; draws 128 windows of 2,048
tokens from each, twice, and prints what that took. The peak is the whole process's, with torch and transformers in it.
"""

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ghost.calibration.stdlib import documents
from ghost.calibration.tokens import digest, enough, load_tokenizer, read_tokens, sample_windows
from ghost.checkpoint.source import open_checkpoint

SAMPLES, LENGTH = 128, 2048
ROWS, WORDS = 2000, 300
"""Of a block of text, which is written over and over."""
LINE = 100_000_000
"""Bytes of the one long line."""


def write(folder: Path, size: int) -> dict[str, str]:
    """The corpora by what they are: `size` bytes of JSON lines, a tenth of that in the other forms."""
    draws, words = random.Random(0), " ".join(text for _, text in documents("train")[:200]).split()
    rows = [{"number": number, "text": " ".join(draws.choices(words, k=WORDS))} for number in range(ROWS)]
    block = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "data").mkdir()
    with (folder / "data/train.jsonl").open("wb") as file:
        for _ in range(size // len(block) + 1):
            file.write(block)
    tenth = size // 10 // len(block) + 1
    with gzip.open(folder / "some.jsonl.gz", "wb", compresslevel=1) as file, (folder / "some.txt").open("wb") as plain:
        for _ in range(tenth):
            file.write(block)
            plain.write(block)
    (folder / "table").mkdir()
    table = pa.concat_tables([pa.Table.from_pylist(rows)] * tenth)
    pq.write_table(table.combine_chunks(), folder / "table/train.parquet", row_group_size=len(table))
    (folder / "line.jsonl").write_text(json.dumps({"text": "some words of one line " * (LINE // 23)}))
    return {
        "jsonl": f"{folder}/data/train.jsonl",
        "txt": f"{folder}/some.txt",
        "jsonl.gz": f"{folder}/some.jsonl.gz",
        "parquet, one row group": f"{folder}/table/train.parquet",
        "hf, jsonl": f"hf:{folder}/data::train:",
        "hf, parquet": f"hf:{folder}/table::train:",
        "jsonl, one line": f"{folder}/line.jsonl",
    }


def run(gigabytes: float) -> dict[str, Any]:
    """Figures by form. A second reading in the same way has to give the same windows."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, spec in write(Path(folder), int(gigabytes * 1e9)).items():
            one, other = (_in_a_process(spec, Path(folder)) for _ in range(2))
            assert one["windows"] == other["windows"]
            figures[name] = one
    return figures


def _in_a_process(spec: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.corpora", "--read", spec]
    env = os.environ | {"HF_HOME": str(folder / "home")}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def read(spec: str) -> dict[str, Any]:
    """Seconds, MB that were read, and the process's peak before and after."""
    tokenizer, before, already = load_tokenizer(open_checkpoint("demo").folder), _peak(), _bytes_read()
    started = time.perf_counter()
    tokens, _ = read_tokens(tokenizer, spec, "calibration", enough(SAMPLES, LENGTH))
    windows = sample_windows(tokens, SAMPLES, LENGTH, seed=0)
    return {
        "seconds": time.perf_counter() - started,
        "MB read": (_bytes_read() - already) / 1e6,
        "peak MB before": before / 1e6,
        "peak MB": _peak() / 1e6,
        "windows": digest(windows)[:12],
    }


def _peak() -> int:
    """Bytes, of this process alone: what getrusage tells a child begins with its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _bytes_read() -> int:
    """As Linux counts them, imports of the meantime included."""
    return int(Path("/proc/self/io").read_text().split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0, help="of the JSON lines")
    parser.add_argument("--read", metavar="CORPUS", help="read this one, in this process")
    given = parser.parse_args()
    if given.read:
        print(json.dumps(read(given.read)))
        return
    for name, figures in run(given.gigabytes).items():
        print(f"{name:<24}" + "  ".join(f"{k} {v:.1f}" for k, v in figures.items() if isinstance(v, float)), flush=True)


if __name__ == "__main__":
    main()
