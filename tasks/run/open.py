"""A run, opened: everything that can be refused is refused here, before the first layer."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from artifacts.claims import holds
from artifacts.digest import identity, sha256_bytes, sha256_file
from artifacts.keys import PruningKeys, RunKeys
from artifacts.manifest import write_record
from artifacts.schemas import FORMAT_VERSION, TOKENS
from artifacts.store import Store, open_store
from artifacts.tables import encode
from ghost.budget import resolve_batch_tokens
from ghost.calibration.tokens import digest, dominant_token, enough, load_tokenizer, read_tokens, sample_windows
from ghost.checkpoint.companions import companions_digest
from ghost.checkpoint.sizes import check_memory
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.checkpoint.tokenizer import tokenizer_files
from ghost.config import resolve_device, resolve_dtype
from ghost.convert import check_native
from ghost.errors import CorpusError, SettingsError
from ghost.evaluation.harness import BenchmarkList, benchmark_manager, parse_benchmarks
from ghost.following import LedWalk
from ghost.kernels import versions
from ghost.pruning import Pruning
from ghost.saliency import form_of
from ghost.settings import RunSettings
from ghost.stack import Stack, check_vocabulary
from ghost.stream import batches
from ghost.team import Gang, Team
from ghost.walk import Walk, check_source
from tasks.progress import SILENT, Progress
from tasks.run.evaluation_process import Evaluator, evaluate_apart
from tasks.run.out import check_out
from tasks.run.processes import hire, join, processes_for, threads_each, torchrun_processes
from tasks.staging import local
from tasks.tables import token_columns
from tasks.wording import display_name


class Computing(NamedTuple):
    """How many processes compute, on how many threads each; and those of them that walk through the layers."""

    processes: int
    threads: int
    team: Team


class Run:
    """One run, opened: settings, store, model, texts, and the walk through the model. What the stages find out, they
    hand to each other; nothing of it is kept here. A plain class: Prefect must not look inside.

    `settings` name model, tokenizer and texts as the user did; `source` and `tokenizer` are where they lie here.
    `pruning` are the keys of what all runs that prune alike share, `keys` those of this run. `warnings` are sentences
    that the figures should not be read without.
    """

    evaluator: ClassVar[Evaluator] = staticmethod(evaluate_apart)
    """Tests have one that saves the process."""

    def __init__(
        self,
        settings: RunSettings,
        store: Store,
        source: Checkpoint,
        tokenizer: str,
        calibration_bl: Tensor,
        text: Tensor,
        benchmarks: BenchmarkList,
        progress: Progress,
        warnings: list[str],
        computing: Computing,
    ) -> None:
        self.settings, self.store, self.source, self.tokenizer = settings, store, source, tokenizer
        self.stack = Stack(source, *_computed_on(settings), batch_tokens=settings.batch_tokens)
        self.calibration_bl, self.evaluation_tokens, self.benchmarks = calibration_bl, text, benchmarks
        self.computing = computing
        self.walk = _walk(self.stack, calibration_bl, settings, computing.team)
        self.progress, self.warnings = progress, warnings
        self.prune_determinants = _prune_determinants(self)
        self.pruning = PruningKeys.of(identity(self.prune_determinants))
        self.determinants = _determinants(self)
        self.keys = RunKeys(identity(self.determinants))


def open_run(settings: RunSettings, progress: Progress = SILENT, joins: bool = False) -> Run:
    """Open model, texts and store, and store nothing yet; `joins` the other processes if torchrun started this one.

    Raises GhostError or ArtifactError for whatever is wrong with them."""
    computed_on = _computed_on(settings)
    joined = torchrun_processes(settings) if joins else 1
    processes = joined if joined > 1 else processes_for(settings, computed_on[0])
    benchmarks = _benchmarks(settings)
    source = open_checkpoint(local(settings.model, "model"))
    settings = settings.resolved(source.mixer_layout.d_state)
    check_source(source, settings)
    _check_format(source, settings)
    check_memory(source, *computed_on, processes)
    tokenizer = local(settings.tokenizer, "tokenizer") if settings.tokenizer else str(source.folder)
    words, most = load_tokenizer(tokenizer), enough(settings.samples, settings.length)
    calibration, left_out = read_tokens(words, local(settings.calibration, "text"), "calibration", most)
    calibration_bl = sample_windows(calibration, settings.samples, settings.length, settings.seed)
    text, unread = read_tokens(words, local(settings.evaluation, "text"), "evaluation")
    if len(text) <= settings.window:
        raise CorpusError(
            f"--window {settings.window} is longer than the evaluation text of {len(text)} tokens; "
            f"give --window {max(2, len(text) - 1)} or less, or a longer text"
        )
    check_vocabulary(source, torch.cat([calibration, text]))
    warnings = [*left_out, *dominant_token(calibration_bl, words, "calibration")]
    warnings += [*unread, *dominant_token(text, words, "evaluation")]
    store = open_store(settings.store)
    batch_tokens = resolve_batch_tokens(settings.batch_tokens, source.mixer_layout, computed_on[0])
    useful = len([*batches(*calibration_bl.shape, batch_tokens=batch_tokens)])
    threads = threads_each(processes)
    team = join(min(joined, useful)) if joined > 1 else hire(min(processes, useful), threads)
    computing = Computing(processes, threads, team)
    run = Run(settings, store, source, tokenizer, calibration_bl, text, benchmarks, progress, warnings, computing)
    check_out(settings.out, run.keys.run_id)
    return run


def _check_format(source: Checkpoint, settings: RunSettings) -> None:
    """CheckpointError or SettingsError where the finished checkpoint is none that --format can hold."""
    if settings.format == "hf":
        return
    check_native(source)
    if form_of(settings.method, soft=settings.soft).carries_code:
        raise SettingsError(
            f"format native has no words for the projected checkpoint that method {settings.method} makes; choose "
            "--format hf, or another method, e.g. ghost with --recovery fit"
        )


def write_records(run: Run) -> dict[str, str]:
    """run.json, pruning.json and the calibration tokens, where the store does not have them; their digests by key."""
    tokens = encode(token_columns(run.calibration_bl), TOKENS)
    if not holds(run.store, run.pruning.tokens, sha256_bytes(tokens)):
        run.store.put(run.pruning.tokens, tokens)
    return {
        run.keys.run: write_record(run.store, run.keys.run, _record(run)),
        run.pruning.pruning: write_record(run.store, run.pruning.pruning, _pruning_record(run)),
        run.pruning.tokens: sha256_bytes(tokens),
    }


def _computed_on(settings: RunSettings) -> tuple[torch.device, torch.dtype]:
    device = resolve_device(settings.device)
    return device, resolve_dtype(settings.dtype, device)


def _benchmarks(settings: RunSettings) -> BenchmarkList:
    """The tasks that are asked for, all of them known to lm-eval, which is here."""
    tasks = parse_benchmarks(settings.tasks, allow_code=settings.allow_code, fetch=lambda path: local(path, "text"))
    if tasks.names:
        benchmark_manager(tasks)
    return tasks


def _walk(stack: Stack, tokens_bl: Tensor, settings: RunSettings, team: Team) -> Walk:
    return LedWalk(stack, tokens_bl, settings, team) if isinstance(team, Gang) else Walk(stack, tokens_bl, settings)


def published_tokenizer(run: Run) -> dict[str, bytes] | None:
    """The files of the tokenizer that takes the place of the model's own, by name; None where that one stays."""
    return tokenizer_files(load_tokenizer(run.tokenizer)) if run.settings.tokenizer else None


def _prune_determinants(run: Run) -> dict[str, Any]:
    """Everything that the pruned layers' bytes depend on; paths and names are not among it."""
    inputs = {"checkpoint": run.source.digest, "calibration": digest(run.calibration_bl)}
    return {"format": FORMAT_VERSION} | inputs | run.settings.part(Pruning).digested() | numerics(run)


def numerics(run: Run) -> dict[str, Any]:
    """What rounds: precision, kind of device, how many tokens are computed at once, and whose code computes."""
    dtype, batch = str(run.stack.dtype).removeprefix("torch."), run.stack.batch_tokens
    code = {"ghost": version("ghost-ssm"), "torch": torch.__version__, "transformers": version("transformers")}
    kernels = versions() if run.stack.device.type == "cuda" else {}
    return {"dtype": dtype, "device": run.stack.device.type, "batch_tokens": batch} | code | kernels


def _determinants(run: Run) -> dict[str, Any]:
    """What published files and figures depend on beside the pruned layers."""
    tokenizer = published_tokenizer(run)
    published = {"tokenizer": None if tokenizer is None else companions_digest(tokenizer)}
    published |= {"format": run.settings.format}
    asked, files = run.benchmarks, {n: sha256_file(Path(path)) for n, path in run.benchmarks.files.items()}
    tasks = {"names": list(asked.names), "files": files, "limit": run.settings.limit} if asked.names else None
    figures = {"evaluation": digest(run.evaluation_tokens), "window": run.settings.window, "tasks": tasks}
    return {"prune_id": run.pruning.prune_id} | published | figures


def _record(run: Run) -> dict[str, Any]:
    """run.json: the determinants, and where they came from by name; no paths of this machine."""
    return {
        "run_id": run.keys.run_id,
        "prune_id": run.pruning.prune_id,
        "determinants": run.determinants,
        "model": display_name(run.settings.model),
        "calibration": corpus_record(run),
        "evaluation": {"corpus": display_name(run.settings.evaluation), "tokens": len(run.evaluation_tokens)},
        "python": platform.python_version(),
        "warnings": run.warnings,
    }


def _pruning_record(run: Run) -> dict[str, Any]:
    """pruning.json: of what is the same for all runs that prune alike."""
    return {"prune_id": run.pruning.prune_id, "determinants": run.prune_determinants}


def corpus_record(run: Run) -> dict[str, Any]:
    settings = run.settings
    sample = {"samples": settings.samples, "length": settings.length, "seed": settings.seed}
    return {"corpus": display_name(settings.calibration)} | sample
