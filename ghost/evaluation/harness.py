"""Tasks of the lm-eval harness: its own, and the bundled ones over local files. Needs the extra `eval`."""

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any, cast

from ghost.errors import EvaluationError, SettingsError, reason
from ghost.evaluation.rows import exp, finite
from ghost.out_of_memory import is_out_of_memory

DEFAULT = ("lambada_openai", "hellaswag", "piqa", "arc_easy", "arc_challenge", "winogrande",
           "mmlu_elementary_mathematics", "humaneval")  # fmt: skip
"""What `default` stands for: zero-shot tasks that papers on Mamba2 report, and those where a small state hurts."""
BUNDLED = {"local_wikitext": "wikitext-2/test.txt", "local_lambada": "lambada_test.jsonl"}
"""Tasks over a local file, with an example of one."""
RUNS_CODE = ("humaneval", "mbpp")
MAIN = ("acc_norm", "acc")
"""What a task is judged by: the first of these that it has, otherwise the first metric that lm-eval names."""
BOOTSTRAP = 1000
MAX_LENGTH = 2048
PROTOCOL = (
    f"lm-eval, its own prompts and metrics, at most {MAX_LENGTH} tokens of context; the same seed for every model; "
    f"standard errors are lm-eval's (by {BOOTSTRAP} bootstrap draws where there is no formula)"
)


@dataclass(frozen=True, kw_only=True)
class BenchmarkList:
    """Names as lm-eval knows them, and the file of each bundled task. SettingsError for a list that can't work."""

    names: tuple[str, ...]
    files: dict[str, str]
    allow_code: bool

    def __post_init__(self) -> None:
        unsafe = [name for name in self.names if name.startswith(RUNS_CODE)]
        if unsafe and not self.allow_code:
            raise SettingsError(f"tasks: {unsafe[0]} runs code that the model writes; allow it with --allow-code")
        for name in set(BUNDLED).intersection(self.names):
            if name not in self.files:
                raise SettingsError(f"tasks: {name} reads a local file; give it as {name}:PATH/{BUNDLED[name]}")
        for name, path in self.files.items():
            if name not in BUNDLED:
                raise SettingsError(f"tasks: {name} takes no file, only {' and '.join(BUNDLED)} do; leave :{path} out")

    def on_this_machine(self, fetch: Callable[[str], str] = str) -> "BenchmarkList":
        """With the local path that `fetch` gives for each file. SettingsError where there is none."""
        files = {name: os.path.expanduser(fetch(path)) for name, path in self.files.items()}
        for name, path in files.items():
            if not Path(path).is_file():
                raise SettingsError(f"tasks: {name}: no file {path}; give one such as {BUNDLED[name]}")
        return replace(self, files=files)


def parse_benchmarks(spec: str, *, allow_code: bool, fetch: Callable[[str], str] = str) -> BenchmarkList:
    """As `named_benchmarks`, with the files on this machine: `fetch` gives the local path of each."""
    return named_benchmarks(spec, allow_code=allow_code).on_this_machine(fetch)


def named_benchmarks(spec: str, *, allow_code: bool) -> BenchmarkList:
    """`NAME,NAME:FILE,...`; `default` stands for DEFAULT, without tasks that run code where that is not allowed."""
    names, files = [], {}
    for part in filter(None, (part.strip() for part in spec.split(","))):
        name, colon, path = part.partition(":")
        names += _default(allow_code) if name == "default" else [name]
        if colon:
            files[name] = path
    return BenchmarkList(names=tuple(dict.fromkeys(names)), files=files, allow_code=allow_code)


def _default(allow_code: bool) -> list[str]:
    return [name for name in DEFAULT if allow_code or not name.startswith(RUNS_CODE)]


def benchmark_manager(tasks: BenchmarkList) -> Any:
    """lm-eval's index of tasks; its own 10,000 are read only where one of them is asked for (10 s against 1).

    SettingsError where lm-eval is not installed, or does not know a task.
    """
    try:
        _check_installed("accelerate", "peft")
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise SettingsError(
            f"tasks: lm-eval can't be imported ({error}); install it with pip install 'ghost-ssm[eval]'"
        ) from None
    manager = TaskManager(
        include_path=str(Path(__file__).parent / "tasks"),
        include_defaults=not set(tasks.names) <= set(BUNDLED),
        metadata={"local_files": {name: os.path.abspath(path) for name, path in tasks.files.items()}},
    )
    for name in tasks.names:
        if name not in manager.all_tasks:
            raise SettingsError(f"tasks: lm-eval knows no task {name!r}; `lm-eval ls tasks` lists them")
    return manager


def _check_installed(*modules: str) -> None:
    """ImportError for what lm-eval would only miss when it has a model before it."""
    for name in modules:
        if find_spec(name) is None:
            raise ImportError(f"No module named {name!r}")


def run_benchmarks(
    model: Any, tokenizer: Any, tasks: BenchmarkList, *, manager: Any, limit: int | None, seed: int, batch: int
) -> dict[str, dict[str, Any]]:
    """By task: its metrics as {value, stderr (None where lm-eval has none), higher_is_better, documents (the figure of
    each, where the value is their mean)}, the name of the main one, samples and version.

    `model` is one of stock transformers. EvaluationError where lm-eval fails, as with a data set it can't download.
    """
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    # their decorators hide what they take
    simple_evaluate, language_model = cast(Any, evaluator.simple_evaluate), cast(Any, HFLM)
    try:
        with _in_check(tasks.allow_code):
            found = simple_evaluate(
                model=language_model(pretrained=model, tokenizer=tokenizer, max_length=MAX_LENGTH, batch_size=batch),
                tasks=list(tasks.names), task_manager=manager, limit=limit, bootstrap_iters=BOOTSTRAP,
                log_samples=True, confirm_run_unsafe_code=tasks.allow_code, random_seed=seed,
                numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed,
            )  # fmt: skip
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise EvaluationError(
            f"lm-eval could not run {', '.join(tasks.names)} ({reason(error)}); its data sets come from the hub, those "
            f"of {' and '.join(BUNDLED)} from local files"
        ) from None
    return {name: _task(name, found) for name in found["results"]}


@contextmanager
def _in_check(allow_code: bool) -> Iterator[None]:
    """lm-eval prints to stdout, would fork a process with torch's threads for each bootstrap, and ends where a
    perplexity is larger than a float, which of a model that fell apart is the result."""
    from lm_eval.api import metrics

    logger, before = logging.getLogger("lm_eval"), dict(os.environ)
    level = logger.level
    logger.setLevel(logging.ERROR)
    metrics.math = cast(Any, SimpleNamespace(**vars(math) | {"exp": exp}))
    os.environ |= {"DISABLE_MULTIPROC": "1"} | ({"HF_ALLOW_CODE_EVAL": "1"} if allow_code else {})
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)
        metrics.math = math
        for name in ("DISABLE_MULTIPROC", "HF_ALLOW_CODE_EVAL"):
            os.environ.pop(name, None)
            os.environ.update({name: before[name]} if name in before else {})


def _task(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """lm-eval keys metrics as `acc,none` and `acc_stderr,none`; filters other than none stay in the name."""
    raw, metrics, better = found["results"][name], {}, found["higher_is_better"].get(name, {})
    documents = sorted(found["samples"].get(name, ()), key=lambda document: document["doc_id"])
    for key, value in raw.items():
        metric, comma, kind = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            stderr = raw.get(f"{metric}_stderr,{kind}")
            figure = {"value": float(value), "stderr": finite(stderr) if isinstance(stderr, float) else None}
            # None where lm-eval does not say, which it does for what is lost: perplexities, bits, errors
            figure |= {"higher_is_better": better.get(metric) is not False}
            figure["documents"] = _documents(documents, metric, kind, figure["value"])
            metrics[metric if kind == "none" else key] = figure
    samples, version = found.get("n-samples", {}).get(name, {}).get("effective"), found["versions"].get(name)
    return {"metrics": metrics, "main": _main(metrics), "samples": samples, "version": version}


def _documents(documents: Sequence[Mapping[str, Any]], metric: str, kind: str, mean: float) -> list[float]:
    """What each document got, in lm-eval's order; empty for a figure that is not the mean of that."""
    found = [document[metric] for document in documents if document["filter"] == kind and metric in document]
    plain = bool(found) and all(isinstance(figure, bool | int | float) for figure in found)
    return [*map(float, found)] if plain and math.isclose(fmean(found), mean, rel_tol=1e-9) else []


def _main(metrics: Mapping[str, Any]) -> str | None:
    """None for a group of tasks that has no figures of its own."""
    return next((metric for metric in [*MAIN, *metrics] if metric in metrics), None)
