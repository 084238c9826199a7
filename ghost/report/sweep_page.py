"""The page of a sweep: perplexity by method and sparsity, what it cost, and how norms and energies disagree."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ghost.report import sweep_plots as plots
from ghost.report.figures import megabytes, percent, perplexity, plural, signed_percent
from ghost.report.shell import document, plot, section, text, tile
from ghost.report.sweep_gap import gap_section, layer_section
from ghost.report.sweep_rows import Row, finished, finite_first, fixed, method_name, nearest_half, values
from ghost.report.sweep_view import ModelView
from ghost.report.table import BLANK, Cell, sortable

MOST_TILES = 4
MB = 1e6


def render_sweep(about: Mapping[str, Any], rows: Sequence[Row], views: Sequence[ModelView]) -> str:
    """The page as text, below 6 MB, to be written as UTF-8.

    `about` is plain data: sweep_id, axes (values by name), options, versions. `rows` are those of cells.parquet, in
    the order of the sweep. `views` are the models whose energies were measured.
    """
    figures: dict[str, Any] = {}
    done = finished(rows)
    parts = [_header(about, rows), _failures(rows)]
    if done:
        parts += [_tiles(done), _perplexities(figures, done), _by_others(figures, done), _costs(figures, done)]
        parts += [gap_section(figures, views), *(layer_section(figures, n, v) for n, v in enumerate(views))]
    content = "\n".join([*filter(None, parts), _cells(rows), _settings(about)])
    return document(f"ghost sweep: {', '.join(about['axes']['models'])}", content, {"figures": figures})


def _header(about: Mapping[str, Any], rows: Sequence[Row]) -> str:
    axes = about["axes"]
    what = f"{plural(len(rows), 'cell')}: {', '.join(axes['methods'])} at {', '.join(map(percent, axes['sparsity']))}"
    title, line = ", ".join(axes["models"]), f"{what} of the state dropped; sweep {about['sweep_id']}"
    return f'<header>\n<h1>{escape(title)}</h1>\n<p class="muted">{escape(line)}</p>\n</header>'


def _tiles(rows: Sequence[Row]) -> str:
    """Dense and pruned perplexity of the best methods of each model, at the sparsity nearest to a half."""
    best = sorted(fixed(rows), key=lambda row: (values(rows, "model").index(row["model"]), finite_first(row)))
    first = {(row["model"], method_name(row)): row for row in reversed(best)}
    several = len(values(rows, "model")) > 1
    tiles = [
        tile(
            f"{row['model']}: {name}" if several else name,
            perplexity(row["perplexity_dense"]),
            perplexity(row["perplexity"]),
            f"{signed_percent(row['rise'])} at {percent(row['sparsity'])} sparsity",
        )
        for (_, name), row in list(reversed(first.items()))[:MOST_TILES]
    ]
    return '<ul class="tiles">\n' + "\n".join(tiles) + "\n</ul>"


def _perplexities(figures: dict[str, Any], rows: Sequence[Row]) -> str:
    parts = []
    for number, model in enumerate(models := values(rows, "model")):
        figures[f"sparsity-{number}"] = plots.by_sparsity([row for row in rows if row["model"] == model])
        parts += [f"<h3>{escape(model)}</h3>" if len(models) > 1 else ""]
        parts += [plot(f"sparsity-{number}", f"perplexity of {model} by sparsity and method")]
    return section("Perplexity by sparsity", text(_protocol(rows)), *parts, text(_unshrunk(rows), "note"))


def _protocol(rows: Sequence[Row]) -> str:
    base = fixed(rows)[0]
    seeds = values(rows, "seed")
    spread = f" Means over {len(seeds)} seeds, with bars from the smallest to the largest." if len(seeds) > 1 else ""
    return (
        f"Windows of {base['window']:,} tokens, calibrated on windows of {base['calibration_length']:,}. Lower is "
        f"better; the dashed line is the dense model.{spread}"
    )


def _unshrunk(rows: Sequence[Row]) -> str:
    """Which methods leave the state as large as it was: they are no rivals in memory."""
    same = [method_name(row) for row in rows if row["state_bytes"] == row["state_bytes_dense"]]
    if not same:
        return ""
    return f"The state does not shrink with {', '.join(dict.fromkeys(same))}: a reference, not a saving."


def _by_others(figures: dict[str, Any], rows: Sequence[Row]) -> str:
    """By model size, calibration length and window, where the sweep varied them."""
    made = {
        "By model size": ("size", plots.by_size(rows)),
        "By calibration length": ("lengths", plots.by_calibration_length(rows)),
        "By evaluation window": ("windows", plots.by_window(rows)),
    }
    parts = []
    for heading, (name, made_figure) in made.items():
        if made_figure is not None:
            figures[name] = made_figure
            words = f"Rise of perplexity over the dense model at {percent(nearest_half(rows))} sparsity."
            parts.append(section(heading, text(words), plot(name, f"{heading}: rise of perplexity by method")))
    return "\n".join(parts)


def _costs(figures: dict[str, Any], rows: Sequence[Row]) -> str:
    bars = {
        "seconds": plots.costs(rows, "seconds", "seconds a cell", 1.0, "s"),
        "memory": plots.costs(rows, "peak_memory_bytes", "peak memory, MB", MB, "MB"),
    }
    known = {name: made for name, made in bars.items() if made is not None}
    figures.update(known)
    note = (
        "Means over a method's cells, without the evaluation, which is the same for all. Memory is what tensors took "
        "on a GPU, else the process's resident memory, of which Python and its libraries take a large part."
    )
    return section("What it cost", *(plot(name, f"{name} by method") for name in known), text(note, "note"))


def _failures(rows: Sequence[Row]) -> str:
    failures = [row for row in rows if row["error"] is not None]
    told = [f"{row['model']}, {method_name(row)} at {percent(row['sparsity'])}: {row['error']}" for row in failures]
    items = "\n".join(f"<li>{escape(words)}</li>" for words in told)
    return section(f"{plural(len(failures), 'cell')} failed", f"<ul>\n{items}\n</ul>") if failures else ""


VARIED = ("model", "sparsity", "window", "calibration_length", "seed")
"""Columns that are shown only where they differ from cell to cell."""


def _cells(rows: Sequence[Row]) -> str:
    done = finished(rows)
    if not done:
        return ""
    same = {name for name in VARIED if len(values(done, name)) == 1}
    shown = [{name: cell for name, cell in _cell_row(row).items() if name not in same} for row in done]
    headings = [name.replace("calibration_length", "calibration") for name in shown[0]]
    note = "Sorted by a click on a heading. Kept: channels or directions of all layers; state: per sequence, in fp32."
    table = sortable("every cell of the sweep", headings, [list(row.values()) for row in shown])
    return section("Every cell", table, text(note, "note"))


def _cell_row(row: Row) -> dict[str, Cell]:
    """Cells by heading."""
    peak = row["peak_memory_bytes"]
    counts = ("window", "calibration_length", "seed", "kept", "d_state")
    return {
        "method": Cell(text=method_name(row)),
        "model": Cell(text=row["model"]),
        "sparsity": Cell(text=percent(row["sparsity"]), value=row["sparsity"]),
        **{name: Cell(text=f"{row[name]:,}", value=row[name]) for name in counts},
        "perplexity": Cell(text=perplexity(row["perplexity"]), value=row["perplexity"]),
        "rise": Cell(text=signed_percent(row["rise"]), value=row["rise"]),
        "state, MB": Cell(text=megabytes(row["state_bytes"]), value=row["state_bytes"]),
        "seconds": Cell(text=f"{row['seconds']:,.1f}", value=row["seconds"]),
        "peak, MB": Cell(text=BLANK) if peak is None else Cell(text=f"{peak / MB:,.0f}", value=peak),
        "run": Cell(text=row["run_id"][:8]),
    }


def _settings(about: Mapping[str, Any]) -> str:
    axes = {name.replace("_", " "): ", ".join(map(str, found)) for name, found in about["axes"].items()}
    options = {name.replace("_", " "): str(value) for name, value in about["options"].items()}
    items = (axes | options | {f"{name} version": found for name, found in about["versions"].items()}).items()
    return section("Settings", f"<dl>\n{_entries(items)}\n</dl>")


def _entries(items: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in items)
