"""Where things lie, and the bytes and digests that name them."""

from pathlib import Path

import pytest

from artifacts.digest import canonical_json, parse_record, record_bytes, run_id, sha256_bytes, sha256_file
from artifacts.errors import StoreError
from artifacts.keys import RunKeys

KEYS = RunKeys("0123456789abcdef")


def test_the_keys_of_a_run_are_the_documented_layout() -> None:
    within = [KEYS.run, KEYS.tokens, KEYS.stats(7), KEYS.selection(7), KEYS.weights(7), KEYS.layer(7), KEYS.checkpoint]
    within += [KEYS.evaluation, KEYS.report, KEYS.manifest, KEYS.timings, KEYS.layer_folder(123)]
    assert [key.removeprefix("runs/0123456789abcdef/") for key in within] == [
        "run.json",
        "calibration/tokens.parquet",
        "layers/007/stats.parquet",
        "layers/007/selection.parquet",
        "layers/007/weights.safetensors",
        "layers/007/layer.json",
        "checkpoint",
        "evaluation/results.json",
        "report/index.html",
        "manifest.json",
        "timings.json",
        "layers/123",
    ]


@pytest.mark.parametrize("name", ["", "..", "a/b", "/a", "a\\b"])
def test_a_run_id_is_one_segment(name: str) -> None:
    with pytest.raises(StoreError, match="is refused"):
        RunKeys(name)


def test_canonical_json_is_one_spelling() -> None:
    assert canonical_json({"b": [1, 0.5, None], "a": "ü"}) == '{"a":"ü","b":[1,0.5,null]}'.encode()
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json({"a": float("nan")})


def test_a_run_id_depends_on_every_determinant_and_not_on_their_order() -> None:
    first = run_id({"checkpoint": "c", "settings": {"sparsity": 0.5, "seed": 0}})
    assert first == run_id({"settings": {"seed": 0, "sparsity": 0.5}, "checkpoint": "c"})
    assert first != run_id({"checkpoint": "c", "settings": {"sparsity": 0.5, "seed": 1}})
    assert (len(first), set(first) <= set("0123456789abcdef")) == (16, True)


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 5000)
    assert sha256_file(file) == sha256_bytes(file.read_bytes())


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"a": 1}\n', b"[1]\n", b'{"a":NaN}\n', b'{"a":"\\ud800"}\n', b"[" * 10**5]
)
def test_only_the_bytes_of_a_record_parse_as_one(data: bytes) -> None:
    assert parse_record(data) is None
    assert parse_record(record_bytes({"a": 1})) == {"a": 1}
