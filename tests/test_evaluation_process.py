"""Evaluation in a process of its own: the same figures, and ended in whatever way it or its run goes wrong."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from ghost.calibration.tokens import load_tokenizer
from ghost.checkpoint.source import open_checkpoint
from ghost.errors import EvaluationError, GhostError
from ghost.evaluation.perplexity import perplexity
from ghost.evaluation.plan import Plan
from ghost.evaluation.recall import make_words, recall_rows
from tasks.evaluate import measure as assess
from tasks.evaluate import open_assessment
from tasks.run.evaluation_process import Job, evaluate_apart, measure
from tasks.run.open import Run
from tests.by_hand import small_settings, through_layers
from tests.models import make_model, open_stack, random_tokens
from tests.processes import assert_gone, running

FOREVER = 600.0
LONG = random_tokens(1, 1 << 22)[0]
"""Tokens that take minutes."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {name: str(make_model(folder / name, seed=seed)) for seed, name in enumerate(("dense", "pruned"))}


@pytest.fixture
def job(models: dict[str, str]) -> Job:
    return Job(
        models=models, window=64, device="cpu", dtype="float32", batch_tokens=2048, threads=torch.get_num_threads()
    )


def evaluations() -> list[psutil.Process]:
    return running(os.getpid(), "tasks.run.evaluation_process")


@contextmanager
def meanwhile(deed: Callable[[psutil.Process], None]) -> Iterator[None]:
    """As soon as an evaluation runs, do something to it."""

    def wait() -> None:
        while not (found := evaluations()):
            time.sleep(0.01)
        deed(found[0])

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_scores_are_those_of_this_process_to_the_last_bit(job: Job) -> None:
    tokens, finished = random_tokens(1, 3000)[0], []
    scores = evaluate_apart(job, tokens, FOREVER, finished.append).perplexities
    assert scores == {name: perplexity(open_stack(Path(at)), tokens, 64) for name, at in job.models.items()}
    assert list(scores) == ["dense", "pruned"] and sum(finished) == 2 * 2999
    assert_gone(evaluations())


def test_recall_is_that_of_ghost_eval(job: Job, tmp_path: Path) -> None:
    """By the demo's tokenizer, which has words for 64 pairs."""
    demo = open_checkpoint("demo")
    model, words = str(make_model(tmp_path, layers=1, vocab_size=demo.vocab_size)), str(demo.folder)
    asked = replace(job, models={}, recalled={"model": model}, tokenizer=words)
    found = measure(asked, random_tokens(1, 100)[0], print)
    plan = Plan(contexts="", batch_sizes="", distances="0")
    options: dict[str, Any] = {"text": "stdlib", "tokenizer": words, "device": "cpu", "dtype": "float32"}
    opened = open_assessment(plan, model, None, batch_tokens=2048, **options)
    rows = list(recall_rows(found.recall))
    assert found.perplexities == {} and rows == assess(opened, lambda *_: None)["rows"] and len(rows) == 9


def test_recall_has_as_many_pairs_as_the_vocabulary_has_words_for(job: Job) -> None:
    asked = replace(job, models={}, recalled=job.models, tokenizer=job.models["dense"])
    vocabulary = load_tokenizer(job.models["dense"])
    words = len(make_words(vocabulary, random_tokens(1, 100)[0], len(vocabulary)).words_w)
    found = measure(asked, random_tokens(1, 100)[0], print).recall
    assert 8 <= words < 128, "as a small vocabulary has"
    expected = [f"{pairs} pairs, distance 0" for pairs in (4, 16, 64) if 2 * pairs <= words]
    assert list(found) == expected


def test_an_evaluation_that_takes_too_long_is_ended(job: Job) -> None:
    with pytest.raises(EvaluationError, match=r"took longer than 0\.5 seconds .* give a higher --evaluation-timeout$"):
        evaluate_apart(job, LONG, 0.5, print)
    assert_gone(evaluations())


def test_a_stopped_evaluation_is_ended(job: Job) -> None:
    with meanwhile(psutil.Process.suspend), pytest.raises(EvaluationError, match="took longer than 1 seconds"):
        evaluate_apart(job, LONG, 1.0, print)
    assert_gone(evaluations())


def test_a_killed_evaluation_is_told_in_one_line(job: Job) -> None:
    with (
        meanwhile(psutil.Process.kill),
        pytest.raises(EvaluationError, match=r"was ended by SIGKILL; see .* memory, or give .*--batch-tokens"),
    ):
        evaluate_apart(job, LONG, FOREVER, print)


def test_an_evaluation_that_fails_is_told_with_its_last_line(job: Job) -> None:
    with pytest.raises(EvaluationError, match=r"ended with exit code 1 \(RuntimeError: .*device.*\); see") as failed:
        evaluate_apart(replace(job, device="abacus"), LONG, FOREVER, print)
    assert "\n" not in str(failed.value)


def test_what_the_user_can_mend_comes_through_as_it_is(job: Job, tmp_path: Path) -> None:
    with pytest.raises(GhostError, match=rf"^{tmp_path} has no config\.json, so it is not a model folder") as refused:
        evaluate_apart(replace(job, models={"dense": str(tmp_path)}), LONG, FOREVER, print)
    assert not isinstance(refused.value, EvaluationError)


class Enough(BaseException):
    """As Prefect raises for SIGTERM, past every `except Exception`."""


def test_an_exception_in_the_run_ends_the_evaluation(job: Job) -> None:
    def stop(number: int, frame: object) -> None:
        raise Enough

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with meanwhile(lambda _: os.kill(os.getpid(), signal.SIGUSR1)), pytest.raises(Enough):
            evaluate_apart(job, LONG, FOREVER, print)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert_gone(evaluations())


RUN = """
import sys, torch
from tasks.evaluate import measure as assess
from tasks.evaluate import open_assessment
from tasks.run.evaluation_process import Job, evaluate_apart, measure
job = Job(models={"dense": sys.argv[1]}, window=64, device="cpu", dtype="float32", batch_tokens=2048, threads=1)
evaluate_apart(job, torch.zeros(1 << 22, dtype=torch.int32), 600, lambda tokens: print(tokens, flush=True))
"""


def test_the_evaluation_of_a_killed_run_ends_with_it(job: Job) -> None:
    command = [sys.executable, "-c", RUN, job.models["dense"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as run:
        assert run.stdout is not None and int(run.stdout.readline()) > 0
        (evaluation,) = evaluations()
        assert os.getpgid(evaluation.pid) == os.getsid(evaluation.pid) == evaluation.pid
        os.killpg(run.pid, signal.SIGKILL)
    assert_gone([evaluation])


def test_a_hanging_evaluation_leaves_a_checkpoint_from_which_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "evaluator", staticmethod(evaluate_apart))  # as a user's run has it
    run = through_layers(small_settings(tmp_path, evaluation_timeout=0.5))
    assert run.export() == "Completed"
    with pytest.raises(EvaluationError) as late:
        run.evaluate()
    where = run.store.locate(run.keys.checkpoint)
    assert f"the pruned checkpoint is stored already, in {where}: started again" in str(late.value)
    assert {"config.json", "model.safetensors", "tokenizer.json"} < {path.name for path in Path(where).iterdir()}
    again = through_layers(small_settings(tmp_path))
    assert again.cached == {0, 1} and again.export() == "Cached"
    assert not again.store.exists(again.keys.evaluation)
