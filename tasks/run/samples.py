"""What the figures of an evaluation are means of: each window, prompt and document, of both models, as a table.

With it, any two runs that were evaluated on the same of them can be compared in pairs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from artifacts.schemas import SAMPLES
from artifacts.tables import encode
from ghost.evaluation.perplexity import Perplexity
from ghost.evaluation.recall import Scores
from ghost.evaluation.rows import finite

WINDOWS = ("perplexity", "", "nats")
"""Part, case and metric of the perplexity's windows."""
Row = dict[str, Any]


def window_rows(scores: Mapping[str, Perplexity]) -> Iterator[Row]:
    """Of `dense` and `pruned`."""
    sizes = scores["dense"].window_tokens
    return _rows(WINDOWS, {name: score.window_nats for name, score in scores.items()}, sizes)


def prompt_rows(scores: Scores) -> Iterator[Row]:
    """Of the recall probe."""
    for case, by_metric in scores.items():
        for metric, by_model in by_metric.items():
            yield from _rows(("recall", case, metric), by_model)


def document_rows(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    """Of lm-eval's tasks, as `ghost.evaluation.harness.run_benchmarks` found them for both models."""
    for task, scores in found["dense"].items():
        for metric in scores["metrics"]:
            by_model = {name: of[task]["metrics"][metric]["documents"] for name, of in found.items()}
            if all(by_model.values()):
                yield from _rows(("task", task, metric), by_model)


def samples_table(rows: Iterable[Row]) -> bytes:
    """As Parquet."""
    return encode(pa.Table.from_pylist(list(rows), SAMPLES), SAMPLES)


def _rows(
    figure: tuple[str, str, str], by_model: Mapping[str, Sequence[float]], sizes: Sequence[int] | None = None
) -> Iterator[Row]:
    named = dict(zip(("part", "case", "metric"), figure, strict=True))
    for sample, values in enumerate(zip(*by_model.values(), strict=True)):
        found = dict(zip(by_model, map(finite, values), strict=True))
        yield named | {"sample": sample, "tokens": sizes[sample] if sizes else 1} | found
