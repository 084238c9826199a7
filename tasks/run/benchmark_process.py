"""lm-eval's tasks in a process of their own, as perplexities have one: `python -m tasks.run.benchmark_process JOB`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ghost.evaluation.harness import TaskList  # lm-eval and torch only once they are needed
from tasks.run.evaluation_process import answer_apart, ask_apart

BATCH = 1
"""Documents at once, as for `ghost eval`: no answer depends on what is padded with it."""


@dataclass(frozen=True, kw_only=True)
class TaskJob:
    """What to evaluate: model folders by name, in order; their tokenizer; tasks; and how to compute."""

    models: dict[str, str]
    tokenizer: str
    tasks: TaskList
    limit: int | None
    seed: int
    device: str
    dtype: str
    threads: int


def run_tasks_apart(job: TaskJob, timeout: float) -> dict[str, dict[str, Any]]:
    """What `ghost.evaluation.harness.run_tasks` finds, by model. Errors as of `evaluate_apart`."""
    return ask_apart("tasks.run.benchmark_process", asdict(job), timeout, lambda done: None)


def task_figures(job: dict[str, Any], progress: Callable[[int], None]) -> dict[str, Any]:
    """What the process does with a `TaskJob` as plain data; lm-eval says nothing of its progress."""
    tasks = TaskList(**job.pop("tasks"))
    return {name: _one(folder, TaskJob(**job, tasks=tasks)) for name, folder in job["models"].items()}


def _one(folder: str, job: TaskJob) -> dict[str, dict[str, Any]]:
    import torch

    from ghost.calibration.tokens import load_tokenizer
    from ghost.checkpoint.source import open_checkpoint
    from ghost.config import DTYPES
    from ghost.evaluation.decode import stock_model
    from ghost.evaluation.harness import run_tasks, task_manager

    torch.set_num_threads(job.threads)
    model = stock_model(open_checkpoint(Path(folder)), torch.device(job.device), DTYPES[job.dtype])
    tokenizer, manager = load_tokenizer(job.tokenizer), task_manager(job.tasks)
    return run_tasks(model, tokenizer, job.tasks, manager=manager, limit=job.limit, seed=job.seed, batch=BATCH)


if __name__ == "__main__":
    answer_apart(task_figures)
