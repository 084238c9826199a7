"""A native folder in mamba-ssm's own MambaLMHeadModel: `python run_mamba_ssm.py FOLDER REQUEST.json`.

On a machine without a GPU TRITON_INTERPRET=1 runs its kernels in Triton's interpreter: they compute what they compute
on a GPU, at a speed that says nothing. Imports nothing of ghost; the last line that it prints is a JSON object.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

if not torch.cuda.is_available():
    sys.modules["selective_scan_cuda"] = ModuleType("selective_scan_cuda")  # Mamba1's, imported whatever is asked
    torch.cuda.device = nullcontext  # entered before every kernel

import mamba_ssm
from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
from mamba_ssm.utils.generation import InferenceParams

NOTE = "Triton's interpreter on a CPU; no perplexity, since a window takes minutes there"


def greedy(model: Any, prompt: list[int], new_tokens: int) -> list[int]:
    """By its kernels for a prompt, then by its step; its own loop around them times itself by CUDA events."""
    state = InferenceParams(max_seqlen=len(prompt) + new_tokens, max_batch_size=1)
    ids_bl, found = torch.tensor([prompt], device=model.lm_head.weight.device), []
    for _ in range(new_tokens):
        logits_bv = model(ids_bl, inference_params=state, num_last_tokens=1).logits[:, -1]
        state.seqlen_offset += ids_bl.shape[1]
        ids_bl = logits_bv.argmax(-1, keepdim=True)
        found.append(ids_bl.item())
    return found


def logprobs(model: Any, prompt: list[int], continuation: list[int]) -> list[float]:
    """Of each token of the continuation, after the prompt and those before it; by its kernels for whole sequences."""
    ids = torch.tensor([*prompt, *continuation], device=model.lm_head.weight.device)
    logits_lv: Tensor = model(ids[None, :-1]).logits[0].double()
    found = logits_lv.log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
    return found[len(prompt) - 1 :].tolist()


@torch.inference_mode()
def answers(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = MambaLMHeadModel.from_pretrained(folder, device=device, dtype=torch.float32).eval()
    pairs = list(zip(request["prompts"], request["continuations"], strict=True))
    return {
        "version": f"mamba-ssm {mamba_ssm.__version__}",
        "greedy": [greedy(model, prompt, request["new_tokens"]) for prompt, _ in pairs],
        "logprobs": [logprobs(model, prompt, continuation) for prompt, continuation in pairs],
        "perplexity": None,
        "note": NOTE,
    }


if __name__ == "__main__":
    folder, request, *options = sys.argv[1:]
    if options:
        print(json.dumps({"prefill": None, "decode": None, "note": NOTE}))
    else:
        print(json.dumps(answers(folder, json.loads(Path(request).read_text()))))
