"""A run, opened: everything that can be refused is refused here, before the first layer."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from artifacts.digest import run_id, sha256_file
from artifacts.folders import SCHEME
from artifacts.keys import RunKeys
from artifacts.manifest import LayerRecord, check_run_format, finished, write_run
from artifacts.schemas import FORMAT_VERSION, TOKENS
from artifacts.store import Store, open_store
from artifacts.tables import encode
from ghost.backbone import Backbone, check_vocabulary
from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import digest, sample_windows, tokenize
from ghost.checkpoint.links import check_links
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.config import resolve_device, resolve_dtype
from ghost.errors import CorpusError
from ghost.evaluation.harness import TaskList, parse_tasks, task_manager
from ghost.saliency import find_method
from ghost.settings import RunSettings
from ghost.walk import Walk
from tasks.run.evaluation_process import Evaluator, evaluate_apart
from tasks.run.out import check_out
from tasks.staging import local
from tasks.tables import token_columns

METHOD_FIELDS = (
    "sparsity",
    "energy",
    "method",
    "policy",
    "round_to",
    "soft",
    "sequential",
    "recovery",
    "seed",
    "window",
)


class Run:
    """One run's settings, store, model, texts and walk. A plain class: Prefect must not look inside.

    `settings` name model, tokenizer and texts as the user did; `source` and `tokenizer` are where they lie here.
    """

    evaluator: ClassVar[Evaluator] = staticmethod(evaluate_apart)

    def __init__(
        self,
        settings: RunSettings,
        store: Store,
        source: Checkpoint,
        tokenizer: str,
        calibration_bl: Tensor,
        text: Tensor,
        tasks: TaskList,
    ) -> None:
        device = resolve_device(settings.device)
        self.settings, self.store, self.source, self.tokenizer = settings, store, source, tokenizer
        self.backbone = Backbone(source, device, resolve_dtype(settings.dtype, device))
        self.calibration_bl, self.evaluation_tokens, self.tasks = calibration_bl, text, tasks
        self.walk = Walk(self.backbone, calibration_bl, settings)
        self.determinants = _determinants(self)
        self.keys = RunKeys(run_id(self.determinants))
        self.records: dict[int, LayerRecord] = {}
        self.cached: set[int] = set()
        self.was_finished = finished(store, self.keys)

    def chain(self, layer: int) -> str:
        """What layer's content depends on: the layer before it, or the run's own determinants."""
        return self.records[layer - 1].digest if layer else self.keys.run_id

    def done(self, layer: int, record: LayerRecord, *, cached: bool) -> None:
        self.records[layer] = record
        if cached:
            self.cached.add(layer)


_waiting: dict[RunSettings, Run] = {}


def open_ahead(settings: RunSettings) -> None:
    """Open a run for the `open_run` that follows in this process: whatever is wrong with model, texts or store then
    shows before a Prefect server has to start."""
    _waiting[settings] = _open(settings)


def open_run(settings: RunSettings) -> Run:
    """Open model, texts and store; write run.json and the calibration tokens. Raises GhostError or ArtifactError."""
    run = _waiting.pop(settings, None) or _open(settings)
    if not run.was_finished:
        write_run(run.store, run.keys, _record(run))
        run.store.put(run.keys.tokens, encode(token_columns(run.calibration_bl), TOKENS))
    return run


def _open(settings: RunSettings) -> Run:
    find_method(settings.method)
    resolve_device(settings.device)
    tasks = _tasks(settings)
    source = open_checkpoint(local(settings.model, "model"))
    tokenizer = _tokenizer(settings.tokenizer) if settings.tokenizer else str(source.folder)
    calibration = tokenize(tokenizer, read_text(local(settings.calibration, "text"), "calibration"))
    calibration_bl = sample_windows(calibration, settings.samples, settings.length, settings.seed)
    text = tokenize(tokenizer, read_text(local(settings.evaluation, "text"), "evaluation"))
    if len(text) <= settings.window:
        raise CorpusError(
            f"--window {settings.window} is longer than the evaluation text of {len(text)} tokens; "
            f"give --window {max(2, len(text) - 1)} or less, or a longer text"
        )
    check_vocabulary(source, torch.cat([calibration, text]))
    run = Run(settings, open_store(settings.store), source, tokenizer, calibration_bl, text, tasks)
    check_run_format(run.store, run.keys)
    check_out(settings.out, run.keys.run_id)
    return run


def _tasks(settings: RunSettings) -> TaskList:
    """The tasks that are asked for, all of them known to lm-eval, which is here."""
    tasks = parse_tasks(settings.tasks, allow_code=settings.allow_code, fetch=lambda path: local(path, "text"))
    if tasks.names:
        task_manager(tasks)
    return tasks


def _tokenizer(spec: str) -> str:
    """A tokenizer of its own travels with the checkpoint: a link in its folder must not take other files along."""
    tokenizer = local(spec, "tokenizer")
    if Path(tokenizer).is_dir():
        check_links(Path(tokenizer))
    return tokenizer


def _determinants(run: Run) -> dict[str, Any]:
    """Everything that the result's bytes depend on; paths and names are not among it."""
    settings, tasks = run.settings, _task_determinants(run)
    return (
        {
            "format": FORMAT_VERSION,
            "checkpoint": run.source.digest,
            "calibration": digest(run.calibration_bl),
            "evaluation": digest(run.evaluation_tokens),
            "device": run.backbone.device.type,
            "dtype": str(run.backbone.dtype).removeprefix("torch."),
        }
        | {name: getattr(settings, name) for name in METHOD_FIELDS}
        | tasks
    )


def _task_determinants(run: Run) -> dict[str, Any]:
    """Nothing for a run without tasks, which keeps the id that it had before there were any."""
    if not run.tasks.names:
        return {}
    files = {name: sha256_file(Path(path)) for name, path in run.tasks.files.items()}
    return {"tasks": {"names": list(run.tasks.names), "files": files, "limit": run.settings.limit}}


def _record(run: Run) -> dict[str, Any]:
    """run.json: the determinants, and where they came from by name; no paths of this machine."""
    return {
        "run_id": run.keys.run_id,
        "determinants": run.determinants,
        "model": display_name(run.settings.model),
        "calibration": corpus_record(run),
        "evaluation": {"corpus": display_name(run.settings.evaluation), "tokens": len(run.evaluation_tokens)},
        "versions": {"ghost": version("ghost-ssm"), "torch": torch.__version__, "python": platform.python_version()},
    }


def corpus_record(run: Run) -> dict[str, Any]:
    settings = run.settings
    sample = {"samples": settings.samples, "length": settings.length, "seed": settings.seed}
    return {"corpus": display_name(settings.calibration)} | sample


def display_name(spec: str) -> str:
    """A model or corpus by name: hub names whole, paths and s3:// addresses without their folders."""
    return Path(spec).name if Path(spec).exists() or spec.startswith(("/", ".", "~", SCHEME)) else spec
