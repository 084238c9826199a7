"""The recall model's training, at a size of seconds."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from bench.train_recall import VOCAB, Setting, block, questions, small_tokenizer, train
from bench.train_text import save
from ghost.checkpoint.source import open_checkpoint
from ghost.demo.data import encode
from ghost.evaluation.forward import tail_logits
from ghost.evaluation.recall import Words, make_prompts, make_words
from ghost.stack import Stack

TINY = Setting(
    d_model=32, layers=1, headdim=16, d_state=16, rows=8, length=32, pairs=1, distance=2, steps=120, peak_lr=2e-2
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def words(tokenizer: PreTrainedTokenizerFast) -> Words:
    return make_words(tokenizer, encode(tokenizer, ["import os\nprint(os.sep)\n" * 9]), VOCAB)


def test_the_probe_finds_its_words(words: Words) -> None:
    assert len(words.words_w) == 124
    assert len(words.link) == len(words.end) == 1


def test_every_question_has_the_answer_that_was_told(words: Words) -> None:
    asked = questions(words, 8, 16, 20, 96, torch.Generator().manual_seed(3))
    for tokens, where in zip(asked.tokens_bl, asked.asked_bl, strict=True):
        assert where.any()
        for place in where.nonzero().flatten().tolist():
            key, link, value = tokens[place - 2 : place + 1].tolist()
            first = next(i for i in range(1, len(tokens), 4) if tokens[i] == key)
            assert first < place - 2
            assert tokens[first : first + 3].tolist() == [key, link, value]


def test_sequences_begin_as_the_probes_prompts_do(words: Words) -> None:
    asked = questions(words, 1, 0, 1, 7, torch.Generator().manual_seed(0))
    prompt = make_prompts(words, 1, 0, 1, seed=0)
    fixed = [0, 2, 4, 6]  # the ends of lines and the links; keys and values are drawn
    assert asked.tokens_bl[:, fixed].tolist() == prompt.tokens_bl[:, fixed].tolist()


def test_training_learns_resumes_and_leaves_a_model(
    tokenizer: PreTrainedTokenizerFast, words: Words, tmp_path: Path
) -> None:
    eager = partial(block, TINY.layout)
    training = train(tmp_path, TINY, words, eager)
    assert training.loss < math.log(len(words.words_w))  # it has learned more than which tokens are words
    again = train(tmp_path, TINY, words, eager)
    assert (again.step, again.loss) == (training.step, training.loss)

    save(training, tokenizer, tmp_path)
    prompts = make_prompts(words, 1, 2, 4, seed=1)
    stack = Stack(open_checkpoint(tmp_path), torch.device("cpu"), torch.float32)
    ((_, ours_b1v),) = tail_logits(stack, prompts.tokens_bl, 1)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.inference_mode():
        theirs_bv = stock(prompts.tokens_bl).logits[:, -1]
    torch.testing.assert_close(ours_b1v[:, 0], theirs_bv, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path)(" =")["input_ids"] == words.link.tolist()
