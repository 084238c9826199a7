"""The page of several runs beside each other: one HTML file, as the page of a run is."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ghost.report.comparison_plots import heat_map, quality
from ghost.report.document import from_template
from ghost.report.figures import (
    NO_DIFFERENCE,
    NOT_FINITE,
    asked,
    error_of_rise,
    in_form,
    megabytes,
    millions,
    percent_change,
    perplexity,
    plural,
    rise,
    rise_of_perplexity,
    with_noise,
)
from ghost.report.overlap import ComparedRun, overlaps
from ghost.report.paired_runs import PERPLEXITY, Difference, Figure, difference, figures_of
from ghost.report.table import BLANK, Cell, Table, figure_cell
from ghost.report.verdict import state_words

HEADINGS = (
    "Run", "Method", "Sparsity", "Recovery", "Calibration", "Perplexity", "Rise", "Against the first", "State, MB",
    "Parameters",
)  # fmt: skip

SHORT_ID = 8
"""Characters of a run's id that tell it from the others of a store."""


def render_comparison(runs: Sequence[ComparedRun]) -> str:
    """The page as text, below 6 MB, to be written as UTF-8; `runs` in the order to show them, at least two."""
    labels, found = run_labels(runs), overlaps(runs)
    figures = {"quality": quality(runs, labels)} | ({"overlap": heat_map(found, labels)} if found else {})
    return from_template(
        "compare.html.j2",
        title=f"{plural(len(runs), 'run')} of {', '.join(sorted({run.summary['model'] for run in runs}))}",
        bests=list(_bests(runs, labels)),
        run_table=_table(runs),
        figure_table=_figure_table(runs, labels),
        several_protocols=len({_protocol(run) for run in runs}) > 1,
        data={"figures": figures},
    )


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


def _bests(runs: Sequence[ComparedRun], labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Who does best and how the others do, where runs of a model have as large a state; largest state first."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, run in enumerate(runs):
        state = run.summary["state_bytes"]
        alike.setdefault((-state["pruned"] / state["dense"], run.source, *_protocol(run)), []).append(i)
    for _, members in sorted(alike.items(), key=lambda item: item[0][:2]):
        if len(members) > 1:
            words = state_words(runs[members[0]].summary)
            yield _best(f"{words[0].upper()}{words[1:]}", [(runs[i], labels[i]) for i in members])


def _best(state: str, members: Sequence[tuple[ComparedRun, str]]) -> tuple[str, str]:
    """A sentence about the run that lost least, and one about the others."""
    ranked = sorted(members, key=lambda member: _rise_or_worse(member[0].summary))
    first, *rest = ranked
    best = f"{rise_of_perplexity(first[0].summary)} with {first[1]}"
    others = [f"{rise_of_perplexity(run.summary)} with {label}{_but(first[0], run)}" for run, label in rest]
    if rise(ranked[0][0].summary["perplexity"]) is None:
        return f"{state}: perplexity {NOT_FINITE} with any of {len(ranked)} runs.", ""
    return f"{state}: {best}, the least of {len(ranked)}.", f"Then {', '.join(others)}."


def _but(best: ComparedRun, run: ComparedRun) -> str:
    """What the two figures don't say: that they may as well be the same."""
    return f" ({NO_DIFFERENCE})" if difference(best.samples, run.samples).is_noise else ""


def _rise_or_worse(summary: Mapping[str, Any]) -> float:
    """What is not finite comes last."""
    share = rise(summary["perplexity"])
    return math.inf if share is None else share


def told(found: Difference, form: str = "{:+,.1%}") -> str:
    """A difference with its error, or why there is none."""
    return found.why_not or with_noise(found.value, found.error, form).replace("-", "−")


def _figure_table(runs: Sequence[ComparedRun], labels: Sequence[str]) -> Table | None:
    """Recall and tasks, a column for each run, with what it changes by from the first; None where nobody has any."""
    figures = [figure for figure in figures_of(runs) if figure != PERPLEXITY]
    rows = [[Cell(text=", ".join(figure[1:])), *_figure_cells(runs, figure)] for figure in figures]
    return Table(caption="Recall and tasks", headings=["Case, metric", *labels], rows=rows) if rows else None


def _figure_cells(runs: Sequence[ComparedRun], figure: Figure) -> Iterator[Cell]:
    """As text, which a narrow page may break."""
    for run in runs:
        if (found := run.samples.get(figure)) is None:
            yield Cell(text=BLANK)
        elif run is runs[0]:
            yield Cell(text=in_form(found.mean, "{:.3f}"))
        else:
            against = told(difference(runs[0].samples, run.samples, figure), "{:+.3f}")
            yield Cell(text=f"{in_form(found.mean, '{:.3f}')} ({against})")


def _protocol(run: ComparedRun) -> tuple[Any, ...]:
    return tuple(run.summary["evaluation"][name] for name in ("corpus", "window", "tokens", "protocol"))


def _table(runs: Sequence[ComparedRun]) -> Table:
    """With the models' names where there are several."""
    headings, rows = list(HEADINGS), [_row(run, runs[0]) for run in runs]
    if len({run.source for run in runs}) > 1:
        headings += ["Model"]
        rows = [[*row, Cell(text=run.summary["model"])] for row, run in zip(rows, runs, strict=True)]
    return Table(caption="Runs; the headings sort", headings=headings, rows=rows)


def _row(run: ComparedRun, first: ComparedRun) -> list[Cell]:
    summary, against = run.summary, difference(first.samples, run.samples)
    calibration, share = summary["calibration"], rise(summary["perplexity"])
    ppl, state, size = (summary[name]["pruned"] for name in ("perplexity", "state_bytes", "parameters"))
    return [
        Cell(text=summary["run_id"][:SHORT_ID]),
        Cell(text=summary["method"]),
        Cell(text=asked(summary), value=summary["sparsity"]),
        Cell(text=summary["recovery"]),
        Cell(text=f"{calibration['corpus']}, {calibration['samples']:,} × {calibration['length']:,}"),
        figure_cell(ppl, perplexity(ppl)),
        figure_cell(share, percent_change(share, error_of_rise(summary), 1)),
        Cell(text=BLANK) if run is first else figure_cell(against.value, told(against)),
        Cell(text=megabytes(state), value=state),
        Cell(text=millions(size), value=size),
    ]
