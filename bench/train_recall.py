"""Train a small Mamba2 model that does nothing but recall: what a smaller state costs, where the demo shows little.

    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 python -m bench.train_recall --out recall

Two layers of width 128 and state size 128 learn the lines of `ghost eval`'s recall probe: up to 16 pairs out of 124
words, up to 64 tokens of Python source, then every key again, with the loss on the values alone. 2,000 steps of 16
sequences took 13 minutes, on one thread of a busy machine. What came out answers all of 128 prompts at each of 4, 8 and
16 pairs and distances 0, 16 and 64 (accuracy 1.000; words are those of training, the text is not), and of 64 prompts
98% at distance 256 and 88% at 1024. The same command continues from `--out`/train.pt.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Mamba2Config, Mamba2ForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from bench.train_text import save
from ghost.calibration.stdlib import documents
from ghost.checkpoint.source import DEMO
from ghost.demo.data import END, encode
from ghost.demo.train import Training, learning_rate, new_optimizers
from ghost.evaluation.recall import Words, make_words
from ghost.mixer import MixerLayout, Weights, mixer_forward

VOCAB = 1024
EPS = 1e-5
EASY = 4
MUON_SHARE = 0.6
"""Of the learning rate, for the projections."""
SAVE_EVERY = 100


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Sizes of the model and of its training."""

    d_model: int = 128
    layers: int = 2
    headdim: int = 64
    d_state: int = 128
    rows: int = 16
    """Sequences of a step."""
    length: int = 192
    """Tokens of a sequence: pairs, text, and questions for the rest of it."""
    pairs: int = 16
    """Most pairs of a sequence; the number is drawn anew for each."""
    distance: int = 64
    """Most tokens of text between pairs and questions; drawn anew too."""
    steps: int = 2000
    easy: int = 400
    """Steps with at most EASY pairs, in which asking is learned; after them one more every 20 steps."""
    peak_lr: float = 1e-2

    @property
    def layout(self) -> MixerLayout:
        return MixerLayout(
            d_model=self.d_model, nheads=2 * self.d_model // self.headdim, headdim=self.headdim, n_groups=1,
            d_state=self.d_state, d_conv=4, norm_eps=EPS,
        )  # fmt: skip

    def learning_rate(self, step: int) -> float:
        return learning_rate(step, self.steps, self.peak_lr, warmup=50)

    def most_pairs(self, step: int) -> int:
        return min(self.pairs, EASY + max(0, step - self.easy) // 20)


def small_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The demo's BPE without its last merges, saved to `folder`: 1,024 tokens, 124 of them words of the probe."""
    spec = json.loads((DEMO / "tokenizer.json").read_text())
    bpe = spec["model"]
    bpe["vocab"] = {token: i for token, i in bpe["vocab"].items() if i < VOCAB}
    bpe["merges"] = [pair for pair in bpe["merges"] if "".join(pair) in bpe["vocab"]]
    small = Tokenizer.from_str(json.dumps(spec))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=small, bos_token=END, eos_token=END, pad_token=END)
    tokenizer.save_pretrained(folder)
    return tokenizer


def new_model(setting: Setting) -> Mamba2ForCausalLM:
    """Fresh weights from a fixed seed."""
    torch.manual_seed(0)
    config = Mamba2Config(
        vocab_size=VOCAB, hidden_size=setting.d_model, num_hidden_layers=setting.layers, expand=2,
        num_heads=setting.layout.nheads, head_dim=setting.headdim, state_size=setting.d_state, n_groups=1,
        tie_word_embeddings=True, initializer_range=0.02, rescale_prenorm_residual=False, layer_norm_epsilon=EPS,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = Mamba2ForCausalLM(config)
    raise_in_proj(model)
    return model


def raise_in_proj(model: nn.Module) -> None:
    """At transformers' 0.02 the products of B and C are too small to learn from soon."""
    for name, parameter in model.named_parameters():
        if name.endswith("in_proj.weight"):
            nn.init.normal_(parameter, std=0.06)


class Questions(NamedTuple):
    """Sequences (b, l) in the probe's form that ask for every pair again and again, and where the values that are
    asked for stand (b, l)."""

    tokens_bl: Tensor
    asked_bl: Tensor


def questions(words: Words, pairs: int, distance: int, rows: int, length: int, random: torch.Generator) -> Questions:
    """Every row draws its pairs, up to `pairs` of them, and its distance, up to `distance`."""
    made = [_row(words, _draw(1, pairs, random), _draw(0, distance, random), length, random) for _ in range(rows)]
    return Questions(torch.stack([tokens for tokens, _ in made]), torch.stack([asked for _, asked in made]))


def _draw(least: int, most: int, random: torch.Generator) -> int:
    return int(torch.randint(least, most + 1, (), generator=random))


def _row(words: Words, pairs: int, distance: int, length: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lines of pairs, text, then the lines again in random order, all of them before any comes twice."""
    keys, values = words.words_w[torch.randperm(len(words.words_w), generator=random)[: 2 * pairs]].chunk(2)
    pair_lines = zip(keys.split(1), values.split(1), strict=True)
    lines = torch.stack([torch.cat([words.end, key, words.link, value]) for key, value in pair_lines])
    start = _draw(0, len(words.text) - distance, random)
    between = torch.cat([words.end, words.text[start : start + distance]]) if distance else words.end[:0]
    told = torch.cat([lines.flatten(), between.long()])
    rounds = -(-length // lines.numel())
    order = torch.cat([torch.randperm(pairs, generator=random) for _ in range(rounds)])
    tokens = torch.cat([told, lines[order].flatten()])[:length]
    place = torch.arange(length) - len(told)
    return tokens, (place >= 0) & (place % lines.shape[1] == lines.shape[1] - 1)


Block = Callable[[Weights, Tensor, Tensor], Tensor]


def block(layout: MixerLayout, weights: Weights, norm_m: Tensor, hidden_blm: Tensor) -> Tensor:
    return hidden_blm + mixer_forward(layout, weights, F.rms_norm(hidden_blm, norm_m.shape, norm_m, EPS))


def loss_of(model: PreTrainedModel, asked: Questions, block: Block) -> Tensor:
    """Mean cross-entropy of the values asked for, in nats; nothing else is learned."""
    backbone: Any = model.backbone
    embedding_vm = backbone.embeddings.weight
    hidden_blm = F.embedding(asked.tokens_bl[:, :-1], embedding_vm)
    for layer in backbone.layers:
        hidden_blm = block(dict(layer.mixer.named_parameters()), layer.norm.weight, hidden_blm)
    where_bl = asked.asked_bl[:, 1:]
    norm_m = backbone.norm_f.weight
    logits_qv = F.rms_norm(hidden_blm[where_bl], norm_m.shape, norm_m, EPS) @ embedding_vm.T
    return F.cross_entropy(logits_qv.float(), asked.tokens_bl[:, 1:][where_bl])


def train(work: Path, setting: Setting, words: Words, block: Block) -> Training:
    """Train a pure Mamba2 model, as `learn` does."""
    model = new_model(setting)
    return learn(model, work, setting, words, partial(loss_of, model, block=block))


def learn(
    model: PreTrainedModel, work: Path, setting: Setting, words: Words, loss: Callable[[Questions], Tensor],
) -> Training:  # fmt: skip
    """Train to the setting's steps by the loss of questions, from the last checkpoint in `work` if there is one."""
    training = Training(model, new_optimizers(model), loss=math.log(VOCAB))

    def advance() -> None:
        random = torch.Generator().manual_seed(training.step)
        pairs, rate = setting.most_pairs(training.step), setting.learning_rate(training.step)
        asked = questions(words, pairs, setting.distance, setting.rows, setting.length, random)
        training.advance(lambda: loss(asked), (MUON_SHARE * rate, rate))

    training.run(work / "train.pt", setting.steps, advance, SAVE_EVERY, told=lambda: "")
    return training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and the training's checkpoint")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    setting, (tokenizer, words) = Setting(), vocabulary(args.out)
    save(train(args.out, setting, words, torch.compile(partial(block, setting.layout))), tokenizer, args.out)


def vocabulary(out: Path) -> tuple[PreTrainedTokenizerFast, Words]:
    """The tokenizer, saved to `out`, and what the lines are made of: the probe's words, and Python source."""
    tokenizer = small_tokenizer(out)
    text = encode(tokenizer, [text for _, text in documents("train")[:200]])
    return tokenizer, make_words(tokenizer, text, VOCAB)


if __name__ == "__main__":
    main()
