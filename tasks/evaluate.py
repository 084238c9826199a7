"""`ghost eval` and `ghost verify`: open one checkpoint or two, measure or compare them, and write what came out."""

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from artifacts.schemas import EVALUATION
from artifacts.tables import encode
from ghost.calibration.tokens import dominant_token, load_tokenizer, read_tokens
from ghost.checkpoint.source import open_checkpoint
from ghost.config import resolve_device, resolve_dtype
from ghost.evaluation import contexts, decode, harness, recall, rows, stored
from ghost.evaluation.plan import Plan, numbers
from ghost.evaluation.stack_module import BATCH, StackModule
from ghost.evaluation.verify import verify
from ghost.out_of_memory import out_of_memory_in_one_line
from ghost.settings import RunSettings
from ghost.stack import Stack, check_vocabulary
from ghost.stored_state import parse_dtypes
from tasks.staging import local
from tasks.wording import display_name

Progress = Callable[[str, int, int], None]
"""Called with a part's name, the steps just finished, and all of its steps."""


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """Everything opened: models by name (`dense` and `pruned`, or `model`), the text's tokens, and where it is from."""

    plan: Plan
    stacks: dict[str, Stack]
    names: dict[str, str]
    tokenizer: Any
    tokens: Tensor
    text: str
    warnings: list[str]

    @cached_property
    def prompts(self) -> dict[tuple[int, int], recall.Prompts]:
        """Of recall, by pairs and distance; made once for all parts that ask them."""
        plan = self.plan
        words = recall.shared_words(self.tokenizer, self.tokens, self.stacks.values())
        cases = [(n, d) for n in numbers("pairs", plan.pairs, 1) for d in numbers("distances", plan.distances, 0)]
        return {case: recall.make_prompts(words, *case, plan.samples, plan.seed) for case in cases}


def open_assessment(
    plan: Plan,
    checkpoint: str,
    against: str | None,
    *,
    text: str,
    tokenizer: str | None,
    device: str,
    dtype: str,
    batch_tokens: int | None,
) -> Assessment:
    """Open models and text; GhostError or ArtifactError for what is not there or does not belong together."""
    settings = RunSettings.make(device=device, dtype=dtype, batch_tokens=batch_tokens)
    place = resolve_device(settings.device)
    specs = {"dense": against, "pruned": checkpoint} if against else {"model": checkpoint}
    sources = {name: open_checkpoint(local(spec, "model")) for name, spec in specs.items()}
    words = local(tokenizer, "tokenizer") if tokenizer else sources[list(sources)[-1]].folder
    loaded = load_tokenizer(words)
    tokens, warnings = read_tokens(loaded, local(text, "text"), "evaluation")
    for source in sources.values():
        check_vocabulary(source, tokens)
    return Assessment(
        plan=plan,
        stacks={
            name: Stack(s, place, resolve_dtype(settings.dtype, place), batch_tokens=settings.batch_tokens)
            for name, s in sources.items()
        },
        names={name: display_name(spec) for name, spec in specs.items()},
        tokenizer=loaded, tokens=tokens, text=display_name(text),
        warnings=warnings + dominant_token(tokens, loaded, "evaluation"),
    )  # fmt: skip


@out_of_memory_in_one_line("a smaller --batch-tokens, fewer or shorter --contexts, or --dtype bfloat16")
def measure(opened: Assessment, progress: Progress) -> dict[str, Any]:
    """Everything but the tasks: models, protocols, `rows` as `ghost.evaluation.rows` has them, and `warnings`."""
    parts = _contexts, _recall, _stored, _decoding
    found = [row for part in parts for row in part(opened, progress)]
    return {"models": _models(opened), "protocol": _protocol(opened), "rows": found, "warnings": opened.warnings}


def _models(opened: Assessment) -> dict[str, Any]:
    return {
        name: {
            "name": opened.names[name],
            "digest": stack.checkpoint.digest,
            "parameters": stack.checkpoint.parameters,
            "d_state": stack.checkpoint.mixer_layout.d_state,
            "layers": stack.layers,
            "mixers": len(stack.mixers),
        }
        for name, stack in opened.stacks.items()
    }


def _protocol(opened: Assessment) -> dict[str, Any]:
    stack, plan = next(iter(opened.stacks.values())), opened.plan
    return {
        "text": opened.text, "text_tokens": len(opened.tokens), "tokenizer": type(opened.tokenizer).__name__,
        "vocabulary": len(opened.tokenizer), "device": str(stack.device),
        "dtype": str(stack.dtype).removeprefix("torch."), "threads": torch.get_num_threads(), "seed": plan.seed,
        "context": contexts.PROTOCOL, "recall": recall.PROTOCOL, "state": stored.PROTOCOL,
        "decode": decode.PROTOCOL,
        "predicted_tokens": len(_segments(opened, plan.segments)) * contexts.PREDICTED,
        "recall_samples": plan.samples,
    }  # fmt: skip


def _segments(opened: Assessment, most: int) -> Tensor:
    """As many segments of the longest context, none without contexts."""
    lengths = numbers("contexts", opened.plan.contexts, 1)
    count = min(most, opened.plan.segments)
    return contexts.segments(opened.tokens, max(lengths), count) if lengths else opened.tokens[:0, None]


def _contexts(opened: Assessment, progress: Progress) -> Iterator[rows.Row]:
    if not (lengths := numbers("contexts", opened.plan.contexts, 1)):
        return
    segments_bl = _segments(opened, opened.plan.segments)
    total = len(opened.stacks) * sum(length + contexts.PREDICTED - 1 for length in lengths) * len(segments_bl)
    for length in lengths:
        nlls = {
            name: contexts.context_nll(
                stack, segments_bl, length, lambda done: progress("contexts, tokens", done, total)
            )
            for name, stack in opened.stacks.items()
        }
        yield from rows.perplexities("context", str(length), nlls)


def _recall(opened: Assessment, progress: Progress) -> Iterator[rows.Row]:
    total = len(opened.stacks) * _tokens(opened.prompts)
    scores = recall.compared(opened.stacks, opened.prompts, lambda done: progress("recall, tokens", done, total))
    yield from recall.recall_rows(scores)


def _tokens(prompts: dict[tuple[int, int], recall.Prompts]) -> int:
    return sum(made.tokens_bl.numel() for made in prompts.values())


def _stored(opened: Assessment, progress: Progress) -> Iterator[rows.Row]:
    if not (dtypes := parse_dtypes(opened.plan.state_dtype)):
        return
    windows_bl, prompts = _segments(opened, stored.WINDOWS), opened.prompts
    read_once = len(stored.ways(dtypes)) * windows_bl[:, 1:].numel() + len(stored.decoding(dtypes)) * _tokens(prompts)
    total = len(opened.stacks) * read_once

    def read(done: int) -> None:
        progress("states, tokens", done, total)

    yield from stored.sizes(opened.stacks, dtypes)
    if len(windows_bl):
        yield from stored.by_precision(opened.stacks, windows_bl, dtypes, read)
    yield from stored.recalled(opened.stacks, prompts, dtypes, read)


def _decoding(opened: Assessment, progress: Progress) -> Iterator[rows.Row]:
    if not (sizes := numbers("batch_sizes", opened.plan.batch_sizes, 1)):
        return
    models = {name: _stock(stack) for name, stack in opened.stacks.items()}
    total = len(sizes) * (decode.ROUNDS + 1)
    for batch in sizes:
        prompt = opened.tokens[: decode.PROMPT]
        timed = decode.decode(models, prompt, batch, lambda done: progress("decoding, rounds", done, total))
        yield from _decoded(f"batch {batch}", batch, timed)


def _stock(stack: Stack) -> Any:
    return decode.stock_model(stack.checkpoint, stack.device, stack.dtype)


def _decoded(case: str, batch: int, timed: dict[str, decode.Decoding]) -> Iterator[rows.Row]:
    tokens = batch * decode.STEPS
    speeds = {name: (tokens / statistics.median(t.seconds), None) for name, t in timed.items()}
    found = rows.measured("decode", case, "tokens_per_second", speeds)
    if len(timed) == 2:  # in turns within a round, so a busy moment slows both
        dense, pruned = (t.seconds for t in timed.values())
        found[-1]["value"] = statistics.median(d / p for d, p in zip(dense, pruned, strict=True)) - 1
    yield from found
    hybrid = any(t.kv_bytes for t in timed.values())
    for metric in ("ssm_bytes", "conv_bytes", *(["kv_bytes"] if hybrid else [])):
        sizes = {name: (float(getattr(t, metric)), None) for name, t in timed.items()}
        yield from rows.measured("decode", case, metric, sizes)


def run_benchmarks(opened: Assessment) -> tuple[list[rows.Row], dict[str, Any]]:
    """Rows of the plan's lm-eval tasks, and their protocol with versions and samples. Both empty without tasks."""
    plan, tasks = opened.plan, opened.plan.benchmark_list()
    if not tasks.names:
        return [], {}
    manager = harness.benchmark_manager(tasks)

    def found(module_of: Callable[[Stack], Any], batch: int) -> dict[str, Any]:
        return {
            name: harness.run_benchmarks(
                module_of(stack), opened.tokenizer, tasks, manager=manager, limit=plan.limit, seed=plan.seed,
                batch=batch,
            )
            for name, stack in opened.stacks.items()
        }  # fmt: skip

    stock = found(_stock, 1)
    measured = list(rows.of_benchmarks(stock))
    for way in stored.decoding(parse_dtypes(plan.state_dtype)):
        by_model = found(lambda stack, way=way: StackModule(stack.storing(way)), BATCH)
        measured += stored.of_benchmarks(way, by_model)
    about = {task: {key: s[key] for key in ("samples", "version")} for task, s in next(iter(stock.values())).items()}
    return measured, {"tasks": harness.PROTOCOL, "task_details": about, "limit": plan.limit}


def _json(results: dict[str, Any]) -> str:
    return json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_results(results: dict[str, Any], folder: Path) -> None:
    """results.json, and its rows as results.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(_json(results), encoding="utf-8")
    (folder / "results.parquet").write_bytes(encode(pa.Table.from_pylist(results["rows"], EVALUATION), EVALUATION))


@out_of_memory_in_one_line("a smaller --tokens")
def verify_checkpoint(checkpoint: str, against: str, corpus: str, tokens: int) -> dict[str, Any]:
    """Compare on the first tokens of a corpus; see `ghost.evaluation.verify`."""
    source, folder = open_checkpoint(local(against, "model")), open_checkpoint(Path(local(checkpoint, "model"))).folder
    ids, _ = read_tokens(load_tokenizer(folder), local(corpus, "text"), "evaluation", tokens)
    return verify(folder, source, ids.to(torch.long))
