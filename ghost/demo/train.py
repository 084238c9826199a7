"""Train the demo model: a Mamba2 language model of 3.8 M parameters on the standard library's source text.

    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 python -m ghost.demo.train --out ghost/demo/model

About an hour on two cores with bf16 instructions; without the two variables the C library returns every large tensor to
the kernel, and half of the time goes there. Checkpoints go to `--work` every 250 steps, and the same command continues
from them. Data, seeds and schedule are fixed; the model card says what came out.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Mamba2Config, Mamba2ForCausalLM, PreTrainedModel

from ghost.demo.card import demo_card
from ghost.demo.data import VOCAB, held_out, make_tokenizer, training_stream
from ghost.mixer import MixerLayout, Weights, mixer_forward

D_MODEL, LAYERS, HEADDIM, D_STATE, EPS = 256, 6, 64, 128, 1e-5
BATCH, LENGTH, STEPS = 4, 1024, 3250
PEAK_LR, WARMUP, DECAY_SHARE, WEIGHT_DECAY = 3e-3, 100, 0.3, 0.05
SAVE_EVERY = 250
CHECKED = 32 * (LENGTH + 1)
"""Tokens of what is held out whose loss is printed."""
LAYOUT = MixerLayout(
    d_model=D_MODEL, nheads=2 * D_MODEL // HEADDIM, headdim=HEADDIM, n_groups=1, d_state=D_STATE, d_conv=4, norm_eps=EPS
)


def new_model() -> Mamba2ForCausalLM:
    """Fresh weights from a fixed seed."""
    torch.manual_seed(0)
    config = Mamba2Config(
        vocab_size=VOCAB,
        hidden_size=D_MODEL,
        num_hidden_layers=LAYERS,
        expand=2,
        num_heads=LAYOUT.nheads,
        head_dim=HEADDIM,
        state_size=D_STATE,
        n_groups=1,
        tie_word_embeddings=True,
        initializer_range=0.02,
        rescale_prenorm_residual=True,
        layer_norm_epsilon=EPS,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return Mamba2ForCausalLM(config)


def block(weights: Weights, norm_m: Tensor, hidden_blm: Tensor) -> Tensor:
    return hidden_blm + mixer_forward(LAYOUT, weights, F.rms_norm(hidden_blm, (D_MODEL,), norm_m, EPS))


def loss_of(model: PreTrainedModel, ids_bl: Tensor, block: Callable[..., Tensor] = block) -> Tensor:
    """Mean next-token cross-entropy in nats, through ghost's own mixer, the faster one on a CPU."""
    backbone: Any = model.backbone
    embedding_vm = backbone.embeddings.weight
    hidden_blm = F.embedding(ids_bl[:, :-1], embedding_vm)
    for layer in backbone.layers:
        hidden_blm = block(dict(layer.mixer.named_parameters()), layer.norm.weight, hidden_blm)
    logits_blv = F.rms_norm(hidden_blm, (D_MODEL,), backbone.norm_f.weight, EPS) @ embedding_vm.T
    return F.cross_entropy(logits_blv.flatten(0, 1).float(), ids_bl[:, 1:].flatten())


Loss = Callable[[Tensor], Tensor]
"""From token ids (b, l) to a model's mean loss on them, in nats."""


@torch.no_grad()
def mean_loss(loss: Loss, tokens: Tensor) -> float:
    """Mean loss over non-overlapping windows of LENGTH tokens."""
    windows = tokens[: len(tokens) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1).long()
    return sum(loss(part).item() * len(part) for part in windows.split(8)) / len(windows)


def new_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, head, convolutions and vectors."""
    matrices = [p for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, lr=PEAK_LR, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=PEAK_LR, weight_decay=0.0, betas=(0.9, 0.95))]


def learning_rate(step: int, steps: int, peak: float = PEAK_LR, warmup: int = WARMUP) -> float:
    """Warm up, stay, then fall linearly to zero over the last 30%."""
    falling = (steps - step) / (DECAY_SHARE * steps)
    return peak * min(1.0, (step + 1) / warmup, max(falling, 0.0))


def batch(stream: Tensor, step: int) -> Tensor:
    """The step's windows (BATCH, LENGTH + 1), from the step's own seed: a resumed training sees the same data."""
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(len(stream) - LENGTH - 1, (BATCH,), generator=generator)
    return torch.stack([stream[start : start + LENGTH + 1] for start in starts]).long()


@dataclass
class Training:
    """Model, optimizers and progress; what a checkpoint holds."""

    model: PreTrainedModel
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0
    loss: float = math.log(VOCAB)

    def run(self, saved: Path, steps: int, advance: Callable[[], None], every: int, told: Callable[[], str]) -> None:
        """Call `advance` up to `steps`, from the checkpoint `saved` if there is one; every so many steps it is written,
        and a line printed, with what is `told` in it."""
        if saved.exists():
            self.load(saved)
        while self.step < steps:
            advance()
            if self.step % every == 0 or self.step == steps:
                self.save(saved)
                figures = f"loss {self.loss:.3f}{told()}, {self.seconds:.0f} s"
                print(f"step {self.step} of {steps}: {figures}", flush=True)

    def advance(self, loss_of: Callable[[], Tensor], rates: Sequence[float]) -> None:
        """One step of every optimizer, at its rate; the loss kept is a running mean over about 50 steps."""
        started = time.monotonic()
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.loss += (loss.item() - self.loss) * 0.02
        self.seconds += time.monotonic() - started

    def save(self, path: Path) -> None:
        state = {"step": self.step, "seconds": self.seconds, "loss": self.loss, "model": self.model.state_dict()}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.step, self.seconds, self.loss = state["step"], state["seconds"], state["loss"]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def train_demo(work: Path, steps: int) -> Training:
    """The demo model's own data, through `train`."""
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(work)
    return train(work, steps, training_stream(tokenizer), held_out(tokenizer, "calibration"))


def train(work: Path, steps: int, stream: Tensor, check: Tensor) -> Training:
    """Train a model of the demo's shape, as `learn` does; `check` is the held-out text whose loss is printed."""
    model = new_model()
    loss, check_loss = partial(loss_of, model, block=torch.compile(block)), partial(loss_of, model)
    return learn(model, work, steps, stream, loss, partial(mean_loss, check_loss, check[:CHECKED]))


def learn(
    model: PreTrainedModel, work: Path, steps: int, stream: Tensor, loss: Loss,
    check: Callable[[], float], every: int = SAVE_EVERY,
) -> Training:  # fmt: skip
    """Train to `steps` on a token stream (length,) by a loss, from the last checkpoint in `work` if there is one;
    `check` is the loss on what is held out, to be printed."""
    training = Training(model, new_optimizers(model))

    def advance() -> None:
        ids_bl, rate = batch(stream, training.step), learning_rate(training.step, steps)
        training.advance(lambda: loss(ids_bl), (rate, rate))

    training.run(work / "train.pt", steps, advance, every, lambda: f", held-out {check():.3f}")
    return training


def save_model(training: Training, out: Path) -> None:
    """The finished model as a transformers folder in half precision, with training.json and a model card."""
    tokenizer = make_tokenizer(out)
    perplexity = math.exp(mean_loss(partial(loss_of, training.model), held_out(tokenizer, "evaluation")))
    # transformers 5.23 applies this flag of the initialisation to loaded weights too
    training.model.config.rescale_prenorm_residual = False
    training.model.half().save_pretrained(out)
    figures = {
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "steps": training.step,
        "tokens_per_step": BATCH * LENGTH,
        "window": LENGTH,
        "seconds": round(training.seconds),
        "training_loss": round(training.loss, 4),
        "held_out_perplexity": round(perplexity, 3),
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
    }
    (out / "training.json").write_text(json.dumps(figures, indent=2) + "\n")
    (out / "README.md").write_text(demo_card(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "model", help="folder for the finished model"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("demo-training"), help="folder for the training's checkpoints"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of {BATCH} windows of {LENGTH} tokens")
    args = parser.parse_args()
    save_model(train_demo(args.work, args.steps), args.out)


if __name__ == "__main__":
    main()
