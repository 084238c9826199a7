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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Mamba2Config, Mamba2ForCausalLM

from ghost.demo.card import demo_card
from ghost.demo.data import VOCAB, held_out, make_tokenizer, training_stream
from ghost.mixer import MixerLayout, Weights, mixer_forward

D_MODEL, LAYERS, HEADDIM, D_STATE, EPS = 256, 6, 64, 128, 1e-5
BATCH, LENGTH, STEPS = 4, 1024, 3250
PEAK_LR, WARMUP, DECAY_SHARE, WEIGHT_DECAY = 3e-3, 100, 0.3, 0.05
SAVE_EVERY = 250
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


def loss_of(model: Mamba2ForCausalLM, ids_bl: Tensor, block: Callable[..., Tensor] = block) -> Tensor:
    """Mean next-token cross-entropy in nats, through ghost's own mixer, the faster one on a CPU."""
    embedding_vm = model.backbone.embeddings.weight
    hidden_blm = F.embedding(ids_bl[:, :-1], embedding_vm)
    layers: Any = model.backbone.layers
    for layer in layers:
        hidden_blm = block(dict(layer.mixer.named_parameters()), layer.norm.weight, hidden_blm)
    logits_blv = F.rms_norm(hidden_blm, (D_MODEL,), model.backbone.norm_f.weight, EPS) @ embedding_vm.T
    return F.cross_entropy(logits_blv.flatten(0, 1).float(), ids_bl[:, 1:].flatten())


@torch.no_grad()
def mean_loss(model: Mamba2ForCausalLM, tokens: Tensor) -> float:
    """Mean loss over non-overlapping windows of LENGTH tokens."""
    windows = tokens[: len(tokens) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1).long()
    return sum(loss_of(model, part).item() * len(part) for part in windows.split(8)) / len(windows)


def new_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the projections inside the layers, AdamW for embeddings, convolutions and vectors."""
    matrices = [p for name, p in model.named_parameters() if name.endswith(("in_proj.weight", "out_proj.weight"))]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, lr=PEAK_LR, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=PEAK_LR, weight_decay=0.0, betas=(0.9, 0.95))]


def learning_rate(step: int, steps: int) -> float:
    """Warm up, stay, then fall linearly to zero over the last 30%."""
    falling = (steps - step) / (DECAY_SHARE * steps)
    return PEAK_LR * min(1.0, (step + 1) / WARMUP, max(falling, 0.0))


def batch(stream: Tensor, step: int) -> Tensor:
    """The step's windows (BATCH, LENGTH + 1), from the step's own seed: a resumed training sees the same data."""
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(len(stream) - LENGTH - 1, (BATCH,), generator=generator)
    return torch.stack([stream[start : start + LENGTH + 1] for start in starts]).long()


@dataclass
class Training:
    """Model, optimizers and progress; what a checkpoint holds."""

    model: Mamba2ForCausalLM
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0
    loss: float = math.log(VOCAB)

    def advance(self, ids_bl: Tensor, rate: float, block: Callable[..., Tensor]) -> None:
        """One optimizer step; the loss kept is a running mean over about 50 steps."""
        started = time.monotonic()
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(self.model, ids_bl, block)
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
    """Train to `steps` on a token stream (length,), from the last checkpoint in `work` if there is one; `check` is
    the held-out text whose loss is printed."""
    model, check = new_model(), check[: 32 * (LENGTH + 1)]
    training, saved, compiled = Training(model, new_optimizers(model)), work / "train.pt", torch.compile(block)
    if saved.exists():
        training.load(saved)
    while training.step < steps:
        training.advance(batch(stream, training.step), learning_rate(training.step, steps), compiled)
        if training.step % SAVE_EVERY == 0 or training.step == steps:
            training.save(saved)
            figures = f"loss {training.loss:.3f}, held-out {mean_loss(model, check):.3f}, {training.seconds:.0f} s"
            print(f"step {training.step} of {steps}: {figures}", flush=True)
    return training


def save_model(training: Training, out: Path) -> None:
    """The finished model as a transformers folder in half precision, with training.json and a model card."""
    tokenizer = make_tokenizer(out)
    perplexity = math.exp(mean_loss(training.model, held_out(tokenizer, "evaluation")))
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
