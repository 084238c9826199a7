"""Discovery of checkpoints in a local folder, on S3 over real HTTP, and on a stub of the hub's own routes."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ArtifactError
from ghost.checkpoint.source import open_checkpoint
from tasks.watch.discover import Found, discover
from tests.hybrids import make_hybrid
from tests.models import make_model, make_native
from tests.s3 import make_bucket, raw_client, s3_endpoint, s3_environment

BUCKET = "models"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`single` (one file), `sharded`, `native` (.bin, no tokenizer) and `native-safe` (safetensors, no tokenizer)."""
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "single", layers=1)
    make_model(folder / "sharded", layers=2, seed=1, max_shard_size="30KB")
    make_native(folder / "native", folder / "single")
    make_native(folder / "native-safe", folder / "single", as_bin=False)
    return folder


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_endpoint() as url:
        make_bucket(url, BUCKET)
        yield url


class Source:
    """A source on disk or on S3, and how to put files into it."""

    def __init__(self, address: str, put: Callable[[str, bytes], Any]) -> None:
        self.address, self.put = address, put

    def upload(self, folder: Path, path: str, *, but: str = "") -> None:
        for file in sorted(folder.iterdir()):
            if file.name != but:
                self.put(f"{path}/{file.name}".lstrip("/"), file.read_bytes())

    def look(self, settle: float = 0.0, *, avoid: str = "/elsewhere", own_tokenizer: bool = True) -> dict[str, Found]:
        found = discover(self.address, settle, avoid=avoid, own_tokenizer=own_tokenizer)
        return {checkpoint.path: checkpoint for checkpoint in found}


@pytest.fixture(params=["local", "s3"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    if request.param == "local":
        (tmp_path / "new").mkdir()
        return Source(str(tmp_path / "new"), lambda name, data: _write(tmp_path / "new" / name, data))
    endpoint = request.getfixturevalue("endpoint")
    for name, value in s3_environment(endpoint).items():
        monkeypatch.setenv(name, value)
    client, prefix = raw_client(endpoint), f"{tmp_path.name}/new"
    return Source(
        f"s3://{BUCKET}/{prefix}",
        lambda name, data: client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=data),
    )


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_whole_models_of_both_formats_are_found_wherever_they_lie(source: Source, models: Path) -> None:
    source.upload(models / "single", "single")
    source.upload(models / "sharded", "team/model-a/step-1000")
    source.upload(models / "native", "native")
    source.upload(models / "native-safe", "native-safe")
    found = source.look(own_tokenizer=False)
    assert sorted(found) == ["native", "native-safe", "single", "team/model-a/step-1000"]
    assert {checkpoint.problem for checkpoint in found.values()} == {""}
    assert len({checkpoint.fingerprint for checkpoint in found.values()}) == 4
    assert all(checkpoint.model == f"{source.address}/{path}" for path, checkpoint in found.items())


def test_what_a_look_takes_is_what_a_run_opens(models: Path) -> None:
    found = discover(str(models), 0.0, avoid="/elsewhere", own_tokenizer=False)
    assert [open_checkpoint(checkpoint.model).layers for checkpoint in found] == [1, 1, 2, 1]


HYBRIDS = ("zamba2", "bamba", "falcon_h1", "granitemoehybrid", "nemotron_h")


@pytest.fixture(scope="module")
def hybrids(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each family, and a native Mamba2."""
    folder = tmp_path_factory.mktemp("hybrids")
    shutil.copytree(models / "native", folder / "native")
    for variant in HYBRIDS:
        make_hybrid(folder / variant, variant, max_shard_size="30KB")
    return folder


def test_every_family_is_found_and_can_be_opened(hybrids: Path) -> None:
    found = discover(str(hybrids), 0.0, avoid="/elsewhere", own_tokenizer=False)
    assert {checkpoint.path: checkpoint.problem for checkpoint in found} == dict.fromkeys(("native", *HYBRIDS), "")
    assert len({checkpoint.fingerprint for checkpoint in found}) == len(found)
    families = {checkpoint.path: open_checkpoint(checkpoint.model).config.model_type for checkpoint in found}
    assert families == {"native": "mamba2"} | {name: name for name in HYBRIDS}


def test_of_the_families_that_a_recipe_lists_alone(hybrids: Path) -> None:
    families = ("mamba2", "bamba")
    found = discover(str(hybrids), 0.0, avoid="/elsewhere", own_tokenizer=False, families=families)
    taken = {checkpoint.path for checkpoint in found if checkpoint.fingerprint}
    assert taken == {"native", "bamba"}
    left = {checkpoint.path: checkpoint.problem for checkpoint in found if checkpoint.problem}
    assert left == {name: f"of the family {name}; the recipe takes mamba2, bamba" for name in {*HYBRIDS} - {"bamba"}}


def test_a_projected_model_without_the_mark_of_ghost_is_left_too(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "single", tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    projected = config | {"model_type": "ghost_mamba2", "projected_from": config["state_size"]}
    (tmp_path / "model/config.json").write_text(json.dumps(projected))
    (found,) = discover(str(tmp_path), 0.0, avoid="/elsewhere", own_tokenizer=True)
    assert found.problem.startswith("of the family ghost_mamba2; the recipe takes mamba2, zamba2, ")


def test_a_checkpoint_can_be_the_source_itself(source: Source, models: Path) -> None:
    source.upload(models / "single", "")
    assert source.look()[""].model == source.address


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "llama"}, "model_type 'llama' has attention and no recurrent state"),
        ({"model_type": "mamba"}, "model_type 'mamba' has Mamba1 mixers"),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "*-*E"}, "none of these 4 layers does: 2 attention"),
        ({"model_type": "bamba", "mamba_expand": "two"}, "config.json is not a valid bamba config ("),
        ({"model_type": "nemotron_h", "mamba_hidden_act": "relu2"}, "mamba_hidden_act is 'relu2'"),
        ({"model_type": ["mamba2"]}, "model_type ['mamba2'] is no name of a model"),
        ({"d_model": 8, "n_layer": 1, "vocab_size": 8, "ssm_cfg": {}}, "ssm_cfg.layer is 'Mamba1'"),
        ({"d_model": 8, "n_layer": 1, "ssm_cfg": {"layer": "Mamba2"}}, "is not a valid Mamba2 config (KeyError"),
        ({}, "model_type None is no name of a model"),
    ],
    ids=str,
)
def test_other_models_are_left_with_the_reason(tmp_path: Path, models: Path, config: dict, reason: str) -> None:
    shutil.copytree(models / "single", tmp_path / "good")
    shutil.copytree(models / "single", tmp_path / "other")
    (tmp_path / "other/config.json").write_text(json.dumps(config))
    other, good = reversed(discover(str(tmp_path), 0.0, avoid="/elsewhere", own_tokenizer=True))
    assert reason in other.problem and not other.fingerprint
    assert good.fingerprint


@pytest.mark.parametrize("config", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * (5 << 20)], ids=len)
def test_an_unreadable_config_is_the_problem_of_its_folder_alone(tmp_path: Path, models: Path, config: bytes) -> None:
    shutil.copytree(models / "single", tmp_path / "good")
    _write(tmp_path / "bad/config.json", config)
    bad, good = discover(str(tmp_path), 0.0, avoid="/elsewhere", own_tokenizer=True)
    assert "config.json" in bad.problem
    assert good.fingerprint


def test_a_half_uploaded_checkpoint_is_incomplete_until_the_last_shard(source: Source, models: Path) -> None:
    shards = sorted(path.name for path in (models / "sharded").glob("*.safetensors"))
    source.upload(models / "sharded", "model", but=shards[-1])
    assert source.look()["model"].problem == f"incomplete: 1 of {len(shards)} shards missing, such as {shards[-1]}"
    whole = (models / "sharded" / shards[-1]).read_bytes()
    source.put(f"model/{shards[-1]}.part", whole)
    assert source.look()["model"].problem.startswith("incomplete")
    for data in (b"", whole[:7], whole[:100], whole[:-1], whole + b"0"):
        source.put(f"model/{shards[-1]}", data)
        problem = f"incomplete: {shards[-1]} has {len(data):,} bytes, not as many as it says"
        assert source.look()["model"].problem == problem
    source.put(f"model/{shards[-1]}", whole)
    assert source.look()["model"].fingerprint


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_single_file_counts_once_it_is_whole(source: Source, models: Path, name: str) -> None:
    folder = models / ("native-safe" if name == "model.safetensors" else "native")
    source.upload(folder, "model", but=name)
    assert "neither model.safetensors (or its index) nor pytorch_model.bin" in (
        source.look(own_tokenizer=False)["model"].problem
    )
    whole = (folder / name).read_bytes()
    source.put(f"model/{name}", whole[:-100])
    assert f"incomplete: {name} has" in source.look(own_tokenizer=False)["model"].problem
    source.put(f"model/{name}", whole)
    assert source.look(own_tokenizer=False)["model"].fingerprint


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ((1 << 62).to_bytes(8, "little"), "model.safetensors claims a header of 4,611,686,018,427,387,904 bytes"),
        ((2).to_bytes(8, "little") + b"[]", "model.safetensors has no readable header"),
        ((12).to_bytes(8, "little") + b'{"a": "b"}  ', "model.safetensors has no readable header"),
        ((28).to_bytes(8, "little") + b'{"a":{"data_offsets":["x"]}}', "model.safetensors has no readable header"),
        ((32).to_bytes(8, "little") + b'{"a":{"data_offsets":[0,1e999]}}', "model.safetensors has no readable header"),
    ],
    ids=["huge", "list", "string", "short", "infinite"],
)
def test_no_size_that_a_header_claims_is_believed(source: Source, models: Path, header: bytes, reason: str) -> None:
    source.upload(models / "single", "model")
    source.put("model/model.safetensors", header)
    assert reason in source.look()["model"].problem


@pytest.mark.parametrize("shard", ["../single/model.safetensors", "/etc/passwd", "a\\b", 5])
def test_an_index_names_only_files_beside_it(tmp_path: Path, models: Path, shard: object) -> None:
    shutil.copytree(models / "sharded", tmp_path / "model")
    (tmp_path / "model/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    (found,) = discover(str(tmp_path), 0.0, avoid="/elsewhere", own_tokenizer=True)
    assert found.problem == "model.safetensors.index.json lists no shards beside it; copy the file again"


def test_a_checkpoint_that_changes_between_the_looks_is_left_for_later(source: Source, models: Path) -> None:
    source.upload(models / "single", "model")
    source.upload(models / "sharded", "settled")
    config = (models / "single/config.json").read_bytes()
    writer = threading.Timer(0.5, lambda: source.put("model/config.json", config + b" "))
    writer.start()
    found = source.look(settle=1.5)
    writer.join()
    assert found["model"].problem == "is changing: its files were others at the look before"
    assert found["settled"].fingerprint
    assert source.look()["model"].fingerprint


def test_a_checkpoint_that_appears_between_the_looks_is_left_for_later(source: Source, models: Path) -> None:
    source.upload(models / "single", "model")
    writer = threading.Timer(0.3, lambda: source.upload(models / "sharded", "new"))
    writer.start()
    found = source.look(settle=1.5)
    writer.join()
    assert "is changing" in found["new"].problem
    assert found["model"].fingerprint


def test_unfinished_names_are_no_checkpoints(source: Source, models: Path) -> None:
    for path in ("model.part", "model.tmp", ".uploading/model", "copies/.model~tmp", "model.INCOMPLETE"):
        source.upload(models / "single", path)
    assert source.look() == {}


def test_what_ghost_made_is_never_compressed_again(source: Source, models: Path) -> None:
    for name in ("ghost.json", "ghost-manifest.json"):
        source.upload(models / "single", name.partition(".")[0])
        source.put(f"{name.partition('.')[0]}/{name}", b"{}")
    source.upload(models / "single", "pruned/half-written")
    source.upload(models / "single", "pruned-by-hand")
    found = source.look(avoid=f"{source.address}/pruned/")
    assert {path: checkpoint.problem for path, checkpoint in found.items()} == {
        "ghost": "made by ghost itself",
        "ghost-manifest": "made by ghost itself",
        "pruned-by-hand": "",
    }


def test_a_tokenizer_is_asked_for_unless_the_recipe_gives_one(source: Source, models: Path) -> None:
    source.upload(models / "native", "native")
    assert source.look()["native"].problem.startswith("has no tokenizer yet; add its files, or give settings.tokenizer")
    assert source.look(own_tokenizer=False)["native"].fingerprint


def test_the_fingerprint_is_of_all_that_is_read_or_published(source: Source, models: Path) -> None:
    source.upload(models / "sharded", "model")
    first = source.look()["model"].fingerprint
    source.put("model/README.md", b"a card")
    source.put("model/.cache/note", b"hidden")
    source.put("model/consolidated.safetensors", b"other weights")
    source.put("model/onnx/model.onnx", b"other weights")
    source.put("model/onnx/vocab.json", b"and what belongs to them")
    assert source.look()["model"].fingerprint == first
    seen = {first}
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        source.put(f"model/{name}", (models / "sharded" / name).read_bytes() + b" ")
        seen.add(source.look()["model"].fingerprint)
    for name in ("NOTICE", "additional_chat_templates/tool_use.jinja", "notes/of/training.txt"):
        source.put(f"model/{name}", b"a note")
        seen.add(source.look()["model"].fingerprint)
    assert len(seen) == 7


def test_a_local_fingerprint_is_of_contents_and_not_of_times(tmp_path: Path, models: Path) -> None:
    shutil.copytree(models / "single", tmp_path / "model")
    before = discover(str(tmp_path), 0.0, avoid="/elsewhere", own_tokenizer=True)
    os.utime(tmp_path / "model/model.safetensors", (0, time.time()))
    assert discover(str(tmp_path), 0.0, avoid="/elsewhere", own_tokenizer=True) == before


def test_a_source_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no folder"):
        discover(str(tmp_path / "none"), 0.0, avoid="/elsewhere", own_tokenizer=True)
