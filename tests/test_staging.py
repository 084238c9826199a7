"""Models, tokenizers and texts on S3, brought to a local path: what is wanted and nothing else."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifacts.errors import StoreError
from ghost.calibration.corpus import read_text
from ghost.checkpoint.source import open_checkpoint
from ghost.errors import CheckpointError, CorpusError
from tasks.run.open import display_name
from tasks.staging import local
from tests.models import make_model, make_native
from tests.s3 import make_bucket, raw_client, s3_endpoint, s3_environment

BESIDE = {"consolidated.safetensors", "pytorch_model.bin", "modeling.py", "README.md", "original/config.json",
          "original/tokenizer.model", ".cache/download"}  # fmt: skip
TRAVELLING = {"NOTICE", "tekken.json", "additional_chat_templates/tool_use.jinja", "assets/figures/loss.png"}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_endpoint() as url, pytest.MonkeyPatch.context() as patch:
        cache = {"GHOST_CACHE": str(tmp_path_factory.mktemp("cache"))}
        for name, value in (s3_environment(url) | cache).items():
            patch.setenv(name, value)
        make_bucket(url, "inbox")
        yield url


def put(endpoint: str, name: str, data: bytes) -> str:
    raw_client(endpoint).put_object(Bucket="inbox", Key=name, Body=data)
    return f"s3://inbox/{name}"


def upload(endpoint: str, folder: Path) -> str:
    for path in (path for path in folder.rglob("*") if path.is_file()):
        put(endpoint, f"{folder.name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return f"s3://inbox/{folder.name}"


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("max_shard_size", ["5GB", "30KB"])
def test_a_model_comes_without_what_lies_beside_it(endpoint: str, tmp_path: Path, max_shard_size: str) -> None:
    model = make_model(tmp_path / f"model-{max_shard_size}", max_shard_size=max_shard_size)
    for name in TRAVELLING:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(f"content of {name}")
    url = upload(endpoint, model)
    for name in BESIDE:
        put(endpoint, f"{model.name}/{name}", b"not to be downloaded")
    copy = Path(local(url, "model"))
    assert names(copy) == names(model) >= TRAVELLING
    assert open_checkpoint(copy).digest == open_checkpoint(model).digest
    assert max_shard_size == "5GB" or len(open_checkpoint(copy).tensors.files) > 1


def test_a_native_model_and_a_tokenizer_folder(endpoint: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "tokenizer")
    native = make_native(tmp_path / "native", model)
    assert open_checkpoint(local(upload(endpoint, native), "model")).digest == open_checkpoint(native).digest
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates/tool_use.jinja").write_text("tools")
    (model / "NOTICE").write_text("notice")
    found = names(Path(local(upload(endpoint, model), "tokenizer")))
    assert found == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "additional_chat_templates/tool_use.jinja",
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [("texts/a.txt", "plain"), ("texts/b.jsonl:words", "rows"), ("texts/c:d.txt", "a colon"), ("e.txt", "at the top")],
)
def test_a_text_with_or_without_a_column(endpoint: str, name: str, text: str) -> None:
    rows = json.dumps({"words": text}).encode()
    put(endpoint, name.removesuffix(":words"), rows if ".jsonl" in name else text.encode())
    assert read_text(local(f"s3://inbox/{name}", "text"), "evaluation") == text


def test_what_is_local_stays_as_it_is() -> None:
    for spec in ("demo", "stdlib", "/some/folder", "hf:name::train:text", "owner/name"):
        assert local(spec, "model") == local(spec, "text") == spec


@pytest.mark.parametrize(
    "spec", ["s3://inbox/none.txt", "s3://inbox/none.jsonl:column", "s3://inbox", "s3://inbox/", "s3://inbox/:x"]
)
def test_a_text_that_is_not_there_is_named(endpoint: str, spec: str) -> None:
    with pytest.raises(CorpusError, match=f"corpus {spec}: there is no such object; give s3://bucket/path/text.txt"):
        local(spec, "text")


def test_a_folder_that_is_no_model_is_named(endpoint: str) -> None:
    put(endpoint, "notes/read.me", b"hello")
    with pytest.raises(CheckpointError, match=r"model s3://inbox/notes: no config\.json, so it is no model folder"):
        local("s3://inbox/notes/", "model")
    with pytest.raises(CheckpointError, match="tokenizer s3://inbox/notes: there are no tokenizer files"):
        local("s3://inbox/notes", "tokenizer")
    with pytest.raises(StoreError, match="bucket absent: there is no such bucket"):
        local("s3://absent/model", "model")


@pytest.mark.parametrize("spec", ["s3://key:secret@inbox/model", "s3://inbox/../model", "s3://", "s3:///model"])
def test_an_address_that_is_none_is_refused_without_its_secrets(endpoint: str, spec: str) -> None:
    for refused in (lambda: local(spec, "model"), lambda: local(f"{spec}/a.txt", "text")):
        with pytest.raises(StoreError) as raised:
            refused()
        assert "secret" not in str(raised.value)


def test_a_name_is_that_of_the_same_path_here() -> None:
    for name in ("model", "text.txt", "rows.jsonl:words"):
        assert display_name(f"s3://bucket/some/{name}") == display_name(f"/data/some/{name}") == name
