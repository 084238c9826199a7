"""Settings, texts and folders that can't serve: a line that names what is wrong with them, before any work."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.main import get_command

from artifacts.marker import MARKER
from flows import cli

pytest_plugins = ["tests.refusals"]

Refused = Callable[..., str]
FORMS, COLUMN = "give stdlib, a .txt, .jsonl or .parquet path", "as path:column"
SHARE, DEVICES = "give the share of channels to drop", "give auto, cpu, cuda or cuda:N"

OPTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "sparsity 0": ({"sparsity": "0"}, "sparsity: 0.0 is outside (0, 1)", SHARE),
    "sparsity 1": ({"sparsity": "1"}, "sparsity: 1.0 is outside (0, 1)", SHARE),
    "negative sparsity": ({"sparsity": "-0.1"}, "sparsity: -0.1 is outside (0, 1)", SHARE),
    "sparsity 1.5": ({"sparsity": "1.5"}, "sparsity: 1.5 is outside (0, 1)", SHARE),
    "sparsity nan": ({"sparsity": "nan"}, "sparsity: nan is outside (0, 1)", SHARE),
    "nothing kept": ({"sparsity": 0.9}, "sparsity 0.9 of d_state 32 rounds to 0", "lower --sparsity or --round-to"),
    "all kept": ({"sparsity": 0.1}, "sparsity 0.1 of d_state 32 rounds to all 32", "raise --sparsity or lower"),
    "small d_state": ({"round_to": 64}, "d_state is 32, less than --round-to 64", "give --round-to 16 or less"),
    "rounding to 0": ({"round_to": 0}, "round_to:", "greater than or equal to 1 (got 0)"),
    "unknown method": (
        {"method": "best"},
        "method 'best' is unknown",
        "choose one of ghost, ghost-mean, ghost-joint",
    ),
    "device that is not there": ({"device": "cuda:99"}, "device cuda:99 asked for", "try --device cpu"),
    "device out of all bounds": ({"device": "cuda:999"}, "device: 'cuda:999' is not a device", DEVICES),
    "another kind of device": ({"device": "tpu"}, "device: 'tpu' is not a device", DEVICES),
    "no samples": ({"samples": 0}, "samples:", "greater than or equal to 1 (got 0)"),
    "seed of 70 bits": ({"seed": 2**70}, "seed:", "less than 4294967296"),
    "too many samples": ({"samples": 9999}, "too short for 9999 windows of 16", "a longer text, or fewer --samples"),
    "too long samples": ({"length": 9999}, "too short for 4 windows of 9999", "a longer text, or fewer --samples"),
    "too long window": ({"window": 99999}, "--window 99999 is longer than the evaluation text", "or a longer text"),
    "tokenizer that is not there": ({"tokenizer": "/none"}, "could be loaded from /none", "give one with --tokenizer"),
    "hub without a split": ({"calibration": "hf:wikitext:train"}, "hf:wikitext:train has 2 parts", FORMS),
    "hub name that is not there": ({"evaluation": "hf:no/no::test:text"}, "hf:no/no::test:text can't", "check name"),
}


@pytest.mark.parametrize(("options", "thing", "remedy"), OPTIONS.values(), ids=OPTIONS)
def test_an_impossible_setting_is_refused(options: dict[str, Any], thing: str, remedy: str, refused: Refused) -> None:
    line = refused(**options)
    assert thing in line and remedy in line


@pytest.mark.parametrize("device", ["gpu", "mps", "GPU", "cuda:x", "cuda:-1", " "])
def test_a_device_of_the_environment_is_refused_in_the_words_of_the_option(
    device: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GHOST_DEVICE", device)
    assert refused().endswith(f"GHOST_DEVICE: {device!r} is not a device; {DEVICES}")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [("sparsity", "abc", "a valid number"), ("samples", "1.5", "a valid integer"),
     ("policy", "fair", "is not one of 'balanced', 'pooled'"), ("dtype", "int8", "'auto', 'float32', 'bfloat16'")],
)  # fmt: skip
def test_what_the_parser_refuses_is_refused_by_option_and_with_the_same_exit_code(
    name: str, value: str, remedy: str, arguments: Any, execute: Any, tmp_path: Path
) -> None:
    code, out, err = execute(arguments(tmp_path, **{name: value}))
    box = " ".join(err.replace("│", "").split())
    assert code == 2 and not out and "Traceback" not in err
    assert f"Invalid value for '--{name}'" in box and remedy in box
    assert not list(tmp_path.iterdir())


def parquet(**columns: list[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


CORPORA: dict[str, tuple[str, bytes | None, str, str]] = {
    "missing": ("no.txt", None, "no.txt: no such file", FORMS),
    "of no known kind": ("a.pdf", b"text", "a .pdf file is not a text", FORMS),
    "empty": ("a.txt", b"", "a.txt is empty", "give a text with some content"),
    "blank": ("a.txt", b" \n\t\n", "a.txt is empty", "give a text with some content"),
    "binary": ("a.txt", b"GIF89a\0\1" * 50, "a.txt is binary", FORMS),
    "of another encoding": ("a.txt", "café".encode("latin-1"), "a.txt is not UTF-8 text (byte 3)", "convert it"),
    "too short": ("a.txt", b"two words", "the calibration text has", "a longer text, or fewer --samples"),
    "not JSON": ("a.jsonl", b'{"text": "a"}\n\n{oops\n', "a.jsonl, line 3 is not JSON", "one JSON object per line"),
    "not objects": ("a.jsonl", b"[1]\n", "a.jsonl, line 1 is not a JSON object", "one JSON object per line"),
    "half a character": ("a.jsonl", b'{"text": "a\\ud800b"}', "a.jsonl is not valid Unicode", "mend that character"),
    "without the usual column": ("a.jsonl", b'{"body": "a"}', "has no column 'text'", "choose one of body " + COLUMN),
    "without a column": ("a.jsonl:b", b'{"text": "a", "id": 1}', "no column 'b'", "choose one of text, id " + COLUMN),
    "of numbers": ("a.jsonl:id", b'{"id": 1}', "a.jsonl:id has a row of type int", "name a column of text " + COLUMN),
    "not Parquet": ("a.parquet", b"PAR1", "a.parquet is not a readable Parquet file", "write it again"),
    "Parquet without a column": ("a.parquet:b", parquet(text=["a"]), "no column 'b'", "choose one of text " + COLUMN),
    "Parquet of numbers": ("a.parquet:id", parquet(id=[1]), "has a row of type int", "name a column of text " + COLUMN),
}


@pytest.mark.parametrize(("name", "data", "thing", "remedy"), CORPORA.values(), ids=CORPORA)
def test_a_text_that_is_none_is_refused(
    name: str, data: bytes | None, thing: str, remedy: str, tmp_path: Path, refused: Refused
) -> None:
    if data is not None:
        (tmp_path / name.partition(":")[0]).write_bytes(data)
    line = refused(calibration=tmp_path / name)
    assert thing in line and remedy in line


def occupied(store: Path) -> Path:
    (store / "holiday").mkdir(parents=True)
    return store


def a_file(store: Path) -> Path:
    store.write_text("")
    return store


def of_another_format(store: Path) -> Path:
    store.mkdir()
    (store / MARKER).write_text(json.dumps({"format": 7, "what": "ghost artifact store"}))
    return store


@pytest.mark.parametrize(
    ("place", "thing", "remedy"),
    [(occupied, "there holds something else", "choose an empty folder with --store"),
     (a_file, "there is a file", "choose a folder with --store"),
     (lambda store: a_file(store) / "below", "there/below: cannot open it", "choose another --store"),
     (of_another_format, "there has format version 7, this version of ghost knows 4", "choose another --store"),
     (lambda store: "gs://bucket/runs", "gs://bucket/runs is not supported", "s3://bucket/prefix with --store")],
)  # fmt: skip
def test_a_folder_that_is_no_store_is_refused(
    place: Callable[[Path], object], thing: str, remedy: str, tmp_path: Path, refused: Refused
) -> None:
    line = refused(store=place(tmp_path / "there"))
    assert thing in line and remedy in line


@pytest.mark.parametrize("place", [occupied, a_file])
def test_out_is_not_written_over_something_else(
    place: Callable[[Path], Path], tmp_path: Path, refused: Refused
) -> None:
    out = place(tmp_path / "there")
    before = sorted(out.rglob("*"))
    line = refused(out=out)
    assert f"out: {out} holds something else already; choose a new folder with --out" in line
    assert sorted(tmp_path.glob("there/**/*")) == before


def test_paths_of_the_command_line_may_begin_with_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    commands: dict[str, Any] = getattr(get_command(cli.app), "commands")  # noqa: B009
    seen = {
        (name, option.name): option.callback(None, option, Path("~/a"))
        for name, command in commands.items()
        for option in command.params
        if option.type_descriptor.annotation is Path
    }
    out = {(name, "out") for name in ("bench", "compare", "convert", "eval", "gguf")}
    assert seen == dict.fromkeys(out | {("gguf", "converter")}, tmp_path / "a")


def test_a_home_folder_that_is_not_known_is_told(command: Refused) -> None:
    line = command("show", "abc", "--store=~nobody-of-this-name/store")
    assert "no home folder is known for it (neither HOME nor a passwd entry); give the path in full" in line


def test_a_path_that_no_disk_takes_is_refused(refused: Refused) -> None:
    assert "File name too long" in (line := refused("x" * 300)) and "give another one" in line


def test_an_unknown_run_cannot_be_shown(command: Refused, tmp_path: Path) -> None:
    line = command("show", "abc", "--store", tmp_path / "store")
    assert f"there is no store at {tmp_path / 'store'}; give the one of your runs with --store" in line
    assert not (tmp_path / "store").exists()


def test_a_checkpoint_that_ghost_did_not_make_cannot_be_verified(
    command: Refused, originals: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(originals / "model", tmp_path / "model")
    line = command("verify", model, "--against", originals / "model", "--text", originals / "text.txt")
    assert f"{model / 'ghost.json'} is missing" in line and "give a checkpoint that ghost made" in line
