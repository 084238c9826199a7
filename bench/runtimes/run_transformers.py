"""A folder in stock transformers: `python run_transformers.py FOLDER REQUEST.json`, or `--speed SEQUENCES` after them.

Imports nothing of ghost; the last line that it prints is a JSON object.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.append(str(Path(__file__).parent))
from reply import PREFILLED, ROUNDS, STEPS, reply


def load(folder: str) -> Any:
    """In fp32, with the code that a projected checkpoint carries."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True).eval()


def greedy(model: Any, prompt: list[int], new_tokens: int) -> list[int]:
    """No token ends it early."""
    return generated(model, torch.tensor([prompt]), new_tokens)[0].tolist()


def generated(model: Any, ids_bl: Tensor, new_tokens: int) -> Tensor:
    """Token ids (b, new_tokens)."""
    options = {"do_sample": False, "min_new_tokens": new_tokens, "max_new_tokens": new_tokens, "pad_token_id": 0}
    model.generation_config.eos_token_id = None
    return model.generate(ids_bl, attention_mask=torch.ones_like(ids_bl), **options)[:, ids_bl.shape[1] :]


def logprobs(model: Any, prompt: list[int], continuation: list[int]) -> list[float]:
    """Of each token of the continuation, after the prompt and those before it."""
    found = _logprobs(model, [*prompt, *continuation])
    return found[len(prompt) - 1 :].tolist()


def perplexity(model: Any, ids: list[int], window: int) -> float:
    """Windows that don't overlap and carry nothing, each predicting up to one token beyond; no last, shorter one."""
    starts = range(0, len(ids) - window, window)
    return torch.cat([-_logprobs(model, ids[i : i + window + 1]) for i in starts]).mean().exp().item()


def _logprobs(model: Any, ids: list[int]) -> Tensor:
    """Of all tokens but the first, float64."""
    logits_lv = model(torch.tensor([ids[:-1]]), use_cache=False).logits[0].double()
    return logits_lv.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


def read(folder: str, text: str) -> list[int]:
    """The text's token ids by the folder's tokenizer."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=True)(text, add_special_tokens=False)["input_ids"]


@torch.inference_mode()
def asked(model: Any, ids: list[int], request: dict[str, Any]) -> dict[str, Any]:
    """What this model, from wherever it is, answers; `ids` are the text's."""
    pairs = list(zip(request["prompts"], request["continuations"], strict=True))
    return {
        "greedy": [greedy(model, prompt, request["new_tokens"]) for prompt, _ in pairs],
        "logprobs": [logprobs(model, prompt, continuation) for prompt, continuation in pairs],
        "perplexity": perplexity(model, ids, request["window"]),
    }


def answers(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    found = asked(load(folder), read(folder, request["text"]), request)
    return found | {"version": f"transformers {transformers.__version__}", "note": ""}


@torch.inference_mode()
def speed(folder: str, sequences: int) -> dict[str, float]:
    """Tokens a second of one thread: of a prompt, and decoded by all sequences together."""
    torch.set_num_threads(1)
    model = load(folder)
    prompt_bl = torch.arange(1, PREFILLED + 1)[None] % model.config.vocab_size
    begun_bl = torch.arange(1, sequences + 1)[:, None]
    seconds = [_median(lambda n=n: generated(model, begun_bl, n)) for n in (1, STEPS + 1)]
    prefill = _median(lambda: generated(model, prompt_bl, 1))
    return {"prefill": PREFILLED / prefill, "decode": sequences * STEPS / (seconds[1] - seconds[0])}


def _median(work: Callable[[], Any]) -> float:
    """Seconds, after a round that warms up."""
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    reply(answers, speed)
