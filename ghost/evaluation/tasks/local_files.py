"""Functions that the YAML files beside this one name. lm-eval imports this file by its path, outside the package."""

import re
from pathlib import Path
from typing import Any

from datasets import Dataset

from ghost.calibration.files import json_rows, text_blocks

TITLE = re.compile(r"^ = [^=](?:.*[^=])? = $\n?", re.MULTILINE)
"""A heading of the first level; sections have more signs."""
SIGNS = [("s '", "s'"), (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."), (" : ", ": "), (" ; ", "; "), (" . ", ". "),
         (" ! ", "! "), (" ? ", "? "), (" , ", ", ")]  # fmt: skip
PAIRS = [(r"\(\s*([^\)]*?)\s*\)", r"(\1)"), (r"\[\s*([^\]]*?)\s*\]", r"[\1]"), (r"{\s*([^}]*?)\s*}", r"{\1}"),
         (r"\"\s*([^\"]*?)\s*\"", r'"\1"'), (r"'\s*([^']*?)\s*'", r"'\1'")]  # fmt: skip
LAST = [("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" ° ", "°"), (" \n", "\n"), ("\n ", "\n"),
        (" N ", " 1 "), (" 's", "'s")]  # fmt: skip


def pages(local_files: dict[str, str], **_: Any) -> dict[str, Dataset]:
    """The pages of a WikiText file: from one heading of the first level to the next."""
    text = "".join(text_blocks(Path(local_files["local_wikitext"])))
    starts = sorted({0, *(match.start() for match in TITLE.finditer(text))})
    found = [text[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
    return {"test": Dataset.from_dict({"page": [page for page in found if page.strip()]})}


def passages(local_files: dict[str, str], **_: Any) -> dict[str, Dataset]:
    """The passages of a LAMBADA file, one JSON object with `text` a line."""
    rows = [row["text"] for _, row in json_rows(Path(local_files["local_lambada"]))]
    return {"test": Dataset.from_dict({"text": rows})}


def detokenized(doc: dict[str, str]) -> str:
    """The page as it was before WikiText split it into words, by the rules of lm-eval's wikitext task."""
    text = re.sub(r"/' [0-9]/", r"/'[0-9]/", doc["page"].replace(*SIGNS[0]))
    for found, put in SIGNS[1:]:
        text = text.replace(found, put)
    for pattern, put in PAIRS:
        text = re.sub(pattern, put, text)
    for found, put in LAST:
        text = text.replace(found, put)
    return text


def word_and_byte_perplexity(doc: dict[str, str], results: list[float]) -> dict[str, tuple[float, int]]:
    """Per word and byte of the page as WikiText has it, not of the detokenized one, so that papers compare."""
    words, size = len(re.split(r"\s+", doc["page"])), len(doc["page"].encode())
    return {
        "word_perplexity": (results[0], words),
        "byte_perplexity": (results[0], size),
        "bits_per_byte": (results[0], size),
    }
