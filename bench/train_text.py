"""Train a second small Mamba2 model, of the demo's shape, on texts of your own.

    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 \\
        python -m bench.train_text valid.txt lambada_test.jsonl --out english

Texts are named as for `ghost run` (path or path:column). The last twentieth of each is held out. 900 steps of 4,096
tokens take about ten minutes on two cores; the same command continues from train.pt in `--out`.
"""

import argparse
import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ghost.calibration.corpus import read_text
from ghost.demo import train
from ghost.demo.data import bpe_tokenizer, encode

HELD_OUT = 20
"""One part in so many of each text."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", help=".txt, .jsonl or .parquet, as path or path:column")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and the training's checkpoint")
    parser.add_argument("--steps", type=int, default=900, help="steps of 4 windows of 1024 tokens")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    text = cut(args.texts, args.out)
    training = train.train(args.out, args.steps, text.learned, text.held_out)
    save(training, text.tokenizer, args.out)
    loss = train.mean_loss(partial(train.loss_of, training.model), text.held_out)
    print(f"held-out perplexity {math.exp(loss):.2f}")


class Cut(NamedTuple):
    """Token ids (length,) to learn from and to check with, and the tokenizer, made from the former."""

    tokenizer: PreTrainedTokenizerFast
    learned: Tensor
    held_out: Tensor


def cut(specs: list[str], out: Path) -> Cut:
    """The texts, each without its last part, and those parts; the tokenizer is saved to `out`."""
    texts = [read_text(spec, "calibration") for spec in specs]
    cuts = [len(text) - len(text) // HELD_OUT for text in texts]
    learned = [text[:end] for text, end in zip(texts, cuts, strict=True)]
    tokenizer = bpe_tokenizer(learned, out)
    held_out = [text[end:] for text, end in zip(texts, cuts, strict=True)]
    return Cut(tokenizer, encode(tokenizer, learned), encode(tokenizer, held_out))


def save(training: train.Training, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """A transformers folder with its tokenizer, in full precision."""
    # transformers 5.23 applies this flag of the initialisation to loaded weights too
    training.model.config.rescale_prenorm_residual = False
    training.model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
