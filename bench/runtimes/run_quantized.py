"""A folder in transformers with int8 weights: `python run_quantized.py FOLDER REQUEST.json`, by the package that is
there, torchao or bitsandbytes.

Imports nothing of ghost; the last line that it prints is a JSON object.
"""

import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

sys.path.append(str(Path(__file__).parent))
from reply import reply
from run_transformers import asked, read

PACKAGE = "torchao" if find_spec("torchao") else "bitsandbytes"


def load(folder: str) -> Any:
    """Every Linear but the head in int8, fp32 otherwise."""
    if PACKAGE == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig  # pyright: ignore[reportMissingImports]

        config: Any = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        config = BitsAndBytesConfig(load_in_8bit=True)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=config).eval()


def answers(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    model = load(folder)
    kinds = {type(module.weight).__name__ for module in model.modules() if isinstance(module, torch.nn.Linear)}
    about = {"version": f"{PACKAGE} {version(PACKAGE)}", "note": f"weights of Linear: {', '.join(sorted(kinds))}"}
    return asked(model, read(folder, request["text"]), request) | about


if __name__ == "__main__":
    reply(answers)
