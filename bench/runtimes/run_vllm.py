"""A folder in vLLM, offline: `python run_vllm.py FOLDER REQUEST.json`, or `--speed SEQUENCES` after them.

Imports nothing of ghost; the last line that it prints is a JSON object. vLLM runs in this process, without compilation,
so that its own bookkeeping of states can be read.
"""

import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

import torch
import vllm  # pyright: ignore[reportMissingImports]
from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]
from vllm.v1.kv_cache_interface import MambaSpec  # pyright: ignore[reportMissingImports]

sys.path.append(str(Path(__file__).parent))
from reply import PREFILLED, ROUNDS, STEPS, reply

LONGEST = 2048
"""Tokens of a sequence; transformers' Mamba2 config has no such limit, and vLLM takes this where there is none."""


def load(folder: str, sequences: int = 16, **options: Any) -> Any:
    """In fp32, states too, with what vLLM decides by itself: the plugin's architecture needs no code of the folder."""
    return LLM(
        folder, dtype="float32", max_model_len=LONGEST, max_num_seqs=sequences, enforce_eager=True,
        enable_prefix_caching=False, disable_log_stats=True, seed=0, **options,
    )  # fmt: skip


def greedy(model: Any, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """No token ends it early."""
    params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
    found = model.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    return [list(of_one.outputs[0].token_ids) for of_one in found]


def logprobs(model: Any, rows: list[list[int]]) -> list[list[float]]:
    """Of all tokens but the first of each row."""
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    found = model.generate([{"prompt_token_ids": ids} for ids in rows], params, use_tqdm=False)
    pairs = [(ids, of_one.prompt_logprobs) for ids, of_one in zip(rows, found, strict=True)]
    return [[scores[i][ids[i]].logprob for i in range(1, len(ids))] for ids, scores in pairs]


def continued(model: Any, prompts: list[list[int]], continuations: list[list[int]]) -> list[list[float]]:
    """Of each token of a continuation, after its prompt and those before it."""
    pairs = list(zip(prompts, continuations, strict=True))
    found = logprobs(model, [[*prompt, *continuation] for prompt, continuation in pairs])
    return [row[len(prompt) - 1 :] for row, (prompt, _) in zip(found, pairs, strict=True)]


def perplexity(model: Any, text: str, window: int) -> float:
    """Windows that don't overlap and carry nothing, each predicting up to one token beyond; no last, shorter one."""
    ids = model.get_tokenizer()(text, add_special_tokens=False)["input_ids"]
    starts = range(0, len(ids) - window, window)
    found = logprobs(model, [ids[i : i + window + 1] for i in starts])
    return math.exp(-statistics.fmean(score for row in found for score in row))


def states(model: Any) -> dict[str, Any]:
    """By vLLM's own calculator: bytes of a sequence's states, recurrent and convolution's, and how many sequences of
    LONGEST tokens the cache holds, whose size is VLLM_CPU_KVCACHE_SPACE in GiB."""
    config = model.llm_engine.vllm_config
    layers = config.compilation_config.static_forward_context.values()
    specs = [spec for layer in layers if isinstance(spec := layer.get_kv_cache_spec(config), MambaSpec)]
    return {
        "vllm_state_bytes": sum(spec.state_content_size_bytes for spec in specs),
        "vllm_sequences": config.cache_config.kv_cache_max_concurrency,
        "vllm_cache_gib": os.environ.get("VLLM_CPU_KVCACHE_SPACE"),
    }


def answers(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    model = load(folder)
    return {
        "version": f"vllm {vllm.__version__}",
        "greedy": greedy(model, request["prompts"], request["new_tokens"]),
        "logprobs": continued(model, request["prompts"], request["continuations"]),
        "perplexity": perplexity(model, request["text"], request["window"]),
        "note": "",
    } | states(model)


def speed(folder: str, sequences: int) -> dict[str, float]:
    """Tokens a second of one thread: of a prompt, and decoded by all sequences together, without their prompts."""
    torch.set_num_threads(1)
    model = load(folder, sequences, skip_tokenizer_init=True)
    prompt = [[1 + i for i in range(PREFILLED)]]
    begun = [[1 + i] for i in range(sequences)]
    greedy(model, begun, 2)  # warms up
    greedy(model, prompt, 1)
    prefill, decode = [], []
    for _ in range(ROUNDS):
        prefill.append(_seconds(model, prompt, 1))
        decode.append(_seconds(model, begun, STEPS + 1) - _seconds(model, begun, 1))
    return {
        "prefill": PREFILLED / statistics.median(prefill),
        "decode": sequences * STEPS / statistics.median(decode),
    }


def _seconds(model: Any, prompts: list[list[int]], new_tokens: int) -> float:
    start = time.perf_counter()
    greedy(model, prompts, new_tokens)
    return time.perf_counter() - start


if __name__ == "__main__":
    reply(answers, speed)
