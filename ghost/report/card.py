"""The README.md of a pruned checkpoint."""

import re
from collections.abc import Mapping
from typing import Any

from ghost.report.figures import change, filled, megabytes, perplexity, plural, setting_rows
from ghost.report.methods import form_of_run, method_of_run

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

{_tasks(summary)}{_loading(summary)}

## Settings

{_settings(summary)}

## Limits

- The figures hold for the evaluation text and the protocol above, and for nothing else. Measure on your own text.
- Recall of names and facts from far back in a long context may fall more than perplexity does: the state is where they
  are kept.
{_chosen(summary)}- Licence, intended use and biases are those of the model it was made from.
"""


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
        layers=plural(summary["layers"], "Mamba2 layer"),
        by=f"{by}, {method.words}" if method else by,
    )
    return f"{what} Made with ghost, which implements GHOST (Menezes & Kyrillidis, ICML 2026, arXiv:2602.11408)."


def _loading(summary: Mapping[str, Any]) -> str:
    carries_code = form_of_run(summary).carries_code
    more = ", trust_remote_code=True" if carries_code else ""
    code = (
        "The folder carries the code that runs it, which is what `trust_remote_code` allows; where ghost is installed, "
        "`import ghost.modeling` does instead."
        if carries_code
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
    if (method := method_of_run(summary)) and not method.calibrates:
        return ""
    ranked = form_of_run(summary).words.ranked
    return f"- The {ranked}s were chosen on the calibration text; text of another kind may use others.\n"


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


def _with_error(value: float, stderr: float | None) -> str:
    return f"{value:.4g}" if stderr is None else f"{value:.4g} ± {stderr:.2g}"


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
