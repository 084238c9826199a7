"""Texts to calibrate and to evaluate on, and the windows of tokens that are drawn from them."""

import hashlib
import json
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from ghost.calibration import stdlib
from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import digest, sample_windows, tokenize
from ghost.errors import CorpusError
from tests.models import make_tokenizer, text

ROWS = ["first document\nof two lines", "second, with a ü and a \u2028 separator", "third"]
JOINED = "\n\n".join(ROWS)
SPLITS = get_args(stdlib.Split)


@pytest.fixture(scope="module")
def documents() -> dict[str, list[tuple[str, str]]]:
    return {split: stdlib.documents(split) for split in SPLITS}


def test_the_splits_of_the_standard_library_share_no_document(documents: dict[str, Any]):
    names = {split: {name for name, _ in documents[split]} for split in SPLITS}
    assert all(len(names[split]) == len(documents[split]) for split in SPLITS)
    assert not any(names[a] & names[b] for a, b in combinations(SPLITS, 2))
    texts = {split: {text for _, text in documents[split] if len(text) > 500} for split in SPLITS}
    assert not texts["calibration"] & texts["evaluation"]


def test_every_split_of_the_standard_library_has_modules_and_prose(documents: dict[str, Any]):
    assert {"argparse.py", "json/decoder.py"} <= {name for name, _ in documents["train"]}
    for split in SPLITS:
        named = dict(documents[split])
        assert sum(map(len, named.values())) > 200_000
        assert any(name.endswith(".py") for name in named)
        assert any(name.startswith(stdlib.TOPICS) for name in named)
        assert all(text.strip() for text in named.values())


def test_documents_come_in_the_order_of_their_names(documents: dict[str, Any]):
    for split in SPLITS:
        names = [name for name, _ in documents[split]]
        assert names == sorted(names)


def test_a_document_is_in_the_split_that_its_name_alone_gives(documents: dict[str, Any]):
    for split in SPLITS:
        assert all(stdlib.split_of(name) == split for name, _ in documents[split])
    assert [stdlib.split_of(name) for name in ("ast.py", "enum.py", "http/client.py")] == ["evaluation"] * 3
    assert [stdlib.split_of(name) for name in ("bisect.py", "heapq.py", "doctest.py")] == ["calibration"] * 3
    assert [stdlib.split_of(name) for name in ("argparse.py", "test/ast.py", "a/tests/enum.py")] == ["train"] * 3


def test_one_document_in_twenty_is_for_evaluation_and_one_for_calibration():
    splits = [stdlib.split_of(f"module{i}.py") for i in range(2000)]
    assert 60 < splits.count("evaluation") < 140 and 60 < splits.count("calibration") < 140


def test_the_embedded_corpus_is_the_split_joined_by_empty_lines(documents: dict[str, Any]):
    for split in ("calibration", "evaluation"):
        assert read_text("stdlib", split) == "\n\n".join(text for _, text in documents[split])


def write(folder: Path, suffix: str, column: str = "text") -> Path:
    """ROWS as a file of that kind."""
    path = folder / f"corpus{suffix}"
    rows = [{"number": i, column: row} for i, row in enumerate(ROWS)]
    match suffix:
        case ".txt":
            path.write_text(JOINED, encoding="utf-8")
        case ".jsonl":
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            path.write_text("\n".join([lines[0], "", *lines[1:]]) + "\n", encoding="utf-8")
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
@pytest.mark.parametrize("split", ["calibration", "evaluation"])
def test_files_are_read_whole_for_either_use(suffix: str, split: Any, tmp_path: Path):
    assert read_text(str(write(tmp_path, suffix)), split) == JOINED


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_column_is_named_behind_the_path(suffix: str, tmp_path: Path):
    path = write(tmp_path, suffix, column="body")
    assert read_text(f"{path}:body", "calibration") == JOINED
    with pytest.raises(CorpusError, match="has no column 'text'; choose one of number, body as path:column"):
        read_text(str(path), "calibration")


def test_a_colon_that_belongs_to_the_path_stays_in_it(tmp_path: Path):
    folder = tmp_path / "a:b"
    folder.mkdir()
    assert read_text(str(write(folder, ".jsonl")), "calibration") == JOINED
    assert read_text(f"{folder}/corpus.jsonl:text", "calibration") == JOINED


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """datasets reads its environment when it is imported, which another test may have done."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize(("column", "suffix"), [("text", ""), ("text", "text"), ("body", "body")])
def test_a_folder_is_read_as_a_hub_dataset(column: str, suffix: str, datasets_cache: None, tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder, ".jsonl", column).rename(folder / "validation.jsonl")
    assert read_text(f"hf:{folder}::validation:{suffix}", "evaluation") == JOINED


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("::train:body", "has no column 'body'; choose one of number, text"),
        ("::test:text", r"can't be loaded as a dataset \(.*test.*\); check name, config and split"),
        (":other:train:text", r"can't be loaded as a dataset \(.*other.*\); check name, config and split"),
        (":train:text", "has 3 parts after hf; give stdlib"),
    ],
)
def test_a_dataset_that_has_no_such_part_is_refused(ending: str, message: str, datasets_cache: None, tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder, ".jsonl")
    with pytest.raises(CorpusError, match=message):
        read_text(f"hf:{folder}{ending}", "calibration")


def test_texts_are_tokenised_by_the_models_tokenizer_with_nothing_added(tmp_path: Path):
    make_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    begins = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    tokenizer.backend_tokenizer.post_processor = begins
    tokenizer.save_pretrained(tmp_path)
    ids = tokenize(tmp_path, text(20))
    assert tokenizer(text(20))["input_ids"] == [0, *ids.tolist()]
    assert ids.dtype == torch.int32 and tokenizer.decode(ids) == text(20)


@given(st.data())
def test_windows_are_drawn_without_overlap_in_the_order_of_the_text(data: st.DataObject):
    samples, length, spare = (data.draw(st.integers(*limits)) for limits in ((1, 12), (1, 9), (0, 40)))
    windows = sample_windows(torch.arange(samples * length + spare), samples, length, data.draw(st.integers(0, 99)))
    assert windows.shape == (samples, length)
    assert (windows.diff(dim=1) == 1).all()
    assert (windows[1:, 0] > windows[:-1, -1]).all()


def test_windows_depend_on_the_seed_and_spread_over_the_text():
    tokens = torch.arange(1000)
    draws = [sample_windows(tokens, 5, 10, seed) for seed in range(30)]
    assert draws[3].equal(sample_windows(tokens, 5, 10, 3))
    assert len({tuple(draw[:, 0].tolist()) for draw in draws}) > 25
    starts = torch.cat([draw[:, 0] for draw in draws])
    assert starts.min() < 100 and starts.max() >= 900


def test_a_text_too_short_for_the_windows_is_refused():
    assert sample_windows(torch.arange(40), 4, 10, 0).equal(torch.arange(40).view(4, 10))
    with pytest.raises(
        CorpusError, match=r"has 39 tokens, too short for 4 windows of 10; give a longer text, or fewer --"
    ):
        sample_windows(torch.arange(39), 4, 10, 0)


def test_the_digest_is_of_shape_and_ids():
    tokens = torch.arange(12, dtype=torch.int32)
    found = digest(tokens.view(3, 4))
    assert found == digest(tokens.view(3, 4).long())
    assert found != digest(tokens.view(4, 3)) and found != digest(tokens) and found != digest(tokens.view(3, 4) + 1)
    assert found == hashlib.sha256(b"(3, 4)" + np.arange(12, dtype="<i4").tobytes()).hexdigest()
