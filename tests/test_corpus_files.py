"""Files of texts as people have them: with a byte order mark, with gaps, half damaged, and longer than memory."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ghost
from ghost.calibration.corpus import PATIENCE, Corpus, read_text
from ghost.calibration.tokens import load_tokenizer, read_tokens
from ghost.errors import CorpusError
from ghost.evaluation.harness import parse_benchmarks
from ghost.evaluation.tasks.local_files import pages, passages
from tests.models import make_tokenizer, text

BOM = b"\xef\xbb\xbf"
COLUMN = "as path:column"


def read(path: Path | str) -> tuple[str, list[str]]:
    corpus = Corpus(str(path), "calibration")
    return "".join(corpus.parts()), corpus.warnings


def json_lines(*rows: Any) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, compression="none", use_dictionary=False)
    return path


def with_bom(path: Path) -> Path:
    match path.suffix:
        case ".txt":
            path.write_bytes(BOM + b"one\n\ntwo")
        case ".jsonl":
            path.write_bytes(BOM + json_lines({"text": "one"}, {"text": "\ufefftwo"}))
        case _:
            parquet(path, text=["\ufeffone", "two"])
    return path


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_a_byte_order_mark_is_no_part_of_the_text(suffix: str, tmp_path: Path) -> None:
    assert read(with_bom(tmp_path / f"a{suffix}")) == ("one\n\ntwo", [])


def test_lm_evals_local_files_are_read_as_all_others(tmp_path: Path) -> None:
    (tmp_path / "wiki.test").write_bytes(BOM + b" = One = \n a\n = Two = \n b\n")
    (tmp_path / "lambada").write_bytes(BOM + json_lines({"text": "a b"}, {"text": "c \u2028 d"}))
    assert pages({"local_wikitext": str(tmp_path / "wiki.test")})["test"]["page"][0].startswith(" = One")
    found = passages({"local_lambada": str(tmp_path / "lambada")})["test"]["text"]
    assert list(found) == ["a b", "c \u2028 d"]


def test_a_character_across_two_blocks_is_read_and_a_bad_byte_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ghost.calibration.files.BLOCK", 4)
    path, content = tmp_path / "a.txt", "abc漢字🎉 é\r\n" * 3
    path.write_bytes(content.encode())
    assert read(path)[0] == content
    path.write_bytes(content.encode() + b"\xff more")
    with pytest.raises(CorpusError, match=rf"not UTF-8 text \(byte {len(content.encode())}\); convert it first"):
        read(path)
    path.write_bytes("abc漢".encode()[:-1])
    with pytest.raises(CorpusError, match=r"not UTF-8 text \(byte 3\); convert it first"):
        read(path)


GAPS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "jsonl": (
        lambda folder: written(
            folder / "a.jsonl",
            b'{"text": "one"}\n\n{"text": null}\n{"body": "x"}\n{"text": "two"}\n' + b'{"text": null}\n' * 6,
        ),
        "8 rows have no text (null, or without the column) and went unread: line 3, 4, 6, 7, 8, ...",
    ),
    "parquet": (
        lambda folder: parquet(folder / "a.parquet", text=["one", None, "two"]),
        "1 row has no text (null, or without the column) and went unread: row 2",
    ),
}


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", GAPS)
def test_rows_without_text_are_left_out_counted_and_told(kind: str, tmp_path: Path) -> None:
    make, told = GAPS[kind]
    path = make(tmp_path)
    assert read(path) == ("one\n\ntwo", [told])
    make_tokenizer(tmp_path)
    assert read_tokens(load_tokenizer(tmp_path), str(path), "evaluation")[1] == [f"evaluation text: {told}"]


def bad_strings() -> pa.StringArray:
    """`a`, then two bytes that are no UTF-8."""
    offsets = pa.array([0, 1, 3], pa.int32()).buffers()[1]
    return pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"a\xff\xfe"))


NONE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "null in every line": (
        lambda folder: written(folder / "a.jsonl", json_lines({"text": None}, {"text": None})),
        "all of its 2 rows are null; name a column of text",
    ),
    "null in every row": (
        lambda folder: parquet(folder / "a.parquet", text=pa.array([None, None], pa.string())),
        "all of its 2 rows are null; name a column of text",
    ),
    "in no line": (
        lambda folder: written(folder / "a.jsonl", json_lines({"a": 1}, {"b": 2})),
        f"has no column 'text'; choose one of a, b {COLUMN}",
    ),
    "a number after texts": (
        lambda folder: written(folder / "a.jsonl", json_lines({"text": "a"}, {"text": 7})),
        "has a row of type int (line 2); name a column of text",
    ),
    "bad bytes in a line": (
        lambda folder: written(folder / "a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n'),
        "line 2 is not UTF-8 text (byte 10 of it); convert the file first",
    ),
    "bad bytes in a row": (
        lambda folder: parquet(folder / "a.parquet", text=bad_strings()),
        "row 2 is not UTF-8 text (byte 0 of it); write it again",
    ),
    "deep nesting": (
        lambda folder: written(folder / "a.jsonl", b"[" * 100_000),
        "line 1 is not JSON",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NONE)
def test_what_has_no_text_is_refused_with_its_place(kind: str, tmp_path: Path) -> None:
    make, message = NONE[kind]
    with pytest.raises(CorpusError) as refused:
        read(make(tmp_path))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_column_that_no_line_has_is_refused_before_the_file_is_read_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", b'{"body": "x"}\n' * PATIENCE + b"broken\n")
    with pytest.raises(CorpusError, match="has no column 'text'; choose one of body"):
        read(path)


def test_of_a_parquet_file_only_the_column_is_read(tmp_path: Path) -> None:
    """That another one is damaged is nobody's concern."""
    path = parquet(tmp_path / "a.parquet", other=["x" * 500] * 20, text=["one", "two"] * 10)
    data = bytearray(path.read_bytes())
    page = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    data[page : page + 20] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises((OSError, pa.ArrowException)):
        pq.read_table(path)
    assert read(path)[0] == "\n\n".join(["one", "two"] * 10)


def test_the_rest_of_a_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a calibration of few tokens has no use for may even be damaged."""
    make_tokenizer(tmp_path)
    monkeypatch.setattr("ghost.calibration.pieces.PIECE", 2000)
    good = json_lines(*({"text": line} for line in text(400).splitlines()))
    path = written(tmp_path / "a.jsonl", good + b"\nbroken\n")
    tokens, _ = read_tokens(load_tokenizer(tmp_path), str(path), "calibration", most=500)
    assert len(tokens) == 500
    with pytest.raises(CorpusError, match=r"line 401 is not JSON"):
        read_tokens(load_tokenizer(tmp_path), str(path), "calibration")


def test_one_very_long_line_is_read(tmp_path: Path) -> None:
    long = "word " * 600_000
    assert read(written(tmp_path / "a.jsonl", json_lines({"text": long})))[0] == long
    assert read(written(tmp_path / "a.txt", long.encode()))[0] == long


def test_a_home_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "a.txt", b"one")
    written(tmp_path / "a.jsonl", json_lines({"body": "two"}))
    assert (read_text("~/a.txt", "calibration"), read_text("~/a.jsonl:body", "evaluation")) == ("one", "two")
    assert parse_benchmarks("local_wikitext:~/a.txt", allow_code=False).files == {
        "local_wikitext": str(tmp_path / "a.txt")
    }


@pytest.mark.parametrize(
    "given", ["word " * 10_000, "a text\nof two lines", "nul \0 byte", "x" * 300 + ".txt", "short text"]
)
def test_one_string_is_a_name_and_a_text_in_its_place_is_refused_in_one_short_line(given: str) -> None:
    for use in (lambda: ghost.prune("demo", calibration=given), lambda: ghost.perplexity("demo", given)):
        with pytest.raises(CorpusError, match=r"no such file, which one string .* or a list of texts") as refused:
            use()
        assert len(str(refused.value)) < 500 and str(refused.value).isprintable()
    with pytest.raises(CorpusError, match="no such file; give stdlib"):
        read_text(given, "calibration")


@pytest.mark.parametrize(
    ("split", "expected"), [("train", 10), ("train[:3]", 3), ("train[20%:60%]", 4), ("train[:2]+train[8:]", 4)]
)
def test_a_slice_of_a_dataset_goes_to_datasets_as_it_is(
    split: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    written(tmp_path / "data" / "train.jsonl", json_lines(*({"text": f"row {i}"} for i in range(10))))
    assert len(read_text(f"hf:{tmp_path / 'data'}::{split}:text", "calibration").split("\n\n")) == expected


def test_null_rows_of_a_dataset_are_told_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    written(tmp_path / "data" / "train.jsonl", json_lines({"text": "one"}, {"text": None}, {"text": "two"}))
    assert read(f"hf:{tmp_path / 'data'}::train:") == ("one\n\ntwo", [GAPS["parquet"][1]])


def test_a_text_that_is_left_in_the_middle_keeps_no_file_open(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", b"one " * 10)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    parts = Corpus(str(path), "calibration").parts()
    next(parts)
    del parts
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before
