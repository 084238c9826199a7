"""What every script of `bench.runtimes` is called with, and how it answers; only Python's own library.

A script runs in a venv of its own and with `python -P`: it appends this folder to its path, behind all packages.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS, STEPS, PREFILLED = 5, 32, 512
"""Of the speed: medians of so many rounds, each of so many decoded tokens a sequence, or of so long a prompt."""


def reply(
    answers: Callable[[str, dict[str, Any]], dict[str, Any]],
    speed: Callable[[str, int], dict[str, Any]] | str = "not measured",
) -> None:
    """`CHECKPOINT REQUEST.json` asks for the answers, `--speed SEQUENCES` after them for the speed, or why there is
    none. Prints a JSON object on the last line."""
    checkpoint, request, *options = sys.argv[1:]
    if not options:
        print(json.dumps(answers(checkpoint, json.loads(Path(request).read_text()))))
    elif isinstance(speed, str):
        print(json.dumps({"prefill": None, "decode": None, "note": speed}))
    else:
        print(json.dumps(speed(checkpoint, int(options[1]))))
