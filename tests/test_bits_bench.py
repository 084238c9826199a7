"""The benchmark of bits and channels: what it measures of a tiny model, what is best for its bytes, and its picture."""

import json
import math
import re
from typing import Any

import pytest
import torch
from rich.console import Console

import bench.bits
from bench.bits import Measures, measure, run
from bench.bits_tables import best, draw, points, rise, tables
from bench.proof import Subject, language_subject
from bench.proof_tables import DISTANCES, PAIRS, case_name
from ghost.evaluation.perplexity import perplexity
from ghost.evaluation.recall import Prompts
from ghost.stored_state import StoredState
from tests.models import make_model, random_tokens, text

STEPS = 32
MEASURES = Measures(dtypes=(torch.int8,), windows=2)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A model with a text and, as no tiny vocabulary has the words, prompts of any tokens."""
    folder = tmp_path_factory.mktemp("bench")
    (corpus := folder / "text.txt").write_text(text(100))
    model = str(make_model(folder / "model", layers=2, d_state=16))
    made = language_subject(model, 2, 600, str(corpus), str(corpus))
    values_bn, asked_b = random_tokens(2, max(PAIRS)).long(), torch.zeros(2, dtype=torch.long)
    prompts = Prompts(tokens_bl=random_tokens(2, 20), values_bn=values_bn, asked_b=asked_b)
    cases = {case_name(max(PAIRS), distance): prompts for distance in DISTANCES}
    return Subject(stack=made.stack, calibration_bl=made.calibration_bl, text=made.text, prompts=cases)


@pytest.fixture(scope="module")
def figures(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of the subject as both a language and a recall model, from the file that a run leaves."""
    out = tmp_path_factory.mktemp("out") / "bits.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.bits, "WINDOW", STEPS)
        found = run({"prose": subject}, MEASURES, ["ghost"], [16, 4], out, {})
        patch.setattr(bench.bits, "measure", lambda *_: pytest.fail("measured again"))
        assert run({"prose": subject}, MEASURES, ["ghost"], [16, 4], out, json.loads(out.read_text())) == found
    return found | {"recall": found["prose"]}


def test_every_size_is_measured_in_every_precision(subject: Subject, figures: dict[str, Any]):
    d_inner = subject.stack.checkpoint.mixer_layout.d_inner
    sizes = {(p.method, p.kept, p.dtype): p.bytes for p in points(figures["prose"])}
    assert sizes == {
        (method, n, dtype): 2 * d_inner * each
        for method, n in (("dense", 16), ("ghost", 4))
        for dtype, each in (("float32", 4 * n), ("int8", n + 4))
    }


def test_figures_are_those_of_the_model_that_stores_its_state_so(
    subject: Subject, figures: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    assert subject.text is not None
    (dense,), start = figures["prose"]["dense"].values(), subject.text[:STEPS]
    whole, rounded = dense["float32"]["nll"]["64"][0], dense["int8"]["nll"]["1"][0]
    in_steps = perplexity(subject.stack.storing(StoredState(torch.int8, 1)), start, STEPS - 1).nll
    assert abs(rounded - in_steps) < 0.02 * abs(rounded - whole)
    assert dense["int8"]["nll"]["64"][0] == whole  # the window ends before the first chunk does
    monkeypatch.setattr(bench.bits, "WINDOW", STEPS)
    again = measure(MEASURES, Subject(stack=subject.stack, calibration_bl=subject.calibration_bl), subject.stack)
    assert again == {name: {"bytes": dense[name]["bytes"]} for name in ("float32", "int8")}


def cell(size: int, *nats: float) -> dict[str, Any]:
    return {"bytes": size, "nll": {"1": list(nats)}}


def test_a_rise_is_over_the_dense_model_and_what_is_larger_and_worse_is_not_best():
    found = {
        "dense": {"8": {"float32": cell(800, 2.0, 4.0), "int8": cell(300, 2.1, 4.1)}},
        "ghost": {
            "4": {"float32": cell(400, 2.3, 4.1), "int8": cell(150, 2.3, 4.3)},
            "2": {"int8": cell(80, 2.3, 4.4)},
        },
    }
    every = {p.name: p for p in points(found)}
    value, error = rise(every["ghost 4, float32"], 1, found)
    assert value == pytest.approx(math.expm1(0.2)) and error == pytest.approx(0.1)
    chosen = [point.name for point in best(list(every.values()), found, spoken=True)]
    assert chosen == ["dense 8, float32", "dense 8, int8", "ghost 4, int8", "ghost 2, int8"]


def test_tables_and_picture_have_a_line_for_each(figures: dict[str, Any]):
    console = Console(width=120, record=True)
    for table in tables(figures):
        console.print(table)
    shown = console.export_text()
    assert "prose: perplexity over dense" in shown and "recall: accuracy of 16 pairs, best for its bytes" in shown
    assert len(re.findall(r"│ (?:dense 16|ghost 4) +│ (?:float32|int8) ", shown)) >= 2 * (4 + 1)
    drawn = draw(figures)
    assert drawn.count("<path d=") >= 2 * 2 and "state of a sequence, KiB (ghost, decoding)" in drawn
