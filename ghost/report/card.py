"""The README.md of a pruned checkpoint."""

import re
from collections.abc import Mapping
from typing import Any

from ghost.report.figures import METHODS, change, megabytes, perplexity, plural, pruned_share, setting_rows

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

# {_code(summary["model"])}, {pruned_share(summary)} of its state pruned

{_description(summary)}

## Figures

{_figures(summary)}

## Loading it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
```

Give the path or the name of this folder in place of `"."`. No other code is needed.

## Settings

{_settings(summary)}

## Limits

- The figures hold for the evaluation text and the protocol above, and for nothing else. Measure on your own text.
- Recall of names and facts from far back in a long context may fall more than perplexity does: the state is where they
  are kept.
- The channels were chosen on the calibration text; text of another kind may use others.
- Licence, intended use and biases are those of the model it was made from.
"""


def _description(summary: Mapping[str, Any]) -> str:
    method = summary["method"]
    score = f", {METHODS[method]}" if method in METHODS else ""
    state = "part of its recurrent state silenced" if summary["soft"] else "a smaller recurrent state"
    fate = "set to zero; no tensor changed its shape" if summary["soft"] else "cut out of the weights"
    return (
        f"This is {_code(summary['model'])} with {state}: of the {summary['channels']:,} state channels "
        f"in {plural(summary['layers'], 'Mamba2 layer')}, {summary['kept_channels']:,} are left. They were chosen by "
        f"forward passes only, without training: every channel was ranked by {_code(method)}{score}, and the others "
        f"were {fate}. Made with ghost, which implements GHOST (Menezes & Kyrillidis, ICML 2026, arXiv:2602.11408)."
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
