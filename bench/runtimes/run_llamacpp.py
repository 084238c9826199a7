"""A GGUF file in llama.cpp on a CPU, by llama-cpp-python's C interface: `python run_llamacpp.py FILE REQUEST.json`, or
`--speed SEQUENCES` after them.

Imports nothing of ghost; the last line that it prints is a JSON object.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp as llama  # pyright: ignore[reportMissingImports]
import numpy as np

sys.path.append(str(Path(__file__).parent))
from reply import PREFILLED, ROUNDS, STEPS, reply


class Model:
    """A model and one context, which holds `sequences` of `length` tokens. One thread computes."""

    def __init__(self, file: str, length: int, sequences: int = 1) -> None:
        llama._logger.set_verbose(False)
        self._model = llama.llama_model_load_from_file(file.encode(), llama.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp can't load {file}")
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = length * sequences, sequences
        params.n_batch = params.n_ubatch = length
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = llama.GGML_TYPE_F32  # as transformers has them; of a hybrid's attention
        self._context = llama.llama_init_from_model(self._model, params)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.type = llama.llama_ftype_name(llama.llama_model_ftype(self._model)).decode()
        self.tokens = llama.llama_vocab_n_tokens(self._vocab)
        self._batch = llama.llama_batch_init(length, 0, 1)

    def restart(self) -> None:
        """Forget all sequences."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)

    def logits(self, ids: list[int], start: int = 0) -> np.ndarray:
        """Of each token of the one sequence (length, vocabulary) in float64, whose first is the sequence's `start`."""
        return self.decode([(token, start + i, 0) for i, token in enumerate(ids)])

    def decode(self, tokens: list[tuple[int, int, int]], every: bool = True) -> np.ndarray:
        """One call with tokens, their positions and sequences; logits of all of them, or of the last."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, position, 1, sequence
            batch.logits[i] = every or i == len(tokens) - 1
        if code := llama.llama_decode(self._context, batch):
            raise SystemExit(f"llama_decode of {len(tokens)} tokens ended with {code}")
        rows = len(tokens) if every else 1
        found = np.ctypeslib.as_array(llama.llama_get_logits(self._context), (rows, self.tokens))
        return found.astype(np.float64)

    def tokenize(self, text: str) -> list[int]:
        encoded = text.encode()
        ids = (llama.llama_token * (len(encoded) + 8))()
        count = llama.llama_tokenize(self._vocab, encoded, len(encoded), ids, len(ids), False, False)
        return list(ids[:count])


def greedy(model: Model, prompt: list[int], new_tokens: int) -> list[int]:
    model.restart()
    logits, found = model.logits(prompt), []
    for position in range(len(prompt), len(prompt) + new_tokens):
        found.append(int(logits[-1].argmax()))
        logits = model.logits(found[-1:], position)
    return found


def logprobs(model: Model, prompt: list[int], continuation: list[int]) -> list[float]:
    """Of each token of the continuation, after the prompt and those before it."""
    model.restart()
    nll = _nll(model.logits([*prompt, *continuation]), [*prompt[1:], *continuation])
    return (-nll[len(prompt) - 1 :]).tolist()


def perplexity(model: Model, text: str, window: int) -> float:
    """By ghost's own protocol: non-overlapping windows that carry nothing, each predicting up to one token beyond."""
    ids, nll = model.tokenize(text), []
    for start in range(0, len(ids) - window, window):
        model.restart()
        nll.append(_nll(model.logits(ids[start : start + window]), ids[start + 1 : start + window + 1]))
    return float(np.exp(np.concatenate(nll).mean()))


def _nll(logits_lv: np.ndarray, targets: list[int]) -> np.ndarray:
    """Of as many rows as there are targets."""
    rows = logits_lv[: len(targets)]
    shifted = rows - rows.max(-1, keepdims=True)
    return np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(targets)), targets]


def answers(file: str, request: dict[str, Any]) -> dict[str, Any]:
    pairs = list(zip(request["prompts"], request["continuations"], strict=True))
    longest = max(len(p) + max(len(c), request["new_tokens"]) for p, c in pairs)
    model = Model(file, max(longest, request["window"]))
    return {
        "version": f"llama-cpp-python {llama.__version__}, {model.type}",
        "greedy": [greedy(model, prompt, request["new_tokens"]) for prompt, _ in pairs],
        "logprobs": [logprobs(model, prompt, continuation) for prompt, continuation in pairs],
        "perplexity": perplexity(model, request["text"], request["window"]),
        "note": "",
    }


def speed(file: str, sequences: int) -> dict[str, float]:
    """Tokens a second of one thread: of a prompt, and decoded by all sequences together."""
    model = Model(file, PREFILLED, sequences)
    prompt = [(1 + i % (model.tokens - 1), i, 0) for i in range(PREFILLED)]
    prefill, decode = [], []
    for _ in range(ROUNDS + 1):  # the first one warms up
        model.restart()
        prefill.append(_seconds(lambda: model.decode(prompt, every=False)))
        model.restart()
        steps = [[(1 + step, step, s) for s in range(sequences)] for step in range(STEPS)]
        decode.append(_seconds(lambda steps=steps: [model.decode(step) for step in steps]))
    return {
        "prefill": PREFILLED / statistics.median(prefill[1:]),
        "decode": sequences * STEPS / statistics.median(decode[1:]),
    }


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    reply(answers, speed)
