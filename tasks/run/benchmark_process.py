"""lm-eval's tasks in a process of their own, as perplexities have one: `python -m tasks.run.benchmark_process JOB`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ghost.evaluation.harness import BenchmarkList  # lm-eval and torch only once they are needed
from tasks.run.evaluation_process import answer_apart, ask_apart

BATCH = 1
"""Documents at once, as for `ghost eval`: no answer depends on what is padded with it."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkJob:
    """What to evaluate: model folders by name, in order; their tokenizer; tasks; and how to compute."""

    models: dict[str, str]
    tokenizer: str
    tasks: BenchmarkList
    limit: int | None
    seed: int
    device: str
    dtype: str
    threads: int


def run_benchmarks_apart(job: BenchmarkJob, timeout: float) -> dict[str, dict[str, Any]]:
    """What `ghost.evaluation.harness.run_benchmarks` finds, by model. Errors as of `evaluate_apart`."""
    return ask_apart("tasks.run.benchmark_process", asdict(job), timeout, lambda done: None)


def benchmark_figures(job: dict[str, Any], progress: Callable[[int], None]) -> dict[str, Any]:
    """What the process does with a `BenchmarkJob` as plain data; lm-eval says nothing of its progress."""
    tasks = BenchmarkList(**job.pop("tasks"))
    return {name: _one(folder, BenchmarkJob(**job, tasks=tasks)) for name, folder in job["models"].items()}


def _one(folder: str, job: BenchmarkJob) -> dict[str, dict[str, Any]]:
    import torch

    from ghost.calibration.tokens import load_tokenizer
    from ghost.checkpoint.source import open_checkpoint
    from ghost.config import DTYPES
    from ghost.evaluation.decode import stock_model
    from ghost.evaluation.harness import benchmark_manager, run_benchmarks

    torch.set_num_threads(job.threads)
    model = stock_model(open_checkpoint(Path(folder)), torch.device(job.device), DTYPES[job.dtype])
    tokenizer, manager = load_tokenizer(job.tokenizer), benchmark_manager(job.tasks)
    return run_benchmarks(model, tokenizer, job.tasks, manager=manager, limit=job.limit, seed=job.seed, batch=BATCH)


if __name__ == "__main__":
    answer_apart(benchmark_figures)
