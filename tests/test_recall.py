"""The recall probe: prompts as they should be, scores against a direct computation, and a model that can recall."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import load_tokenizer, tokenize
from ghost.checkpoint.source import DEMO
from ghost.errors import CorpusError, SettingsError
from ghost.evaluation import recall as recall_module
from ghost.evaluation.recall import Words, make_prompts, make_words, recall
from tests.models import VOCAB, load_stock, make_model, open_stack, stock_logits

WORDS = Words(
    words_w=torch.arange(100, 200), link=torch.tensor([7]), end=torch.tensor([8, 9]), text=torch.arange(50, 90)
)


def test_a_prompt_is_pairs_then_text_then_the_key_that_is_asked_for():
    made = make_prompts(WORDS, pairs=4, distance=10, samples=20, seed=0)
    assert made.tokens_bl.shape == (20, 4 * 5 + 2 + 10 + 2 + 2)
    for row, values, asked in zip(made.tokens_bl, made.values_bn, made.asked_b, strict=True):
        lines = row[:20].view(4, 5)
        assert (lines[:, :2] == torch.tensor([8, 9])).all() and (lines[:, 3] == 7).all()
        assert lines[:, 4].tolist() == values.tolist()
        assert len(set(lines[:, 2].tolist()) | set(values.tolist())) == 8
        assert row[20:22].tolist() == [8, 9] and (row[22:32].diff() == 1).all() and row[22] >= 50 and row[31] < 90
        assert row[32:].tolist() == [8, 9, lines[asked, 2], 7]
    assert made.answers_b.tolist() == [v[a] for v, a in zip(made.values_bn, made.asked_b, strict=True)]
    assert set(made.asked_b.tolist()) == {0, 1, 2, 3}


def test_prompts_follow_from_the_seed_and_the_case_alone():
    first, again = (make_prompts(WORDS, 4, 10, 20, seed=0).tokens_bl for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, make_prompts(WORDS, 4, 10, 20, seed=1).tokens_bl)
    assert not torch.equal(first[:, :20], make_prompts(WORDS, 4, 9, 20, seed=0).tokens_bl[:, :20])


def test_no_distance_means_no_text_and_one_end_of_line():
    assert make_prompts(WORDS, pairs=2, distance=0, samples=1, seed=0).tokens_bl.shape == (1, 2 * 5 + 4)


def test_more_pairs_than_words_and_more_distance_than_text_are_refused():
    with pytest.raises(SettingsError, match=r"51 pairs need 102 words, but the vocabulary has 100 .* give 50 or fewer"):
        make_prompts(WORDS, 51, 0, 1, 0)
    with pytest.raises(CorpusError, match=r"has 40 tokens, fewer than the distance 41; .* smaller --distances"):
        make_prompts(WORDS, 2, 41, 1, 0)
    assert make_prompts(WORDS, 50, 40, 1, 0).values_bn.shape == (1, 50)


def test_scores_equal_those_of_the_stock_models_last_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = make_model(tmp_path, layers=2)
    made = make_prompts(WORDS, pairs=6, distance=5, samples=40, seed=3)
    monkeypatch.setattr("ghost.evaluation.forward.TOKENS_PER_SWEEP", 300)
    found = recall(open_stack(folder), made)
    log_bv = stock_logits(load_stock(folder), made.tokens_bl)[:, -1].double().log_softmax(-1)
    answers = made.answers_b
    expected = torch.stack([log_bv[i, answer] for i, answer in enumerate(answers.tolist())])
    torch.testing.assert_close(found["log_likelihood"], expected, rtol=1e-5, atol=0)
    best = [max(values, key=lambda v: float(log_bv[i, v])) for i, values in enumerate(made.values_bn.tolist())]
    assert found["choice"].bool().tolist() == [b == a for b, a in zip(best, answers.tolist(), strict=True)]
    assert 0 < found["choice"].mean() < 1
    assert found["accuracy"].bool().tolist() == (log_bv.argmax(-1) == answers).tolist()


def perfect_logits(tokens_bl: Tensor) -> Tensor:
    """What a model would say that looks the last key up among the lines."""
    logits = torch.zeros(len(tokens_bl), 1, VOCAB)
    for i, row in enumerate(tokens_bl.tolist()):
        logits[i, 0, row[row.index(row[-2]) + 2]] = 50.0
    return logits


def test_a_model_that_looks_the_key_up_scores_one_and_one_that_knows_nothing_is_at_chance(
    monkeypatch: pytest.MonkeyPatch,
):
    def said(logits: Any) -> dict[str, float]:
        monkeypatch.setattr(recall_module, "tail_logits", lambda _, rows, tail: [(slice(None), logits(rows))])
        return {name: score.mean().item() for name, score in recall(None, made).items()}  # type: ignore[arg-type]

    made = make_prompts(replace(WORDS, text=torch.arange(40, 90)), pairs=8, distance=20, samples=200, seed=0)
    assert said(perfect_logits) == {"accuracy": 1.0, "choice": 1.0, "log_likelihood": pytest.approx(0, abs=1e-9)}
    generator = torch.Generator().manual_seed(0)
    guess = said(lambda rows: torch.randn(len(rows), 1, VOCAB, generator=generator) * 1e-3)
    assert guess["log_likelihood"] == pytest.approx(-(torch.tensor(float(VOCAB)).log().item()), abs=1e-3)
    assert abs(guess["choice"] - 1 / 8) < 0.08 and guess["accuracy"] < 0.03


def test_the_demo_knows_the_value_of_few_pairs_better_than_by_chance():
    text = tokenize(DEMO, read_text("stdlib", "evaluation"))
    words = make_words(load_tokenizer(DEMO), text, 4096)
    assert len(words.words_w) > 500 and len(words.end) == len(words.link) == 1
    found = recall(open_stack(DEMO), make_prompts(words, pairs=4, distance=0, samples=64, seed=0))
    assert found["choice"].mean() > 0.4
