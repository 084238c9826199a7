"""LAMBADA for the models of `bench.train_text`: the last word of passages that they learned from, and of new ones.

By lm-eval over local files, as `ghost eval --tasks local_lambada:FILE` has it: accuracy (every token of the last word
is the most likely one) and perplexity of the last word.
"""

import json
from pathlib import Path
from typing import Any

from bench.train_text import HELD_OUT
from ghost.calibration.corpus import SEPARATOR
from ghost.calibration.files import json_rows
from ghost.calibration.tokens import load_tokenizer
from ghost.evaluation.decode import stock_model
from ghost.evaluation.harness import benchmark_manager, parse_benchmarks, run_benchmarks
from ghost.stack import Stack

TASK = "local_lambada"
LEARNED, NEW = "passages learned from", "passages held out"
Figures = dict[str, Any]


def split(path: Path) -> dict[str, list[str]]:
    """The passages that training held out, and as many of those that it learned from, evenly spread. The one at the
    cut is neither."""
    passages = [row["text"] for _, row in json_rows(path)]
    length = len(SEPARATOR.join(passages))
    end, learned, new = length - length // HELD_OUT, list[str](), list[str]()
    at = 0
    for passage in passages:
        if at + len(passage) <= end:
            learned.append(passage)
        elif at >= end:
            new.append(passage)
        at += len(passage) + len(SEPARATOR)
    return {LEARNED: learned[:: max(1, len(learned) // len(new))][: len(new)], NEW: new}


def write(path: Path, folder: Path) -> dict[str, Path]:
    """A file of its own for each part."""
    files = {}
    for name, passages in split(path).items():
        files[name] = folder / f"{name.replace(' ', '-')}.jsonl"
        files[name].write_text("".join(json.dumps({"text": passage}) + "\n" for passage in passages), encoding="utf-8")
    return files


def metrics(model: Any, folder: Path, path: Path | str, limit: int | None = None, batch: int = 1) -> Figures:
    """lm-eval's figures by name, of at most `limit` passages of the file; `folder` has the model's tokenizer."""
    tasks = parse_benchmarks(f"{TASK}:{path}", allow_code=False)
    tokenizer, manager = load_tokenizer(folder), benchmark_manager(tasks)
    return run_benchmarks(model, tokenizer, tasks, manager=manager, limit=limit, seed=0, batch=batch)[TASK]["metrics"]


def measure(stack: Stack, files: dict[str, Path]) -> Figures:
    """For each part whether each last word was said, the share of them that was, and its perplexity."""
    source, figures = stack.checkpoint, Figures()
    model = stock_model(source, stack.device, stack.dtype)
    for name, path in files.items():
        found = metrics(model, source.folder, path)
        figures |= {f"{name}: accuracy": found["acc"]["value"], f"{name}: perplexity": found["perplexity"]["value"]}
        figures[f"{name}: said"] = found["acc"]["documents"]
    return figures
