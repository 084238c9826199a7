"""Train the demo model: a Mamba2 language model of 3.8 M parameters on the standard library's source text.

    python -m ghost.demo.train --out ghost/demo/model

An hour on two cores with bf16 instructions. It checkpoints every 250 steps into `--work` and continues from there when
started again. Data, seeds and schedule are fixed; the model card says what came out.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor, nn
from transformers import Mamba2Config, Mamba2ForCausalLM, PreTrainedTokenizerFast

from ghost.calibration.stdlib import TESTS, documents
from ghost.mixer import MixerLayout, mixer_forward

VOCAB, D_MODEL, LAYERS, HEADDIM, D_STATE = 4096, 256, 6, 64, 128
BATCH, LENGTH = 4, 1024
PEAK_LR, WARMUP, DECAY_SHARE, WEIGHT_DECAY = 3e-3, 100, 0.3, 0.05
SEPARATOR = "\n\n"
EPS = 1e-5


def make_tokenizer(texts: list[str], folder: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE; no text is out of vocabulary."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=VOCAB, special_tokens=["<|endoftext|>"], show_progress=False)
    end = "<|endoftext|>"
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token=end, eos_token=end, pad_token=end)
    fast.save_pretrained(folder)
    return fast


def training_tokens(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """The library's modules twice and its test suite once, one stream."""
    train = documents("train")
    library = [text for name, text in train if not TESTS & set(Path(name).parts)]
    tests = [text for name, text in train if TESTS & set(Path(name).parts)]
    encoded = {id(part): encode(tokenizer, part) for part in (library, tests)}
    return torch.cat([encoded[id(library)], encoded[id(library)], encoded[id(tests)]])


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    batches = tokenizer.backend_tokenizer.encode_batch([text + SEPARATOR for text in texts])
    return torch.tensor([token for encoding in batches for token in encoding.ids], dtype=torch.int32)


def new_model() -> Mamba2ForCausalLM:
    torch.manual_seed(0)
    config = Mamba2Config(
        vocab_size=VOCAB,
        hidden_size=D_MODEL,
        num_hidden_layers=LAYERS,
        expand=2,
        num_heads=2 * D_MODEL // HEADDIM,
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


LAYOUT = MixerLayout(
    d_model=D_MODEL, nheads=2 * D_MODEL // HEADDIM, headdim=HEADDIM, n_groups=1, d_state=D_STATE, d_conv=4, norm_eps=EPS
)


def block(weights: dict[str, Tensor], norm: Tensor, hidden: Tensor) -> Tensor:
    return hidden + mixer_forward(LAYOUT, weights, F.rms_norm(hidden, (D_MODEL,), norm, EPS))


def loss_of(model: Mamba2ForCausalLM, ids: Tensor, block: Callable[..., Tensor] = block) -> Tensor:
    """Mean next-token cross-entropy in nats, through ghost's own mixer (several times faster than the stock CPU path)."""
    embedding = model.backbone.embeddings.weight
    hidden = F.embedding(ids[:, :-1], embedding)
    for layer in model.backbone.layers:
        hidden = block(dict(layer.mixer.named_parameters()), layer.norm.weight, hidden)
    logits = F.rms_norm(hidden, (D_MODEL,), model.backbone.norm_f.weight, EPS) @ embedding.T
    return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
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


@torch.no_grad()
def held_out_loss(model: Mamba2ForCausalLM, tokens: Tensor) -> float:
    """Mean loss over non-overlapping windows of LENGTH tokens."""
    windows = tokens[: len(tokens) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1).long()
    losses = [loss_of(model, chunk).item() * len(chunk) for chunk in windows.split(8)]
    return sum(losses) / len(windows)


def train(work: Path, steps: int) -> tuple[Mamba2ForCausalLM, PreTrainedTokenizerFast, dict[str, float]]:
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer([text for _, text in documents("train")], work)
    tokens = training_tokens(tokenizer)
    calibration = encode(tokenizer, [text for _, text in documents("calibration")])
    model, fast_block = new_model(), torch.compile(block)
    opts, saved = optimizers(model), work / "train.pt"
    first, seconds = 0, 0.0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        first, seconds = state["step"], state["seconds"]
        model.load_state_dict(state["model"])
        for opt, opt_state in zip(opts, state["optimizers"], strict=True):
            opt.load_state_dict(opt_state)
    started, mean = time.monotonic() - seconds, math.log(VOCAB)
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(step)
        starts = torch.randint(len(tokens) - LENGTH - 1, (BATCH,), generator=generator)
        ids = torch.stack([tokens[s : s + LENGTH + 1] for s in starts]).long()
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = learning_rate(step, steps)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, ids, fast_block)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        mean += (loss.item() - mean) * 0.02
        if (step + 1) % 250 == 0 or step + 1 == steps:
            held_out = held_out_loss(model, calibration[: 32 * (LENGTH + 1)])
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{steps} loss {mean:.3f} held-out {held_out:.3f} {seconds:.0f} s", flush=True)
            states = [opt.state_dict() for opt in opts]
            state = {"step": step + 1, "seconds": seconds, "model": model.state_dict(), "optimizers": states}
            torch.save(state, work / "train.tmp")
            (work / "train.tmp").replace(saved)
    evaluation = encode(tokenizer, [text for _, text in documents("evaluation")])
    figures = {
        "steps": steps,
        "tokens_seen": steps * BATCH * LENGTH,
        "stream_tokens": len(tokens),
        "seconds": round(seconds),
        "train_loss": round(mean, 4),
        "held_out_perplexity": round(math.exp(held_out_loss(model, evaluation)), 3),
    }
    return model, tokenizer, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model", help="folder for the finished model")
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="folder for checkpoints of the training")
    parser.add_argument("--steps", type=int, default=6500, help=f"steps of {BATCH} x {LENGTH} tokens")
    args = parser.parse_args()
    model, tokenizer, figures = train(args.work, args.steps)
    # transformers 5.23 applies this flag of the initialisation to loaded weights too
    model.config.rescale_prenorm_residual = False
    model.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    figures["python"] = platform.python_version()
    (args.out / "training.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
