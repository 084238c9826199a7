"""A native folder in mamba-ssm's own MambaLMHeadModel: `python run_mamba_ssm.py FOLDER REQUEST.json`.

On a machine without a GPU TRITON_INTERPRET=1 runs its kernels in Triton's interpreter: they compute what they compute
on a GPU, at a speed that says nothing. Imports nothing of ghost; the last line that it prints is a JSON object.
"""

import math
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from triton.runtime.autotuner import Autotuner  # pyright: ignore[reportMissingImports]

if not torch.cuda.is_available():
    sys.modules["selective_scan_cuda"] = ModuleType("selective_scan_cuda")  # Mamba1's, imported whatever is asked
    torch.cuda.device = nullcontext  # entered before every kernel
    # untimed: the shape with the largest blocks, since what takes time here is the number of programs
    Autotuner._bench = lambda self, *args, config, **named: [-math.prod(config.kwargs.values())]

import mamba_ssm  # pyright: ignore[reportMissingImports]
from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel  # pyright: ignore[reportMissingImports]
from mamba_ssm.utils.generation import InferenceParams  # pyright: ignore[reportMissingImports]

sys.path.append(str(Path(__file__).parent))
from reply import reply

STEPPED = 4
"""Tokens of the first prompt's continuation that go through mamba-ssm's step as well."""
NOTE = (
    "Triton's interpreter on a CPU: greedy is the likeliest token after each of the reference's, from one forward a "
    f"prompt, and {STEPPED} tokens by the step; no perplexity, whose windows take too long there"
)


def whole(model: Any, prompt: list[int], continuation: list[int]) -> tuple[list[int], list[float]]:
    """The likeliest token at each place of the continuation, and the log-probability of the one that is there, by the
    kernels for whole sequences. As long as the first are the continuation, they are what greedy decoding gives."""
    ids = torch.tensor([*prompt, *continuation], device=model.lm_head.weight.device)
    logits_lv: Tensor = model(ids[None, :-1]).logits[0, len(prompt) - 1 :].double()
    return logits_lv.argmax(-1).tolist(), logits_lv.log_softmax(-1).gather(-1, ids[len(prompt) :, None])[:, 0].tolist()


def stepped(model: Any, prompt: list[int]) -> list[int]:
    """Greedy, by the kernels for a prompt and then by the step; mamba-ssm's own loop asks for CUDA events."""
    state = InferenceParams(max_seqlen=len(prompt) + STEPPED, max_batch_size=1)
    ids_bl, found = torch.tensor([prompt], device=model.lm_head.weight.device), []
    for _ in range(STEPPED):
        logits_bv = model(ids_bl, inference_params=state, num_last_tokens=1).logits[:, -1]
        state.seqlen_offset += ids_bl.shape[1]
        ids_bl = logits_bv.argmax(-1, keepdim=True)
        found.append(int(ids_bl))
    return found


@torch.inference_mode()
def answers(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = MambaLMHeadModel.from_pretrained(folder, device=device, dtype=torch.float32).eval()
    for layer in model.backbone.layers:
        layer.mixer.use_mem_eff_path = device == "cuda"  # the fused path calls causal-conv1d, which is CUDA
    pairs = list(zip(request["prompts"], request["continuations"], strict=True))
    greedy, logprobs = map(list, zip(*(whole(model, *pair) for pair in pairs), strict=True))
    greedy[0] = stepped(model, request["prompts"][0]) + greedy[0][STEPPED:]
    return {
        "version": f"mamba-ssm {mamba_ssm.__version__}",
        "greedy": greedy,
        "logprobs": logprobs,
        "perplexity": None,
        "note": NOTE,
    }


if __name__ == "__main__":
    reply(answers, NOTE)
