"""Evaluation in a process group of its own: it may hang or run out of memory without taking the run along.

Both ends are here. The run starts `python -m tasks.run.evaluation_process JOB` and reads lines of JSON from its
stdout: tokens evaluated, then scores or an error. Nothing is ever written to its stdin, whose end means that the run is
gone. Tasks of lm-eval go the same way (`tasks.run.benchmark_process`).
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

from ghost.errors import EvaluationError, GhostError
from ghost.out_of_memory import out_of_memory_in_one_line
from tasks.run.child import end_group, end_with_the_run, environment, how_it_ended

if TYPE_CHECKING:  # torch takes seconds, and the thread that ends an orphan has to stand before
    from torch import Tensor

    from ghost.evaluation.perplexity import Perplexity
    from ghost.evaluation.recall import Scores

LEVERS = "a smaller --batch-tokens or --window, or --dtype bfloat16"
LAST_WORDS_SECONDS = 60.0
"""An evaluation that has closed its stdout has this long to end by itself, so that its exit code can be had."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to evaluate: model folders by name, in order; windows of `window` tokens; and how to compute."""

    models: dict[str, str]
    window: int
    device: str
    dtype: str
    batch_tokens: int
    threads: int
    """Of each process."""
    processes: int = 1
    recalled: dict[str, str] = field(default_factory=dict)
    """Model folders by name whose recall is compared, with the same prompts for all."""
    tokenizer: str = ""
    """Of those."""
    seed: int = 0


class Measured(NamedTuple):
    """What came out: perplexities by model, and what each prompt of the recall probe got, nothing where the vocabulary
    has too few words for it."""

    perplexities: "dict[str, Perplexity]"
    recall: "Scores"


class Evaluator(Protocol):
    """What `evaluate_apart` is, and what a test may have in its place to save the process."""

    def __call__(self, job: Job, tokens: "Tensor", timeout: float, progress: Callable[[int], None]) -> Measured: ...


def evaluate_apart(job: Job, tokens: "Tensor", timeout: float, progress: Callable[[int], None]) -> Measured:
    """What the job's models do on int32 tokens (length,), computed in a process that ends with this one.

    `progress` is called with the tokens just finished. EvaluationError where the process dies, or is not done after
    `timeout` seconds and is ended; GhostError with the message of one that the process met.
    """
    from ghost.evaluation.perplexity import Perplexity

    with tempfile.TemporaryFile() as text:
        text.write(tokens.numpy().tobytes())
        text.seek(0)
        scores = ask_apart("tasks.run.evaluation_process", asdict(job), timeout, progress, text.fileno())
    perplexities = {name: Perplexity.from_dict(score) for name, score in scores["perplexities"].items()}
    return Measured(perplexities, scores["recall"])


def ask_apart(
    module: str, job: dict[str, Any], timeout: float, progress: Callable[[int], None], *files: int
) -> dict[str, Any]:
    """What `answer_apart` answers in a process that runs `module` on the job and on open files. Errors as above."""
    with tempfile.TemporaryFile() as log:
        with _started(module, job, files, log) as process, _ended_after(timeout, process) as late:
            answer = _listen(process, progress)
        if answer is None:
            raise EvaluationError(_too_slow(timeout) if late.is_set() else _death(process.returncode, log))
    if "refused" in answer:
        raise GhostError(answer["refused"])
    return answer["scores"]


@contextmanager
def _started(
    module: str, job: dict[str, Any], files: Sequence[int], log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, and the end of its whole group when the block is left."""
    command = [sys.executable, "-P", "-m", module, json.dumps(job), *map(str, files)]
    process = subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        pass_fds=files, start_new_session=True,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            end_group(process.pid)


@contextmanager
def _ended_after(seconds: float, process: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
    """End the process after so many seconds; the event tells whether it came to that."""
    late = threading.Event()

    def end() -> None:
        late.set()
        end_group(process.pid)

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _listen(process: subprocess.Popen[bytes], progress: Callable[[int], None]) -> dict[str, Any] | None:
    """Pass progress on until the scores or an error come; None where the process ends without either."""
    assert process.stdout is not None
    for line in process.stdout:
        message = json.loads(line)
        if "evaluated" not in message:
            return message
        progress(message["evaluated"])
    with suppress(subprocess.TimeoutExpired):
        process.wait(LAST_WORDS_SECONDS)
    return None


def _too_slow(timeout: float) -> str:
    return f"the evaluation took longer than {timeout:g} seconds and was ended; give a higher --evaluation-timeout"


def _death(code: int, log: IO[bytes]) -> str:
    return f"the evaluation's process {how_it_ended(code, log)}; see that it has enough memory, or give {LEVERS}"


def answer_apart(scores: Callable[[dict[str, Any], Callable[[int], None]], dict[str, Any]]) -> None:
    """The evaluating process: answers with the scores of the job, its first argument; tells of progress meanwhile."""
    threading.Thread(target=end_with_the_run, daemon=True).start()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**message: Any) -> None:
        print(json.dumps(message), file=answers, flush=True)

    try:
        with out_of_memory_in_one_line(LEVERS):
            found = scores(json.loads(sys.argv[1]), lambda done: answer(evaluated=done))
        answer(scores=found)
    except GhostError as error:
        answer(refused=str(error))


def _answered(job: dict[str, Any], progress: Callable[[int], None]) -> dict[str, Any]:
    """The second argument is the file descriptor to read the tokens from."""
    found = measure(Job(**job), _tokens(int(sys.argv[2])), progress)
    return {"perplexities": {name: s.as_dict() for name, s in found.perplexities.items()}, "recall": found.recall}


def _tokens(descriptor: int) -> "Tensor":
    import torch

    with os.fdopen(descriptor, "rb") as file:
        return torch.frombuffer(bytearray(file.read()), dtype=torch.int32)


def measure(job: Job, tokens: "Tensor", progress: Callable[[int], None]) -> Measured:
    """All that the job asks for, computed in this process, and perplexities in others beside it."""
    import torch

    torch.set_num_threads(job.threads)  # sums depend on how they are shared out
    return Measured(_perplexities(job, tokens, progress), _recall(job, tokens))


def _perplexities(job: Job, tokens: "Tensor", progress: Callable[[int], None]) -> "dict[str, Perplexity]":
    from ghost.evaluation.perplexity import text_batches
    from ghost.following import Computed, LedPerplexity
    from tasks.run.processes import hire

    parts = text_batches(tokens, job.window, job.batch_tokens)
    with hire(min(job.processes, len(parts)), job.threads) as team:
        measured = LedPerplexity(team, Computed(job.device, job.dtype, job.batch_tokens), tokens, job.window)
        return {name: measured.perplexity(folder, progress) for name, folder in job.models.items()}


def _recall(job: Job, tokens: "Tensor") -> "Scores":
    """Without text between pairs and question: seconds, and where a smaller state shows first."""
    if not job.recalled:
        return {}
    from ghost.calibration.tokens import load_tokenizer
    from ghost.evaluation.plan import Plan, numbers
    from ghost.evaluation.recall import compared, make_prompts, possible, shared_words
    from ghost.following import Computed

    computed, plan = Computed(job.device, job.dtype, job.batch_tokens), Plan()
    stacks = {name: computed.stack(folder, 0) for name, folder in job.recalled.items()}
    words = shared_words(load_tokenizer(job.tokenizer), tokens, stacks.values())
    pairs = possible(words, numbers("pairs", plan.pairs, 1))
    prompts = {(count, 0): make_prompts(words, count, 0, plan.samples, job.seed) for count in pairs}
    return compared(stacks, prompts, None)


if __name__ == "__main__":
    answer_apart(_answered)
