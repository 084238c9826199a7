"""The hybrids' training, at a size of seconds: interrupted and gone on with, on both tasks, by the command itself."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench import train_hybrid, train_recall
from bench.train_hybrid import PROSE, RECALL, Shape, main, new_model, parser, use_ghosts_mixer
from ghost.demo.data import encode
from ghost.demo.train import Training
from ghost.evaluation.recall import make_words

SOURCE = "import os\nprint(os.sep)\n" * 9


def tiny(shape: Shape) -> Shape:
    return replace(shape, d_model=32, headdim=16, d_state=16)


@pytest.fixture(autouse=True)
def small_and_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = train_recall.Setting(rows=2, length=32, pairs=2, distance=2)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(train_hybrid, "PROSE", tiny(PROSE))
    monkeypatch.setattr(train_hybrid, "RECALL", tiny(RECALL))
    monkeypatch.setattr(train_hybrid, "SETTING", setting)
    monkeypatch.setattr(train_hybrid, "DISTANCES", (0, 8))
    monkeypatch.setattr(train_hybrid, "held_out", lambda tokenizer, split: encode(tokenizer, [SOURCE]))
    monkeypatch.setattr(train_recall, "documents", lambda split: [("a.py", SOURCE)])
    for bench in (train_hybrid, train_recall):
        monkeypatch.setattr(bench, "SAVE_EVERY", 2)


def stopped_after(steps: int) -> Callable[..., None]:
    advance = Training.advance

    def until(training: Training, *given: object) -> None:
        if training.step == steps:
            raise KeyboardInterrupt
        advance(training, *given)  # pyright: ignore[reportArgumentType]

    return until


def command(task: str, out: Path) -> list[str]:
    """Three steps; the text's last twentieth is a window and more."""
    words = out.parent / "words.txt"
    draw = random.Random(0)
    words.write_text(" ".join(f"word{draw.randrange(3000)}" for _ in range(20_000)))
    return [task, *([str(words)] if task == "prose" else []), "--steps", "3", "--out", str(out)]


@pytest.mark.parametrize(("task", "result"), [("prose", "held-out perplexity"), ("recall", "accuracy at 2 pairs")])
def test_a_training_that_was_stopped_leaves_the_model_of_one_that_was_not(
    task: str, result: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(task, tmp_path / "whole"))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Training, "advance", stopped_after(2))
        main(command(task, tmp_path / "resumed"))
    capsys.readouterr()
    main(command(task, tmp_path / "resumed"))
    printed = capsys.readouterr().out
    assert "step 3 of 3" in printed and "step 2" not in printed and result in printed

    whole, resumed = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("whole", "resumed"))
    assert {"linear_attention", "full_attention"} <= set(whole.config.layers_block_type)
    trained = torch.load(tmp_path / "whole" / "train.pt", weights_only=True)["model"]
    assert whole.state_dict().keys() == resumed.state_dict().keys() == trained.keys()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, trained[name]), name
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_the_recall_model_has_the_tokenizer_that_the_probe_needs(tmp_path: Path) -> None:
    main(command("recall", tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    words = make_words(tokenizer, encode(tokenizer, [SOURCE]), train_recall.VOCAB)
    assert (len(words.words_w), len(words.link), len(words.end)) == (124, 1, 1)


@pytest.mark.parametrize("shape", [PROSE, RECALL])
def test_with_ghosts_mixer_the_logits_are_the_stock_models(shape: Shape) -> None:
    model, ids_bl = new_model(tiny(shape)), torch.randint(shape.vocab, (2, 131))
    train_recall.raise_in_proj(model)  # at the initialisation's values the mixers would hardly be heard
    with torch.no_grad():
        stock_blv = model(ids_bl).logits
        use_ghosts_mixer(model)
        torch.testing.assert_close(model(ids_bl).logits, stock_blv, rtol=0, atol=1e-5)
    use_ghosts_mixer(model)
    torch.testing.assert_close(model(ids_bl).logits.detach(), stock_blv, rtol=0, atol=1e-5)


def test_the_help_shows_commands_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["recall", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "python -m bench.train_hybrid recall --out" in printed
    assert "default M*M" in printed and "2000" in printed
