"""lm_eval's own command line on a folder: `python run_lm_eval.py FOLDER REQUEST.json`.

It gives the perplexity of a task that it reads from a file; greedy and log-probabilities are not its trade. Imports
nothing of ghost; the last line that it prints is a JSON object.
"""

import json
import math
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

sys.path.append(str(Path(__file__).parent))
from reply import reply

TASK = """task: request
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""


def answers(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    """Windows of the request's length, which lm-eval begins with the end-of-text token."""
    with tempfile.TemporaryDirectory() as scratch:
        documents = Path(scratch) / "text.jsonl"
        documents.write_text(json.dumps({"text": request["text"]}) + "\n")
        (Path(scratch) / "request.yaml").write_text(TASK.format(file=documents))
        arguments = ["--model", "hf", "--tasks", "request", "--include_path", scratch, "--device", "cpu"]
        arguments += ["--model_args", f"pretrained={folder},dtype=float32,max_length={request['window']}"]
        arguments += ["--batch_size", "1", "--output_path", scratch]
        subprocess.run([sys.executable, "-m", "lm_eval", *arguments], check=True, stdout=subprocess.DEVNULL)
        (results,) = Path(scratch).rglob("results_*.json")
        bits = json.loads(results.read_text())["results"]["request"]["bits_per_byte,none"]
    ids = AutoTokenizer.from_pretrained(folder)(request["text"], add_special_tokens=False)["input_ids"]
    nats = bits * math.log(2) * len(request["text"].encode())
    return {
        "version": f"lm-eval {version('lm-eval')}",
        "greedy": None,
        "logprobs": None,
        "perplexity": math.exp(nats / len(ids)),
        "note": "perplexity by lm-eval's rolling windows, so near and not equal",
    }


if __name__ == "__main__":
    reply(answers)
