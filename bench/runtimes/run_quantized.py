"""A folder in transformers with int8 weights: `python run_quantized.py FOLDER REQUEST.json`, by the package that is
there, torchao or bitsandbytes.

Imports nothing of ghost; the last line that it prints is a JSON object.
"""

import json
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TorchAoConfig

sys.path.append(str(Path(__file__).parent))
from run_transformers import greedy, logprobs, perplexity

PACKAGE = "torchao" if find_spec("torchao") else "bitsandbytes"


def load(folder: str) -> Any:
    """Every Linear but the head in int8, fp32 otherwise."""
    if PACKAGE == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig  # pyright: ignore[reportMissingImports]

        config: Any = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        config = BitsAndBytesConfig(load_in_8bit=True)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=config).eval()


@torch.inference_mode()
def answers(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    model, tokenizer = load(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(request["text"], add_special_tokens=False)["input_ids"]
    pairs = list(zip(request["prompts"], request["continuations"], strict=True))
    kinds = {type(module.weight).__name__ for module in model.modules() if isinstance(module, torch.nn.Linear)}
    return {
        "version": f"{PACKAGE} {version(PACKAGE)}",
        "greedy": [greedy(model, prompt, request["new_tokens"]) for prompt, _ in pairs],
        "logprobs": [logprobs(model, prompt, continuation) for prompt, continuation in pairs],
        "perplexity": perplexity(model, ids, request["window"]),
        "note": f"weights of Linear: {', '.join(sorted(kinds))}",
    }


if __name__ == "__main__":
    folder, request, *options = sys.argv[1:]
    if options:
        print(json.dumps({"prefill": None, "decode": None, "note": "not measured"}))
    else:
        print(json.dumps(answers(folder, json.loads(Path(request).read_text()))))
