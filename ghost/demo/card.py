"""The demo model's own model card."""

from collections.abc import Mapping
from typing import Any

CARD = """---
library_name: transformers
tags: [mamba2, demo]
---
# ghost's demo model

A Mamba2 language model of {parameters:,} parameters (6 layers, d_model 256, d_state 128, headdim 64, one group,
byte-level BPE of 4,096 tokens), small enough to lie in a repository and real enough to show what pruning its
state costs. It completes Python source text; it is good for nothing else.

| | |
|---|---|
| data | the standard library of Python {python}, train part: modules twice, test suite once, pydoc's topics |
| never seen | one file in twenty for calibration and one in twenty for evaluation, chosen by a hash of the name |
| steps | {steps:,} of {tokens_per_step:,} tokens, windows of {window:,} |
| optimizer | Muon for the projections, AdamW for the rest; peak rate 3e-3, 30% linear decay |
| seconds | {seconds:,} on two CPU cores, beside other work |
| training loss | {training_loss:.3f} nats per token (running mean) |
| held-out perplexity | {held_out_perplexity:.2f} on the evaluation part, windows of {window:,} |

Made by `python -m ghost.demo.train`. Python's standard library is under the PSF licence, these weights are under
Apache-2.0.
"""


def demo_card(figures: Mapping[str, Any]) -> str:
    """Markdown from the figures of training.json."""
    return CARD.format(**figures)
