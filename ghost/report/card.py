"""The README.md of a pruned checkpoint."""

import re
from collections.abc import Mapping
from typing import Any

from ghost.report.figures import change, in_form, megabytes, percent, perplexity, plural, pruned_share, setting_rows
from ghost.report.methods import METHODS, ROTATED, UNSTRUCTURED, WHOLE_LAYERS, unit

# A bar would end the cell of a table, even inside code.
BAR = r"\|"
FRONT_MATTER = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- mamba2
- state-space-model
- pruning
- ghost
---"""


def model_card(summary: Mapping[str, Any]) -> str:
    """The card as Markdown with YAML front matter; `summary` as for `ghost.report.page.render`."""
    return f"""{FRONT_MATTER}

# {_code(summary["model"])}, {_went(summary)}

{_description(summary)}

## Figures

{_figures(summary)}

{_warnings(summary)}{_tasks(summary)}{_loading(summary)}

## Settings

{_settings(summary)}

## Limits

- The figures hold for the evaluation text and the protocol above, and for nothing else. Measure on your own text.
- Recall of names and facts from far back in a long context may fall more than perplexity does: the state is where they
  are kept.
{_chosen(summary)}- Licence, intended use and biases are those of the model it was made from.
"""


def _went(summary: Mapping[str, Any]) -> str:
    if summary["method"] in UNSTRUCTURED:
        return f"{percent(summary['sparsity'])} of its weights of B and C zeroed"
    return f"{pruned_share(summary)} of its state {'silenced' if _silenced(summary) else 'pruned'}"


def _silenced(summary: Mapping[str, Any]) -> bool:
    """Nothing got smaller: what was dropped is zero, and still there."""
    return summary["soft"] or summary["method"] in WHOLE_LAYERS


def _description(summary: Mapping[str, Any]) -> str:
    method, name = summary["method"], _code(summary["model"])
    by = f"{_code(method)}{f', {METHODS[method]}' if method in METHODS else ''}"
    if method in UNSTRUCTURED:
        what = (
            f"This is {name} with {_went(summary)}, to compare with: the recurrent state is as large as before. "
            f"Weights were ranked by {by}."
        )
    else:
        state = "part of its recurrent state silenced" if _silenced(summary) else "a smaller recurrent state"
        what = (
            f"This is {name} with {state}: of the {summary['channels']:,} state {unit(method)}s in "
            f"{plural(summary['layers'], 'Mamba2 layer')}, {summary['kept_channels']:,} are left. They were chosen "
            f"without training, by {by}; the others were {_fate(summary)}."
        )
    return f"{what} Made with ghost, which implements GHOST (Menezes & Kyrillidis, ICML 2026, arXiv:2602.11408)."


def _fate(summary: Mapping[str, Any]) -> str:
    if _silenced(summary):
        return "set to zero; no tensor changed its shape"
    return "left out of the projections of B and C" if summary["method"] in ROTATED else "cut out of the weights"


def _loading(summary: Mapping[str, Any]) -> str:
    projected = summary["method"] in ROTATED
    more = ", trust_remote_code=True" if projected else ""
    code = (
        "The folder carries the code that runs it, which is what `trust_remote_code` allows; where ghost is installed, "
        "`import ghost.modeling` does instead."
        if projected
        else "No other code is needed."
    )
    return f"""## Loading it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("."{more})
tokenizer = AutoTokenizer.from_pretrained(".")
```

Give the path or the name of this folder in place of `"."`. {code}"""


def _chosen(summary: Mapping[str, Any]) -> str:
    if summary["method"] in ("magnitude", "random"):
        return ""
    return (
        f"- The {unit(summary['method'])}s were chosen on the calibration text; text of another kind may use others.\n"
    )


def _figures(summary: Mapping[str, Any]) -> str:
    ppl, state = summary["perplexity"], summary["state_bytes"]
    rows = [
        ("", "dense", "pruned", "change"),
        ("---", "---:", "---:", "---:"),
        ("Perplexity", perplexity(ppl["dense"]), perplexity(ppl["pruned"]), change(ppl)),
        ("State per sequence, MB", megabytes(state["dense"]), megabytes(state["pruned"]), change(state)),
        ("State per sequence, bytes", *_counts(state)),
        ("State size (d_state)", *_counts(summary["d_state"])),
        ("Parameters", *_counts(summary["parameters"])),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _warnings(summary: Mapping[str, Any]) -> str:
    """What the figures should not be read without, where there is such."""
    told = [
        re.sub(r"([\\`*_\[\]<>#|&])", r"\\\1", " ".join(sentence.split())) for sentence in summary.get("warnings", [])
    ]
    return "".join(f"> **Warning**: {sentence}.\n\n" for sentence in told)


def _tasks(summary: Mapping[str, Any]) -> str:
    """A section of its own, where the run evaluated tasks."""
    if not (tasks := summary.get("tasks")):
        return ""
    lines = ["| Task | Metric | Documents | dense | pruned |", "| --- | --- | ---: | ---: | ---: |"]
    for score in tasks["scores"]:
        named = [_code(score[name]).replace("|", BAR) for name in ("task", "metric")]
        figures = [_with_error(score["value"][name], score["stderr"][name]) for name in ("dense", "pruned")]
        lines.append(f"| {' | '.join([*named, str(score['samples']), *figures])} |")
    return "\n".join(["## Tasks", "", *lines, "", f"By {tasks['protocol']}; seed {tasks['seed']}.", "", ""])


def _with_error(value: float | None, stderr: float | None) -> str:
    figure = in_form(value, "{:.4g}")
    return figure if stderr is None else f"{figure} ± {stderr:.2g}"


def _counts(pair: Mapping[str, int]) -> tuple[str, str, str]:
    return f"{pair['dense']:,}", f"{pair['pruned']:,}", change(pair)


def _settings(summary: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_code(value).replace('|', BAR)} |" for name, value in setting_rows(summary)]
    return "\n".join(["| Setting | Value |", "| --- | --- |", *rows])


def _code(text: str) -> str:
    """Inline code that shows `text` as it is and can't break out into Markdown or HTML."""
    text = re.sub(r"\s+", " ", text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"
