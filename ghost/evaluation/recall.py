"""Synthetic recall: pairs of random words, some text, one of the keys again. What is its value?

A state of fewer channels holds fewer pairs (Arora et al., arXiv:2312.04927, measure language models by such recall);
perplexity hardly shows it.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ghost.errors import CorpusError, SettingsError
from ghost.evaluation.forward import tail_logits
from ghost.evaluation.rows import Row, sampled
from ghost.ssd import STATISTICS
from ghost.stack import Stack

WORD = re.compile(r" [A-Za-z]{2,}")
LINK, END = " =", "\n"
PROTOCOL = (
    "prompt: lines ` key = value` of distinct random words (tokens of the vocabulary), `distance` tokens of the "
    "evaluation text, then ` key =` again, each pair as likely asked for; accuracy: the right value is the most likely "
    "of the whole vocabulary (chance 1/vocabulary); choice: it is the most likely of the prompt's values (chance "
    "1/pairs); log_likelihood of the right value in nats (chance -ln vocabulary); the same prompts for every model"
)

Scores = dict[str, dict[str, dict[str, list[float]]]]
"""A figure for each prompt, by case, metric and model."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """What prompts are made of, as token ids: words (w,), the link between key and value, the end of a line, and the
    text (length,) that stands between pairs and question."""

    words_w: Tensor
    link: Tensor
    end: Tensor
    text: Tensor


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Prompts (b, l) of one number of pairs and one distance, their values (b, pairs), and which is asked for (b,)."""

    tokens_bl: Tensor
    values_bn: Tensor
    asked_b: Tensor

    @property
    def answers_b(self) -> Tensor:
        return self.values_bn.gather(1, self.asked_b.unsqueeze(1)).squeeze(1)


def make_words(tokenizer: Any, text: Tensor, vocab_size: int) -> Words:
    """The tokenizer's tokens that are a space and two or more letters, no two the same but for case."""
    found: dict[str, int] = {}
    for token, i in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        word = token.replace("Ġ", " ").replace("▁", " ")  # how byte-level and sentencepiece tokens spell a space
        if i < vocab_size and WORD.fullmatch(word):
            found.setdefault(word.lower(), i)
    link, end = (torch.tensor(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (LINK, END))
    return Words(words_w=torch.tensor(list(found.values())), link=link, end=end, text=text)


def shared_words(tokenizer: Any, text: Tensor, stacks: Iterable[Stack]) -> Words:
    """Those that all of the models have."""
    return make_words(tokenizer, text, min(stack.checkpoint.vocab_size for stack in stacks))


def make_prompts(words: Words, pairs: int, distance: int, samples: int, seed: int) -> Prompts:
    """`samples` prompts, the same for the same arguments.

    SettingsError where the vocabulary has too few words for the pairs, CorpusError where the text is too short.
    """
    _check(words, pairs, distance)
    random = torch.Generator().manual_seed(_seed(seed, pairs, distance))
    drawn = torch.stack([torch.randperm(len(words.words_w), generator=random)[: 2 * pairs] for _ in range(samples)])
    keys_bn, values_bn = words.words_w[drawn].chunk(2, dim=1)
    asked_b = torch.randint(pairs, (samples,), generator=random)
    starts = torch.randint(len(words.text) - distance + 1, (samples,), generator=random)
    rows = []
    for keys, values, asked, start in zip(keys_bn, values_bn, asked_b, starts.tolist(), strict=True):
        lines = [torch.cat([words.end, k[None], words.link, v[None]]) for k, v in zip(keys, values, strict=True)]
        between = [words.end, words.text[start : start + distance].long()] if distance else []
        rows.append(torch.cat([*lines, *between, words.end, keys[asked][None], words.link]))
    return Prompts(tokens_bl=torch.stack(rows), values_bn=values_bn, asked_b=asked_b)


def _check(words: Words, pairs: int, distance: int) -> None:
    if 2 * pairs > len(words.words_w):
        raise SettingsError(
            f"pairs: {pairs} pairs need {2 * pairs} words, but the vocabulary has {len(words.words_w)} that are a "
            f"token; give {len(words.words_w) // 2} or fewer"
        )
    if distance > len(words.text):
        raise CorpusError(
            f"the evaluation text has {len(words.text)} tokens, fewer than the distance {distance}; give a longer "
            "text, or smaller --distances"
        )


def _seed(*parts: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7])


def compared(
    stacks: Mapping[str, Stack], prompts: Mapping[tuple[int, int], Prompts], progress: Callable[[int], None] | None
) -> Scores:
    """What all models make of the same prompts, which go by their pairs and their distance."""
    found: Scores = {}
    for (pairs, distance), made in prompts.items():
        scores = {name: recall(stack, made, progress) for name, stack in stacks.items()}
        found[f"{pairs} pairs, distance {distance}"] = {
            metric: {name: score[metric].tolist() for name, score in scores.items()} for metric in METRICS
        }
    return found


def recall_rows(scores: Scores) -> Iterator[Row]:
    for case, by_metric in scores.items():
        for metric, by_model in by_metric.items():
            yield from sampled("recall", case, metric, by_model)


def possible(words: Words, pairs: Iterable[int]) -> list[int]:
    """Those numbers of pairs for which the vocabulary has words."""
    return [count for count in pairs if 2 * count <= len(words.words_w)]


@torch.inference_mode()
def recall(stack: Stack, prompts: Prompts, progress: Callable[[int], None] | None = None) -> dict[str, Tensor]:
    """Per prompt, float64 (b,): accuracy and choice (0 or 1), and the log-likelihood (nats) of the right value.

    `progress` is called with the tokens just read.
    """
    scores = {name: torch.empty(len(prompts.asked_b), dtype=STATISTICS) for name in METRICS}
    for rows, logits_b1v in tail_logits(stack, prompts.tokens_bl, 1):
        log_bv = logits_b1v[:, 0].cpu().to(STATISTICS).log_softmax(-1)
        answers_b, values_bn = prompts.answers_b[rows], prompts.values_bn[rows]
        scores["accuracy"][rows] = (log_bv.argmax(-1) == answers_b).to(STATISTICS)
        scores["choice"][rows] = (log_bv.gather(1, values_bn).argmax(-1) == prompts.asked_b[rows]).to(STATISTICS)
        scores["log_likelihood"][rows] = log_bv.gather(1, answers_b.unsqueeze(1)).squeeze(1)
        if progress:
            progress(prompts.tokens_bl[rows].numel())
    return scores


METRICS = ("accuracy", "choice", "log_likelihood")
