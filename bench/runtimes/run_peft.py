"""LoRA by peft on a folder's in_proj: `python run_peft.py FOLDER REQUEST.json`.

The answers are the model's before the first step, which an adapter that begins at zero must not change; the note says
what the steps did. Imports nothing of ghost; the last line that it prints is a JSON object.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

sys.path.append(str(Path(__file__).parent))
from reply import reply
from run_transformers import asked, load, read

STEPS, RATE = 4, 1e-3


def tune(model: Any, ids: list[int], window: int) -> list[float]:
    """Loss of the text's first window at each step, and after the last."""
    ids_bl = torch.tensor([ids[:window]])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    losses = []
    for _ in range(STEPS):
        loss = model(ids_bl, labels=ids_bl).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    with torch.no_grad():
        return [*losses, model(ids_bl, labels=ids_bl).loss.item()]


def answers(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    model: Any = get_peft_model(load(folder), LoraConfig(target_modules=["in_proj"], task_type="CAUSAL_LM"))
    ids = read(folder, request["text"])
    found = asked(model, ids, request)
    losses = tune(model, ids, request["window"])
    if not losses[-1] < losses[0]:
        sys.exit(f"LoRA on in_proj learned nothing: losses {losses}")
    note = f"LoRA on in_proj: {STEPS} steps take a window's loss from {losses[0]:.3f} to {losses[-1]:.3f}"
    return found | {"version": f"peft {version('peft')}", "note": note}


if __name__ == "__main__":
    reply(answers)
