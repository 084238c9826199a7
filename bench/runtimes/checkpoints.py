"""What the runtimes are asked: checkpoints, prompts and a text, and what transformers and ghost find in them."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bench.pruned import write_pruned
from bench.runtimes.run_transformers import greedy, load, logprobs
from bench.runtimes.runtime import RuntimeFailed
from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import load_tokenizer, sample_windows, tokenize
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.evaluation.perplexity import perplexity
from ghost.saliency import form_of
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.walk import walk

PROMPTS, PROMPT, NEW_TOKENS = 20, 24, 20
"""Prompts, tokens of the first one (each later one has one more), and tokens to go on with."""
LENGTH = 128
"""Tokens of a calibration window."""
CONVERTED = {"native": ("convert", "--format", "native")} | {
    f"gguf-{numbers}": ("gguf", "--type", numbers) for numbers in ("f32", "f16", "q8_0")
}
"""How ghost makes what a runtime reads from a transformers folder: a command and its options."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model by name and folder, and what it is pruned and asked with."""

    name: str
    model: str
    calibration: str = "stdlib"
    evaluation: str = "stdlib"
    samples: int = 128
    windows: int = 8
    window: int = 512


@dataclass(frozen=True)
class Sample:
    """A checkpoint on disk: dense, sliced or projected, with its state. What is made of it goes into `scratch`."""

    source: Source
    form: str
    kept: int
    folder: Path
    scratch: Path

    @property
    def name(self) -> str:
        return f"{self.source.name}, {self.form} {self.kept}"

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return open_checkpoint(self.folder)

    @property
    def family(self) -> str:
        return self.checkpoint.config.model_type

    def reading(self, reads: str, converter: Path | None = None) -> Path:
        """The checkpoint in this format, made at the first call; `converter` is llama.cpp's folder, for a hybrid."""
        if reads == "hf":
            return self.folder
        made = self._beside(reads)
        if not made.exists():
            command, *options = CONVERTED[reads]
            if converter and command == "gguf" and self.family != "mamba2":
                options += ["--converter", str(converter)]
            called = [sys.executable, "-m", "flows.cli", command, str(self.folder), str(made), *options]
            done = subprocess.run(called, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeFailed(f"ghost {command}: {done.stderr.strip().splitlines()[-1]}")
        return made

    @cached_property
    def request(self) -> Path:
        """REQUEST.json with transformers' greedy continuations, and beside it `expected`."""
        return self._asked[0]

    @cached_property
    def expected(self) -> dict[str, Any]:
        """As a runtime's script answers: continuations and log-probabilities are stock transformers', perplexity is
        ghost's own."""
        return self._asked[1]

    @property
    def state_bytes(self) -> int:
        """Of a sequence in fp32: recurrent and convolution's."""
        layout = self.checkpoint.mixer_layout
        return 4 * len(self.checkpoint.mixers) * (layout.state_elements + layout.conv_state_elements)

    def _beside(self, ending: str) -> Path:
        return self.scratch / f"{self.source.name}-{self.form}-{self.kept}.{ending}"

    @cached_property
    def _asked(self) -> tuple[Path, dict[str, Any]]:
        source, tokenizer = self.source, load_tokenizer(self.folder)
        read = tokenize(tokenizer, read_text(source.evaluation, "evaluation"))
        text = tokenizer.decode(read[: source.windows * source.window + 1].tolist())
        prompts = _prompts(read)
        expected = self._expected(prompts, tokenize(tokenizer, text))
        request = {
            "prompts": prompts, "new_tokens": NEW_TOKENS, "continuations": expected["greedy"], "text": text,
            "window": source.window,
        }  # fmt: skip
        path = self._beside("request.json")
        path.write_text(json.dumps(request))
        return path, expected

    @torch.inference_mode()
    def _expected(self, prompts: list[list[int]], tokens: torch.Tensor) -> dict[str, Any]:
        model, window = load(str(self.folder)), self.source.window
        whole = (len(tokens) - 1) // window * window
        stack = Stack(self.checkpoint, torch.device("cpu"), torch.float32)
        went = [greedy(model, prompt, NEW_TOKENS) for prompt in prompts]
        return {
            "greedy": went,
            "logprobs": [logprobs(model, prompt, ids) for prompt, ids in zip(prompts, went, strict=True)],
            "perplexity": perplexity(stack, tokens[: whole + 1], window).perplexity,
        }


def _prompts(read: torch.Tensor) -> list[list[int]]:
    """From places all over the text, of different lengths."""
    stride = (len(read) - PROMPT - PROMPTS) // PROMPTS
    return [read[i * stride : i * stride + PROMPT + i].tolist() for i in range(PROMPTS)]


def samples(source: Source, kept: Sequence[int], folder: Path) -> Iterator[Sample]:
    """The dense model, and cut to each size: by ghost's method, and by `balanced` where the family has that form."""
    stack = Stack(open_checkpoint(source.model), torch.device("cpu"), torch.float32)
    checkpoint = stack.checkpoint
    yield Sample(source, "dense", checkpoint.mixer_layout.d_state, checkpoint.folder, folder)
    methods = {"sliced": "ghost"} | ({"projected": "balanced"} if checkpoint.config.model_type == "mamba2" else {})
    tokens = tokenize(checkpoint.folder, read_text(source.calibration, "calibration"))
    tokens_bl = sample_windows(tokens, source.samples, LENGTH, 0)
    for form, method in methods.items():
        for n in kept:
            settings = RunSettings.make(method=method, sparsity=1 - n / checkpoint.mixer_layout.d_state, round_to=1)
            (target := folder / f"{source.name}-{form}-{n}").mkdir()
            write_pruned(checkpoint, list(walk(stack, tokens_bl, settings)), form_of(method, soft=False), target)
            yield Sample(source, form, n, target, folder)
