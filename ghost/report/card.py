"""The README.md of a pruned checkpoint."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ghost.mixer import MixerLayout
from ghost.report.document import from_template
from ghost.report.figures import (
    change,
    change_of_perplexity,
    filled,
    has_attention,
    megabytes,
    noted,
    perplexity,
    plural,
    setting_rows,
    task_change,
    with_error,
)
from ghost.report.run_form import form_of_run, method_of_run
from ghost.serving.commands import ASSUMED, served

SIZES = ("d_model", "nheads", "headdim", "n_groups", "d_conv")
"""Of a mixer, as a summary notes them."""
MARKUP = re.compile(r"[\\`*_\[\]<>#|~&!]")
"""What Markdown would read as markup inside a line."""


def model_card(summary: Mapping[str, Any]) -> str:
    """The card as Markdown with YAML front matter; `summary` as for `ghost.report.page.render`."""
    tasks, figures = summary.get("tasks"), _figures(summary)
    task_rows = [_task_row(score) for score in tasks["scores"]] if tasks else []
    return from_template(
        "card.md.j2",
        model=_code(summary["model"]),
        went=_went(summary),
        description=_description(summary),
        warnings=[_plain(warning) for warning in summary.get("warnings", [])],
        figures=figures,
        native=summary.get("format") == "native",
        tasks=tasks,
        task_rows=task_rows,
        noise_note=noted(row[-1] for row in (*figures, *task_rows)),
        projected=form_of_run(summary).carries_code,
        settings=[(name, _cell(value)) for name, value in setting_rows(summary)],
        chosen=_chosen(summary),
        caches=has_attention(summary),
        d_state=summary["d_state"]["pruned"],
        **_serving(summary),
    )


def _serving(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Runtimes with their commands, and what their kernels make of this state size; nothing of a run that did not note
    its mixers."""
    shape = summary.get("mixer")
    if shape is None:
        return {"runtimes": [], "remarks": [], "assumed": 0}
    known = served(shape["family"], _layout(summary), shape["positions"])
    return {
        "runtimes": [(each.runtime, each.known, ", then ".join(map(_cell, each.commands))) for each in known],
        "remarks": [f"{each.runtime}, {remark}" for each in known for remark in each.remarks],
        "assumed": 0 if shape["positions"] else ASSUMED,
    }


def _layout(summary: Mapping[str, Any]) -> MixerLayout:
    """Of the pruned mixers."""
    sizes = {name: summary["mixer"][name] for name in SIZES}
    dense = MixerLayout(**sizes, d_state=summary["d_state"]["dense"], norm_eps=0.0)
    kept = summary["d_state"]["pruned"]
    return dense.projected_to(kept) if form_of_run(summary).carries_code else replace(dense, d_state=kept)


def _went(summary: Mapping[str, Any]) -> str:
    return filled(form_of_run(summary).words.titled, summary)


def _description(summary: Mapping[str, Any]) -> str:
    method, by = method_of_run(summary), _code(summary["method"])
    what = filled(
        form_of_run(summary).words.described,
        summary,
        model=_code(summary["model"]),
        titled=_went(summary),
        channels=f"{summary['channels']:,}",
        kept=f"{summary['kept_channels']:,}",
        layers=_layers(summary),
        by=f"{by}, {method.words}" if method else by,
    )
    return f"{what} Made with ghost, which implements GHOST (Menezes & Kyrillidis, ICML 2026, arXiv:2602.11408)."


def _layers(summary: Mapping[str, Any]) -> str:
    """The layers that were pruned."""
    mixers, every = summary["layers"], summary.get("decoder_layers", summary["layers"])
    some = f"the {mixers} of its {every} layers that have a Mamba2 state"
    return plural(mixers, "Mamba2 layer") if mixers == every else some


def _chosen(summary: Mapping[str, Any]) -> str | None:
    """What was chosen on the calibration text, where that was read."""
    if (method := method_of_run(summary)) and not method.calibrates:
        return None
    return f"{form_of_run(summary).words.ranked}s"


def _figures(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    ppl, state = summary["perplexity"], summary["state_bytes"]
    return [
        ("Perplexity", perplexity(ppl["dense"]), perplexity(ppl["pruned"]), change_of_perplexity(summary)),
        ("State per sequence, MB", megabytes(state["dense"]), megabytes(state["pruned"]), change(state)),
        ("State per sequence, bytes", *_counts(state)),
        ("State size (d_state)", *_counts(summary["d_state"])),
        ("Parameters", *_counts(summary["parameters"])),
    ]


def _counts(pair: Mapping[str, int]) -> tuple[str, str, str]:
    return f"{pair['dense']:,}", f"{pair['pruned']:,}", change(pair)


def _task_row(score: Mapping[str, Any]) -> tuple[str, ...]:
    figures = (with_error(score["value"][side], score["stderr"][side]) for side in ("dense", "pruned"))
    change = task_change(score).replace("-", "−")
    return _cell(score["task"]), _cell(score["metric"]), str(score["samples"]), *figures, change


def _cell(text: str) -> str:
    """Inline code in a table, whose cell a bar would end, even there."""
    return _code(text).replace("|", r"\|")


def _code(text: str) -> str:
    """Inline code that shows `text` as it is and can't break out into Markdown or HTML."""
    text = re.sub(r"\s+", " ", text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _plain(sentence: str) -> str:
    """A sentence that shows as it is: what would be markup is escaped, and it stays one line."""
    return MARKUP.sub(r"\\\g<0>", re.sub(r"\s+", " ", sentence))
