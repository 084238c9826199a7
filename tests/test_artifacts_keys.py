"""Where things lie, and the bytes and digests that name them."""

from pathlib import Path

import pytest

from artifacts.digest import canonical_json, identity, parse_record, record_bytes, sha256_bytes, sha256_file
from artifacts.errors import StoreError
from artifacts.keys import PruningKeys, RunKeys

KEYS = RunKeys("0123456789abcdef")


def test_the_keys_of_a_run_are_the_documented_layout() -> None:
    within = [KEYS.run, KEYS.checkpoint, KEYS.evaluation, KEYS.benchmarks, KEYS.report, KEYS.manifest, KEYS.timings]
    within += [KEYS.stage("export"), KEYS.samples, KEYS.documents]
    assert [key.removeprefix("runs/0123456789abcdef/") for key in within] == [
        "run.json",
        "checkpoint",
        "evaluation/results.json",
        "evaluation/tasks.parquet",
        "report/index.html",
        "manifest.json",
        "timings.json",
        "stages/export.json",
        "evaluation/samples.parquet",
        "evaluation/documents.parquet",
    ]


def test_the_keys_of_a_pruning_are_the_documented_layout() -> None:
    keys = PruningKeys.of("0123456789abcdef")
    within = [keys.pruning, keys.tokens, keys.stats(7), keys.selection(7), keys.weights(7), keys.layer(7), keys.timings]
    within += [keys.layer_folder(123)]
    assert keys.prune_id == "0123456789abcdef"
    assert [key.removeprefix("prunings/0123456789abcdef/") for key in within] == [
        "pruning.json",
        "calibration/tokens.parquet",
        "layers/007/stats.parquet",
        "layers/007/selection.parquet",
        "layers/007/weights.safetensors",
        "layers/007/layer.json",
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
    first = identity({"checkpoint": "c", "settings": {"sparsity": 0.5, "seed": 0}})
    assert first == identity({"settings": {"seed": 0, "sparsity": 0.5}, "checkpoint": "c"})
    assert first != identity({"checkpoint": "c", "settings": {"sparsity": 0.5, "seed": 1}})
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
