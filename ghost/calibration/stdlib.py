"""The embedded corpus: source text of the running interpreter's standard library, and pydoc's topics for English prose.

Every Python ships it, so nothing is downloaded and nothing is copied into this repository. A document's split follows
from a hash of its name alone: the three splits never overlap, and a module stays in its split on every Python version.
"""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ghost.errors import CorpusError

Split = Literal["train", "calibration", "evaluation"]
TOPICS = "pydoc_data/topics.py"
TABLES = {"encodings", "site-packages", "dist-packages", "__pycache__"}
TESTS = {"test", "tests", "idle_test"}


def split_of(name: str) -> Split:
    """One document in twenty is for evaluation, one for calibration, the rest and all tests for training."""
    if TESTS & set(Path(name).parts):
        return "train"
    bucket = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 20
    return "evaluation" if bucket == 0 else "calibration" if bucket == 1 else "train"


def documents(split: Split) -> list[tuple[str, str]]:
    """(name, text) of every document of the split, ordered by name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = sorted([*_modules(root, split), *_topics(root, split)])
    if not found:
        raise CorpusError(f"corpus stdlib: no Python sources under {root}; give a text file with --calibration instead")
    return found


def _modules(root: Path, split: Split) -> Iterator[tuple[str, str]]:
    for path in root.rglob("*.py"):
        name = path.relative_to(root)
        if _is_source(name) and split_of(name.as_posix()) == split:
            text = path.read_bytes().decode("utf-8", errors="ignore")
            if text.strip():
                yield name.as_posix(), text


def _is_source(name: Path) -> bool:
    """Source that somebody wrote: no character tables, no packages installed beside, nothing of this one machine."""
    generated = name.parts[0].startswith(("config-", "_sysconfigdata"))
    return not generated and not TABLES & set(name.parts) and name.as_posix() != TOPICS


def _topics(root: Path, split: Split) -> Iterator[tuple[str, str]]:
    """pydoc's topics are one literal dict in a module; read it without importing the module."""
    path = root / TOPICS
    if not path.exists():
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ((f"{TOPICS}#{topic}", text) for topic, text in ast.literal_eval(node.value).items())
            yield from (item for item in topics if split_of(item[0]) == split)
