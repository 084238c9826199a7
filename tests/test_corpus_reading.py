"""Texts are read as far as they are needed, compressed or streamed, and no line of them fills the memory."""

import gzip
import json
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ghost.calibration import files
from ghost.calibration.corpus import Corpus
from ghost.calibration.tokens import load_tokenizer, read_tokens
from ghost.errors import CorpusError
from tests.models import make_tokenizer, text

ROWS = [f"{number} {line}" for number, line in enumerate(text(40).splitlines())]
LONG = 12 << 20
"""Bytes of a text of which little is needed."""


def json_lines(rows: list[str]) -> bytes:
    return "".join(json.dumps({"text": row}) + "\n" for row in rows).encode()


GOOD = gzip.compress(json_lines(ROWS), mtime=0)
DAMAGES = {"no gzip": b"no gzip", "its end is missing": GOOD[:-9], "a byte is another": GOOD[:40] + b"\0" + GOOD[41:]}


def read(spec: Path | str, *, whole: bool = True) -> str:
    return "".join(Corpus(str(spec), "calibration", whole=whole).parts())


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for a dataset; `datasets` keeps what it prepares beside it."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize("suffix", [".txt.gz", ".jsonl.gz", ".JSONL.GZ", ".jsonl", ".TXT"])
def test_a_file_may_be_compressed_and_its_ending_in_capitals(suffix: str, tmp_path: Path) -> None:
    plain = json_lines(ROWS) if "jsonl" in suffix.lower() else "\n\n".join(ROWS).encode()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(plain) if suffix.lower().endswith(".gz") else plain)
    assert read(path) == "\n\n".join(ROWS)


@pytest.mark.parametrize("suffix", [".txt.gz", ".jsonl.gz"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_compressed_file_is_refused_in_one_line(suffix: str, damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(damage)
    with pytest.raises(CorpusError, match=r"can't be read.*; mend the file or its permissions") as refused:
        read(path)
    assert "\n" not in str(refused.value)


def test_lines_may_end_as_on_windows_and_the_last_one_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(ROWS).replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    assert read(path) == "\n\n".join(ROWS)


def test_a_folder_is_named_as_one(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is a folder, not a file; give stdlib"):
        read(tmp_path)


def test_a_line_that_is_too_long_is_refused_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json_lines(["x" * 5000])
    monkeypatch.setattr(files, "LONGEST_LINE", len(line))
    path = tmp_path / "a.jsonl"
    path.write_bytes(line * 2)
    assert read(path) == "\n\n".join(["x" * 5000] * 2)
    path.write_bytes(line + json_lines(["x" * 5001]))
    with pytest.raises(CorpusError, match=r"line 2 is longer than 5,013 bytes; give one JSON object per line"):
        read(path)


def test_a_long_line_is_in_memory_about_twice(tmp_path: Path) -> None:
    size, path = 8 << 20, tmp_path / "a.jsonl"
    path.write_bytes(json_lines(["words " * (size // 6)]))
    tracemalloc.start()
    try:
        for _ in Corpus(str(path), "calibration").parts():
            pass
        assert tracemalloc.get_traced_memory()[1] < 2.5 * size
    finally:
        tracemalloc.stop()


def long_rows() -> list[str]:
    """Rows of LONG bytes in all, which no compression makes much smaller."""
    draws = random.Random(0)
    return [draws.randbytes(2000).hex() for _ in range(LONG // 4000)]


def in_parquet(path: Path, rows: list[str]) -> str:
    pq.write_table(pa.table({"text": rows}), path, compression="none", use_dictionary=False)
    return str(path)


def long_file(kind: str, folder: Path) -> str:
    rows, path = long_rows(), folder / f"train.{kind}"
    if kind.startswith("parquet"):
        in_parquet(path.with_suffix(".parquet"), rows)
        return f"hf:{folder}::train:" if kind == "parquet dataset" else str(path.with_suffix(".parquet"))
    plain = "\n".join(rows).encode() if "txt" in kind else json_lines(rows)
    path.write_bytes(gzip.compress(plain, 1) if kind.endswith("gz") else plain)
    return str(path)


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts the bytes that Linux says were read")
@pytest.mark.parametrize("kind", ["txt", "txt.gz", "jsonl", "jsonl.gz", "parquet", "parquet dataset"])
def test_of_a_long_file_the_beginning_is_read(kind: str, data: Path, tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    tokenizer, spec = load_tokenizer(tmp_path), long_file(kind, data)
    read_tokens(tokenizer, spec, "calibration", most=10)  # what is imported is read as well
    before = bytes_read()
    read_tokens(tokenizer, spec, "calibration", most=10)
    assert bytes_read() - before < LONG / 2


def datasets_of(kind: str, folder: Path) -> Iterator[Path]:
    """Two files of a split, of which the first one is a good one."""
    first, second = (folder / f"train-{number}.{kind}" for number in range(2))
    if kind == "parquet":
        in_parquet(first, ROWS)
    else:
        first.write_bytes(json_lines(ROWS))
    yield second
    second.write_bytes(first.read_bytes())


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_dataset_is_streamed_as_far_as_it_is_needed(kind: str, data: Path, tmp_path: Path) -> None:
    """Its second file may be damaged, where the first one is enough; nothing is downloaded, nothing kept."""
    make_tokenizer(tmp_path)
    tokenizer, spec = load_tokenizer(tmp_path), f"hf:{data}::train:"
    made = datasets_of(kind, data)
    next(made).write_bytes(b"damaged")
    tokens, _ = read_tokens(tokenizer, f"hf:{data}::train[:20]:", "calibration", most=200)
    assert len(tokens) == 200 and not list(tmp_path.rglob("*.arrow"))
    with pytest.raises(CorpusError) as refused:
        read(spec, whole=False)
    assert "\n" not in str(refused.value)
    assert list(made) == [] and read(spec, whole=False) == read(spec) == "\n\n".join(ROWS * 2)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("split", ["train[:7]", "train[35:45]", "train[70:]", "train[:]", "train[:10%]", "train+train"])
def test_a_slice_is_the_same_streamed_and_prepared(kind: str, split: str, data: Path) -> None:
    list(datasets_of(kind, data))
    assert read(f"hf:{data}::{split}:", whole=False) == read(f"hf:{data}::{split}:")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("train:body", "has no column 'body'; choose one of text"),
        ("other:text", "can't be loaded as a dataset .*other"),
    ],
)
def test_what_a_stream_lacks_is_named(kind: str, ending: str, message: str, data: Path) -> None:
    list(datasets_of(kind, data))
    with pytest.raises(CorpusError, match=message):
        read(f"hf:{data}::{ending}", whole=False)


def test_rows_of_a_stream_that_are_no_text_are_counted_from_its_start(data: Path) -> None:
    lines: list[Any] = [{"text": "one"}, {"text": None}, {"text": "two"}]
    (data / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    corpus = Corpus(f"hf:{data}::train[1:]:", "calibration", whole=False)
    assert "".join(corpus.parts()) == "two" and corpus.warnings[0].endswith("row 2")
