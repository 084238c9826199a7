"""Made-up runs for the tests of the report, and what a browser's parser and plotly.js would read in a page."""

import base64
import copy
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np

from ghost.report import LayerView

NASTY = '<script>alert("1")</script> & `a|b`\n# not a heading'
VOID = {"meta", "link", "br", "img", "input", "hr"}

SUMMARY: dict[str, Any] = {
    "run_id": "3f9c1e0a7b52d846",
    "model": "demo",
    "method": "ghost",
    "sparsity": 0.625,
    "policy": "balanced",
    "soft": False,
    "sequential": True,
    "calibration": {"corpus": "stdlib", "samples": 128, "length": 96, "seed": 7},
    "evaluation": {"corpus": "hf:wikitext", "window": 2048, "tokens": 412_672, "protocol": "non-overlapping windows"},
    "perplexity": {"dense": 24.312, "pruned": 24.798},
    "state_bytes": {"dense": 100_663_296, "pruned": 37_748_736},
    "d_state": {"dense": 128, "pruned": 48},
    "parameters": {"dense": 1_344_123_904, "pruned": 1_312_504_832},
    "layers": 3,
    "kept_channels": 144,
    "channels": 384,
}


def summary(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(SUMMARY) | changes


def layer_view(
    layer: int = 0, groups: int = 1, d_state: int = 16, kept: int = 6, energy: float | None = 0.125
) -> LayerView:
    saliency_gn = np.random.default_rng(layer).lognormal(size=(groups, d_state))
    kept_gn = np.zeros((groups, d_state), dtype=bool)
    np.put_along_axis(kept_gn, saliency_gn.argsort(-1)[:, -kept:], True, -1)
    return LayerView(layer=layer, saliency_gn=saliency_gn, kept_gn=kept_gn, energy_dropped=energy)


class Page(HTMLParser):
    """Walks a page as a browser would: open tags, addresses to load, text outside scripts, cells of the table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action", "data"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        else:
            self.text += data if data.isspace() else f"{data} "


def traces(page: str) -> list[dict[str, Any]]:
    """The plot's traces as plotly.js gets them."""
    arguments = re.search(r'Plotly\.newPlot\(\s*"saliency-plot",\s*', page)
    assert arguments
    return json.JSONDecoder().raw_decode(page, arguments.end())[0]


def decoded(array: dict[str, str]) -> np.ndarray:
    flat = np.frombuffer(base64.b64decode(array["bdata"]), dtype=array["dtype"])
    return flat.reshape([int(size) for size in array["shape"].split(", ")]) if "shape" in array else flat


def points(trace: dict[str, Any]) -> list[tuple[int, int]]:
    """(group, channel) of each point of a trace."""
    return [tuple(point) for point in decoded(trace["customdata"]).tolist()]


def channel_traces(page: str) -> list[dict[str, Any]]:
    return [trace for trace in traces(page) if "customdata" in trace]
