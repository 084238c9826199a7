"""The page of several runs beside each other: one HTML file, as the page of a run is."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ghost.report.figures import asked, megabytes, millions, perplexity, plural, rise, signed_percent
from ghost.report.overlap import ComparedRun, Overlap, overlaps
from ghost.report.pictures import heat_map, quality
from ghost.report.shell import document, plot, section, text
from ghost.report.table import Cell, sortable
from ghost.report.verdict import state_words

HEADINGS = (
    "Run", "Method", "Sparsity", "Recovery", "Calibration", "Perplexity", "Rise", "State, MB", "Parameters",
)  # fmt: skip

SHORT_ID = 8
"""Characters of a run's id that tell it from the others of a store."""


def render_comparison(runs: Sequence[ComparedRun]) -> str:
    """The page as text, below 6 MB, to be written as UTF-8; `runs` in the order to show them, at least two."""
    labels, found = run_labels(runs), overlaps(runs)
    title = f"{plural(len(runs), 'run')} of {', '.join(sorted({run.summary['model'] for run in runs}))}"
    figures = {"quality": quality(runs, labels)} | ({"overlap": heat_map(found, labels)} if found else {})
    content = [
        f"<header>\n<h1>{escape(title)}</h1>\n</header>",
        _verdict(runs, labels),
        section("Runs", _table(runs), text(_caveat(runs), "note")),
        section("Perplexity against state", plot("quality", "Scatter plot: perplexity of each run by size of state")),
        _overlap_section(found),
    ]
    return document(f"ghost: {title}", "\n".join(content), {"figures": figures})


def run_labels(runs: Sequence[ComparedRun]) -> list[str]:
    """A short name for each run, such as `ghost 50% lstsq`, with the run's id where two would be alike."""
    names = [_label(run.summary, several=len({run.source for run in runs}) > 1) for run in runs]
    often = Counter(names)
    ids = [run.summary["run_id"][:SHORT_ID] for run in runs]
    return [name if often[name] == 1 else f"{name} ({i})" for name, i in zip(names, ids, strict=True)]


def _label(summary: Mapping[str, Any], *, several: bool) -> str:
    recovery = summary["recovery"]
    parts = [summary["model"] if several else "", summary["method"], asked(summary)]
    return " ".join(filter(None, [*parts, "" if recovery == "none" else recovery]))


def _verdict(runs: Sequence[ComparedRun], labels: Sequence[str]) -> str:
    sentences = list(_bests(runs, labels))
    if not sentences:
        return text("No two of these runs leave the same model with as large a state.", "muted")
    told = "".join(text(best, "lead") + text(others) for best, others in sentences)
    return f'<div class="verdict">\n{told}\n</div>'


def _bests(runs: Sequence[ComparedRun], labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Who does best and how the others do, where runs of a model have as large a state; largest state first."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, run in enumerate(runs):
        state = run.summary["state_bytes"]
        alike.setdefault((-state["pruned"] / state["dense"], run.source, *_protocol(run)), []).append(i)
    for _, members in sorted(alike.items(), key=lambda item: item[0][:2]):
        if len(members) > 1:
            ranked = sorted(members, key=lambda i: _finite_first(rise(runs[i].summary["perplexity"])))
            best, *others = (f"{_rise(runs[i])} perplexity with {labels[i]}" for i in ranked)
            words = state_words(runs[ranked[0]].summary)
            yield f"{words[0].upper()}{words[1:]}: {best}, the least of {len(ranked)}.", f"Then {', '.join(others)}."


def _finite_first(share: float | None) -> float:
    return math.inf if share is None else share


def _rise(run: ComparedRun) -> str:
    return signed_percent(rise(run.summary["perplexity"]), 1)


def _protocol(run: ComparedRun) -> tuple[Any, ...]:
    return tuple(run.summary["evaluation"][name] for name in ("corpus", "window", "tokens", "protocol"))


def _caveat(runs: Sequence[ComparedRun]) -> str:
    told = "Rise: of perplexity over the run's own dense model. State: per sequence, in units of a million bytes."
    if len({_protocol(run) for run in runs}) > 1:
        told += " These runs were not all evaluated on the same text in the same windows: don't compare perplexities."
    return told


def _table(runs: Sequence[ComparedRun]) -> str:
    """With the models' names where there are several."""
    rows = [_row(run.summary) for run in runs]
    if len({run.source for run in runs}) == 1:
        return sortable("Runs; the headings sort", HEADINGS, rows)
    named = [[*row, Cell(text=run.summary["model"])] for row, run in zip(rows, runs, strict=True)]
    return sortable("Runs; the headings sort", [*HEADINGS, "Model"], named)


def _row(summary: Mapping[str, Any]) -> list[Cell]:
    calibration, share = summary["calibration"], rise(summary["perplexity"])
    ppl, state, size = (summary[name]["pruned"] for name in ("perplexity", "state_bytes", "parameters"))
    return [
        Cell(text=summary["run_id"][:SHORT_ID]),
        Cell(text=summary["method"]),
        Cell(text=asked(summary), value=summary["sparsity"]),
        Cell(text=summary["recovery"]),
        Cell(text=f"{calibration['corpus']}, {calibration['samples']:,} × {calibration['length']:,}"),
        Cell(text=perplexity(ppl), value=ppl),
        Cell(text=signed_percent(share), value=share),
        Cell(text=megabytes(state), value=state),
        Cell(text=millions(size), value=size),
    ]


def _overlap_section(found: Sequence[Overlap]) -> str:
    if not found:
        return section("Channels in common", text("No two of these runs chose among channels of the same model."))
    words = (
        "Jaccard index of the kept channels, layer by layer: those that both runs keep, as a share of those that "
        "either keeps. Runs that keep different numbers of channels can't reach more than the smaller number by the "
        "larger. Point at a field for what independent random choices of as many would reach."
    )
    return section("Channels in common", text(words), plot("overlap", "Heat map: channels in common, pair by layer"))
