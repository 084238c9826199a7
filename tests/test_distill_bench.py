"""The trial of distillation: tiny models come nearer to the dense one, in what is trained and in nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.distill import measure, report
from bench.distill_steps import Trial, distill
from bench.recovery import measured, opened, prune
from tests.hybrids import make_hybrid
from tests.models import make_model, random_tokens, text


@pytest.fixture(scope="module", params=["mamba2", "bamba"])
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A tiny model with 4 channels of each group, no recovery before."""
    folder = tmp_path_factory.mktemp("distill")
    (folder / "text.txt").write_text(text(200))
    make = make_model if request.param == "mamba2" else lambda path: make_hybrid(path, request.param)
    model, corpus = str(make(folder / "model")), str(folder / "text.txt")
    sizes = {"samples": 32, "length": 32, "tokens": 256, "windows": (64,), "kept": 4, "steps": 50, "batch": 8}
    return Trial(model=model, calibration=corpus, evaluation=(corpus,), level="none", device="cpu", **sizes)


def test_what_is_distilled_comes_nearer_to_the_dense_model_on_another_reading_too(trial: Trial) -> None:
    figures = measure(trial)
    (before,), (after,) = (figures[when].values() for when in ("before", "after"))
    assert min(figures["held-back KL"].values()) < figures["held-back KL"][0]
    assert after["kl"] < before["kl"]


def test_only_the_rows_of_B_and_C_move_where_nothing_else_is_to(trial: Trial, tmp_path: Path) -> None:
    prune(dense := opened(trial, trial.model), trial, tmp_path)
    stack = opened(trial, tmp_path, "resident")
    tokens_bl = random_tokens(16, 32)
    layers, _ = distill(dense, stack, tokens_bl, replace(trial, trained="bc", steps=25))
    z, x, B, C, _ = stack.checkpoint.mixer_layout.in_proj_sections
    for i in stack.mixers:
        own, found = stack.checkpoint.mixer(i), layers[i].mixer
        moved = {name: (found[name] != own[name].float()).flatten(1).any(1) for name in own if own[name].dim() > 1}
        assert moved.pop("in_proj.weight").nonzero().flatten().tolist() == list(range(z + x, z + x + B + C))
        assert moved.pop("conv1d.weight").nonzero().flatten().tolist() == list(range(x, x + B + C))
        assert not any(map(torch.any, moved.values()))


def test_known_figures_are_not_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked, out = Trial(model="no such model", evaluation=("here",)), tmp_path / "out.json"
    before, after = ({"rise": rise, "error": 0.01, "kl": rise} for rise in (0.25, 0.125))
    figures = {"seconds": 2.0, "held-back KL": {"0": 0.25, "25": 0.125}}
    out.write_text(json.dumps({asked.key: figures | {"before": {"here": before}, "after": {"here": after}}}))
    ((_, known),) = measured([asked], out, measure)
    report(asked, known)
    assert capsys.readouterr().out.splitlines() == [
        "no such model, 16 kept, all, rate 0.01, 1024 windows",
        "held-back KL every 25 steps of 16 windows: 0.2500, 0.1250",
        "2 processor s",
        "here: +25.00% ± 1.00%, KL 0.2500; then +12.50% ± 1.00%, KL 0.1250",
    ]
