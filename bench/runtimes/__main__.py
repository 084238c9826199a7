"""Dense and pruned checkpoints through the runtimes that serve them, each in a venv of its own.

    python -m bench.runtimes                        # all of bench/runtimes.toml, on the demo
    python -m bench.runtimes vllm --prose english valid.txt test.txt --out runtimes.json
    python -m bench.runtimes vllm --speed 16        # tokens a second of one thread, N = 128 ... 16

Every answer is held against stock transformers' in fp32: greedy continuations, their log-probabilities, perplexity by
one protocol. Ends with 1 where a runtime failed or is beyond its bound. Venvs stay under `--venvs`, and are made anew
where their packages changed. docs/runtimes.md says how a runtime's script asks and answers.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.main import machine
from bench.runtimes.checkpoints import Sample, Source, samples
from bench.runtimes.judge import judged
from bench.runtimes.runtime import TABLES, Runtime, RuntimeFailed, runtimes
from bench.runtimes.speed import STATES, random_sample
from bench.runtimes.tables import remarks, speed_table, table
from ghost.errors import GhostError

KEPT = "64,16"
VENVS = Path("bench/results/venvs")


def compare(runtime: Runtime, python: str, sample: Sample) -> dict[str, Any]:
    """A row: the sample through the runtime. One that fails says so in `error`, and has not passed."""
    known = {"model": sample.name, "state_bytes": sample.state_bytes}
    try:
        answered = runtime.ask(python, sample.reading(runtime.reads, runtime.converter(python)), sample.request)
    except RuntimeFailed as error:
        return known | {"error": str(error), "passed": False}
    return known | judged(answered, sample.expected, runtime.bound(sample.family))


def rows_of(runtime: Runtime, venvs: Path, found: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    """Of all samples that the runtime is said to run."""
    try:
        python = runtime.install(venvs)
    except RuntimeFailed as error:
        yield {"model": "-", "error": str(error), "passed": False}
        return
    for sample in found:
        if sample.form != "projected" or runtime.projected:
            yield compare(runtime, python, sample)


def speeds_of(runtime: Runtime, venvs: Path, folders: dict[int, Sample], sequences: int) -> dict[str, Any]:
    """Tokens a second by state."""
    try:
        python = runtime.install(venvs)
        return {
            str(n): runtime.ask(python, sample.reading(runtime.reads), Path("-"), "--speed", str(sequences))
            for n, sample in folders.items()
        }
    except RuntimeFailed as error:
        return {"error": str(error)}


def main(arguments: Sequence[str] | None = None) -> int:
    args = _arguments(arguments)
    chosen = runtimes(args.runtimes, args.tables)
    console = Console(width=120)
    figures: dict[str, Any] = {"machine": machine(), "rows": {}, "speed": {}}
    with tempfile.TemporaryDirectory() as folder:
        if args.speed:
            made = {n: random_sample(n, Path(folder)) for n in STATES}
            found = ((r.name, speeds_of(r, args.venvs, made, args.speed)) for r in chosen)
            _report(found, figures, "speed", args.out)
            console.print(speed_table(figures["speed"], args.speed))
        else:
            every = [s for source in _sources(args) for s in samples(source, args.kept, Path(folder))]
            _report(((r.name, list(rows_of(r, args.venvs, every))) for r in chosen), figures, "rows", args.out)
            console.print(table(figures["rows"]), *remarks(figures["rows"]), sep="\n")
    failed = [row for rows in figures["rows"].values() for row in rows if row["passed"] is False]
    return 1 if failed or any("error" in speeds for speeds in figures["speed"].values()) else 0


def _report(found: Iterator[tuple[str, Any]], figures: dict[str, Any], part: str, out: Path | None) -> None:
    """Into `figures`, and into the file after every runtime."""
    for name, result in found:
        figures[part][name] = result
        print(f"{name}: done", file=sys.stderr)
        if out:
            out.write_text(json.dumps(figures, indent=2) + "\n")


def _sources(args: argparse.Namespace) -> Iterator[Source]:
    common = {"samples": args.samples, "windows": args.windows, "window": args.window}
    if args.model != "none":
        yield Source(name=Path(args.model).name, model=args.model, **common)
    if args.prose:
        model, calibration, evaluation = args.prose
        yield Source(name="prose", model=model, calibration=calibration, evaluation=evaluation, **common)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench.runtimes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runtimes", nargs="*", help="tables of bench/runtimes.toml; all of them where none is named")
    parser.add_argument(
        "--model", default="demo", help="demo, a folder, or none; calibrated and asked on corpus stdlib"
    )
    parser.add_argument("--prose", nargs=3, metavar=("FOLDER", "CALIBRATION", "EVALUATION"), help="a second model")
    parser.add_argument("--kept", type=_sizes, default=KEPT, help="state sizes, separated by commas")
    parser.add_argument("--samples", type=int, default=128, help="calibration windows of 128 tokens")
    parser.add_argument("--windows", type=int, default=8, help="windows of the text whose perplexity is measured")
    parser.add_argument("--window", type=int, default=512, help="tokens of such a window")
    parser.add_argument("--speed", type=int, metavar="SEQUENCES", help="measure speed instead, on random weights")
    parser.add_argument("--venvs", type=Path, default=VENVS, help="where venvs are kept")
    parser.add_argument("--tables", type=Path, default=TABLES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="JSON file of all figures")
    return parser.parse_args(arguments)


def _sizes(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GhostError as error:
        sys.exit(f"bench.runtimes: error: {error}")
