"""The embedded model uses its state, and its training can be interrupted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import sample_windows, tokenize
from ghost.checkpoint.source import DEMO, open_checkpoint
from ghost.demo.train import LENGTH, Training, batch, learning_rate, loss_of, new_model, new_optimizers
from ghost.evaluation.perplexity import perplexity
from ghost.export import export
from ghost.settings import RunSettings
from ghost.surgery import slice_mixer
from ghost.walk import walk
from tests.models import open_stack

MEGABYTE = 1_000_000


def test_the_model_is_small_and_its_card_has_its_figures() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 12 * MEGABYTE
    figures, card = json.loads((DEMO / "training.json").read_text()), (DEMO / "README.md").read_text()
    assert figures["parameters"] == open_checkpoint("demo").parameters
    for name in ("steps", "seconds"):
        assert f"{figures[name]:,}" in card
    assert f"{figures['held_out_perplexity']:.2f}" in card


def test_a_quarter_of_the_channels_chosen_at_random_costs_far_more_than_ghosts_choice(tmp_path: Path) -> None:
    stack = open_stack(DEMO)
    text = tokenize(DEMO, read_text("stdlib", "evaluation"))[:8193]
    calibration_bl = sample_windows(tokenize(DEMO, read_text("stdlib", "calibration")), 32, 128, seed=0)
    dense, source = perplexity(stack, text, 2048).perplexity, stack.checkpoint
    rise = {}
    for method in ("ghost", "magnitude", "random"):
        results = list(walk(stack, calibration_bl, RunSettings(method=method, sparsity=0.75)))
        mixers = [slice_mixer(source.mixer_layout, source.mixer(r.layer), r.selection)[1] for r in results]
        (tmp_path / method).mkdir()
        export(source, mixers.__getitem__, replace(source.mixer_layout, d_state=32), tmp_path / method, {})
        rise[method] = perplexity(open_stack(tmp_path / method), text, 2048).perplexity / dense - 1
    assert rise["random"] > 0.08
    assert rise["ghost"] < rise["magnitude"] < rise["random"]


def test_a_training_that_is_saved_and_loaded_goes_on_the_same(tmp_path: Path) -> None:
    stream = torch.randint(4096, (4 * LENGTH,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)

    def start() -> Training:
        model = new_model()
        return Training(model, new_optimizers(model))

    def step(training: Training) -> None:
        ids_bl, rate = batch(stream, training.step)[:1, :65], learning_rate(training.step, 10)
        training.advance(lambda: loss_of(training.model, ids_bl), (rate, rate))

    whole, resumed = start(), start()
    step(whole)
    whole.save(tmp_path / "train.pt")
    step(whole)
    resumed.load(tmp_path / "train.pt")
    step(resumed)
    assert resumed.step == whole.step == 2
    assert resumed.loss == pytest.approx(whole.loss, rel=1e-6)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor)
