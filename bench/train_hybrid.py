"""Train a small hybrid, Mamba2 layers and some of attention: does the recurrent state matter less beside attention?

    export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 OMP_NUM_THREADS=1
    python -m bench.train_hybrid prose valid.txt lambada_test.jsonl --out hybrid-prose
    python -m bench.train_hybrid recall --out hybrid-recall

Both are nemotron_h models: their layers may be any mix (`--pattern`), and their attention has no positions to set up.
`prose` learns the texts as bench.train_text does (named as for `ghost run`; the last twentieth of each is held out),
with the demo's widths, M-M*M-M: 3.7 M parameters, 4.7 M on disk where the head is apart. `recall` learns the recall
probe's lines as bench.train_recall does, M*M: the pure model's two mixers with attention between them, whose keys the
first mixer's convolution makes. `--pattern MM` is its control without attention. The same command continues from
train.pt in `--out`.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import NemotronHConfig, NemotronHForCausalLM, PreTrainedTokenizerFast

from bench import train_recall, train_text
from bench.train_recall import Questions
from ghost.checkpoint.families import mixer_layout
from ghost.demo import train as demo
from ghost.demo.data import held_out
from ghost.evaluation.recall import Words, make_prompts
from ghost.mixer import Weights, mixer_forward

SAVE_EVERY = 100
DISTANCES, PROMPTS = (0, 64, 256, 1024), 128
KINDS = {"M": "linear_attention", "*": "full_attention", "-": "mlp"}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a nemotron_h model."""

    pattern: str
    """A letter a layer: M a Mamba2 mixer, * attention (without positions), - an MLP."""
    vocab: int
    d_model: int
    headdim: int
    """Of the mixers' heads, 2 * d_model / headdim of them, and of attention's, half as many."""
    d_state: int


PROSE = Shape(pattern="M-M*M-M", vocab=demo.VOCAB, d_model=demo.D_MODEL, headdim=demo.HEADDIM, d_state=demo.D_STATE)
SETTING = train_recall.Setting()
RECALL = Shape(
    pattern="M*M", vocab=train_recall.VOCAB, d_model=SETTING.d_model, headdim=SETTING.headdim, d_state=SETTING.d_state
)
"""The pure model's two mixers, and attention after the first, by which a token knows what stands before it."""


def new_model(shape: Shape) -> NemotronHForCausalLM:
    """Fresh weights from a fixed seed. The head is the embedding, as in the pure models, while it learns: with a head
    of its own the small model had no recall after 800 steps. nemotron_h itself ties nothing."""
    torch.manual_seed(0)
    heads, kinds = shape.d_model // shape.headdim, [KINDS[letter] for letter in shape.pattern]
    config = NemotronHConfig(
        vocab_size=shape.vocab, hidden_size=shape.d_model, layers_block_type=kinds,
        mamba_num_heads=2 * heads, mamba_head_dim=shape.headdim, ssm_state_size=shape.d_state, n_groups=1,
        num_attention_heads=heads, num_key_value_heads=heads, head_dim=shape.headdim,
        intermediate_size=2 * shape.d_model, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = NemotronHForCausalLM(config)
    model.lm_head.weight = model.model.embeddings.weight
    return model


def use_ghosts_mixer(model: NemotronHForCausalLM) -> None:
    """Put ghost's forward, the faster one on a CPU, in the place of every Mamba2 mixer's; the rest stays stock."""
    eager = partial(mixer_forward, mixer_layout(model.config))
    compiled: Callable[[Weights, Tensor], Tensor] = torch.compile(eager)

    def forward(mixer: Any, hidden_states: Tensor, **_: object) -> Tensor:
        # without gradients it is a check: rare, and its shapes are others, not worth compiling for
        chosen = compiled if torch.is_grad_enabled() else eager
        return chosen(dict(mixer.named_parameters()), hidden_states)

    layers: Any = model.base_model.layers
    for layer in layers:
        if layer.block_type == KINDS["M"]:
            layer.mixer.forward = partial(forward, layer.mixer)


def recall_loss(model: NemotronHForCausalLM, asked: Questions) -> Tensor:
    """Mean cross-entropy of the tokens asked for, in nats."""
    hidden_blm = model.base_model(asked.tokens_bl[:, :-1], use_cache=False).last_hidden_state
    where_bl = asked.asked_bl[:, 1:]
    logits_qv = F.linear(hidden_blm[where_bl], model.lm_head.weight)
    return F.cross_entropy(logits_qv.float(), asked.tokens_bl[:, 1:][where_bl])


def prose_loss(model: NemotronHForCausalLM, ids_bl: Tensor) -> Tensor:
    """Mean next-token cross-entropy, in nats."""
    return recall_loss(model, Questions(ids_bl, torch.ones_like(ids_bl, dtype=torch.bool)))


def prose(texts: list[str], out: Path, steps: int, shape: Shape) -> str:
    """Train on texts, save to `out`, and say how well what was held out is predicted."""
    text, model = train_text.cut(texts, out), new_model(shape)
    use_ghosts_mixer(model)
    loss = partial(prose_loss, model)
    check = partial(demo.mean_loss, loss, text.held_out[: demo.CHECKED])
    training = demo.learn(model, out, steps, text.learned, loss, check, SAVE_EVERY)
    save(training, text.tokenizer, out)
    return f"held-out perplexity {math.exp(demo.mean_loss(loss, text.held_out)):.2f}"


def save(training: demo.Training, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """A folder that transformers loads: the head as a tensor of its own, which nemotron_h looks for."""
    head: Any = training.model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    train_text.save(training, tokenizer, out)


def recall(out: Path, setting: train_recall.Setting, shape: Shape) -> str:
    """Train on the probe's lines, save to `out`, and say how many prompts are answered; their text is new."""
    (tokenizer, words), model = train_recall.vocabulary(out), new_model(shape)
    train_recall.raise_in_proj(model)
    use_ghosts_mixer(model)
    save(train_recall.learn(model, out, setting, words, partial(recall_loss, model)), tokenizer, out)
    words = replace(words, text=held_out(tokenizer, "evaluation"))
    shares = [f"{answered(model, words, setting.pairs, distance):.3f} at distance {distance}" for distance in DISTANCES]
    return f"accuracy at {setting.pairs} pairs: {', '.join(shares)}"


@torch.no_grad()
def answered(model: NemotronHForCausalLM, words: Words, pairs: int, distance: int) -> float:
    """The share of prompts whose most likely next token is the value asked for."""
    prompts = make_prompts(words, pairs, distance, PROMPTS, seed=0)
    logits_bv = torch.cat(
        [model(rows, use_cache=False, logits_to_keep=1).logits[:, -1] for rows in prompts.tokens_bl.split(16)]
    )
    return (logits_bv.argmax(-1) == prompts.answers_b).double().mean().item()


def main(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.task == "prose":
        print(prose(args.texts, args.out, args.steps, replace(PROSE, pattern=args.pattern)))
    else:
        print(recall(args.out, replace(SETTING, steps=args.steps), replace(RECALL, pattern=args.pattern)))


def parser() -> argparse.ArgumentParser:
    told = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    whole = argparse.ArgumentParser(**told)
    tasks = whole.add_subparsers(dest="task", required=True, metavar="prose|recall", help="what is learned")
    learned = tasks.add_parser("prose", help="texts of your own", **told)
    learned.add_argument("texts", nargs="+", help=".txt, .jsonl or .parquet, as path or path:column")
    add_options(learned, PROSE.pattern, 900, f"{demo.BATCH} windows of {demo.LENGTH} tokens")
    add_options(
        tasks.add_parser("recall", help="the lines of the recall probe", **told), RECALL.pattern, SETTING.steps,
        f"{SETTING.rows} sequences of {SETTING.length} tokens",
    )  # fmt: skip
    return whole


def add_options(task: argparse.ArgumentParser, pattern: str, steps: int, step: str) -> None:
    layers = "a letter a layer: M Mamba2, * attention, - MLP; without * the control; default %(default)s"
    task.add_argument("--out", type=Path, required=True, help="folder for the model and the training's checkpoint")
    task.add_argument("--pattern", default=pattern, help=layers)
    task.add_argument("--steps", type=int, default=steps, help=f"steps of {step}; default %(default)s")


if __name__ == "__main__":
    main()
