"""What travels with the weights: everything beside them but weights, code and what ghost writes itself."""

import os
from pathlib import Path

import pytest

from artifacts.folders import MANIFEST
from artifacts.marker import MARKER
from artifacts.store import open_store
from ghost.checkpoint.companions import MARKS, WRITTEN, companion_files, companions, is_tokenizers
from ghost.checkpoint.source import open_checkpoint
from ghost.errors import CheckpointError
from ghost.export import PROVENANCE
from tests.by_hand import small_settings, through_layers
from tests.costs import refusal
from tests.models import carried, make_model, prune

TRAVELLING = [
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "tekken.json", "qwen.tiktoken",
    "vocab.txt", "merges.txt", "chat_template.jinja", "additional_chat_templates/tool_use.jinja", "NOTICE", "LICENCE",
    "LICENSE.md", "generation_config.json", "USE_POLICY.md", "assets/figures/loss.png", "training.json",
    "docs/README.md",
]  # fmt: skip
STAYING = [
    "config.json", "params.json", "ghost.json", "ghost-manifest.json", "README.md", "model.safetensors",
    "model.safetensors.index.json", "model.fp16.safetensors.index.json", "consolidated.safetensors",
    "pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "model-Q4_K_M.gguf", "model.onnx",
    "tf_model.h5",
    "flax_model.msgpack", "rust_model.ot", "optimizer.pt", "modeling_evil.py",
    "__pycache__/modeling_evil.cpython-311.pyc",
    ".gitattributes", ".git/config", ".cache/huggingface/download/tokenizer.json.metadata", "tokenizer.json.incomplete",
    "half.part/tokenizer.json", "onnx/model.onnx", "onnx/tokenizer.json", "original/consolidated.00.pth",
    "original/tokenizer.model", "checkpoint-500/config.json", "checkpoint-500/trainer_state.json",
    "runs/a/config.json", "runs/notes.txt", f"ghost-runs/{MARKER}", "ghost-runs/runs/0123/run.json",
]  # fmt: skip


@pytest.mark.parametrize("name", TRAVELLING)
def test_what_is_neither_weights_nor_code_travels(name: str) -> None:
    assert name in companions([*TRAVELLING, *STAYING])


@pytest.mark.parametrize("name", STAYING)
def test_weights_code_and_what_ghost_writes_stay(name: str) -> None:
    assert name not in companions([*TRAVELLING, *STAYING])


def test_the_names_are_those_that_ghost_gives_its_own_files() -> None:
    assert {PROVENANCE, MANIFEST} <= WRITTEN and MARKER in MARKS


def test_a_tokenizer_is_known_by_its_files() -> None:
    found = {name for name in TRAVELLING if is_tokenizers(name)}
    assert found == set(TRAVELLING[:10])


def lay_out(folder: Path) -> None:
    for name in [*TRAVELLING[2:], *STAYING[10:]]:
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"content of {name}")


def test_a_folder_is_read_and_exported_by_the_same_rule(tmp_path: Path) -> None:
    source = make_model(tmp_path / "model")
    lay_out(source)
    checkpoint = open_checkpoint(source)
    prune(checkpoint, tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {*TRAVELLING, "config.json", "ghost.json", "model.safetensors"}
    assert all((tmp_path / "out" / name).read_bytes() == carried(source / name) for name in TRAVELLING)


@pytest.mark.parametrize("name", ["NOTICE", "additional_chat_templates/tool_use.jinja", "assets/figures/loss.png"])
def test_the_digest_is_of_every_file_that_is_published(name: str, tmp_path: Path) -> None:
    source = make_model(tmp_path / "model")
    digests = [open_checkpoint(source).digest]
    for content in ("one", "other"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(content)
        digests.append(open_checkpoint(source).digest)
    (source / name).rename(source / f"{Path(name).name}.renamed")
    digests.append(open_checkpoint(source).digest)
    assert len(set(digests)) == 4


def test_a_store_in_the_models_own_folder_changes_nothing(tmp_path: Path) -> None:
    source = make_model(tmp_path / "model")
    digest = open_checkpoint(source).digest
    open_store(str(source / "ghost-runs")).put("runs/0123/run.json", b"{}")
    assert open_checkpoint(source).digest == digest


def test_a_run_keeps_the_folders_of_a_checkpoint_in_its_store(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    lay_out(tmp_path / "model")
    run = through_layers(settings)
    run.export()
    folder = run.exported.folder(run.run)
    assert folder == Path(run.store.locate(run.keys.checkpoint))
    assert {name for name in TRAVELLING if (folder / name).is_file()} == set(TRAVELLING)
    assert open_checkpoint(folder).layers == 2


@pytest.mark.parametrize("name", [b"notes\xe9.txt", b"a\\b.txt", b"two\nlines.txt"])
def test_a_name_that_no_store_takes_is_refused_before_the_work(name: bytes, tmp_path: Path) -> None:
    source = make_model(tmp_path / "model")
    (source / os.fsdecode(name)).write_text("note")
    line = refusal(open_checkpoint, source)
    assert "beside the weights is no name to publish; rename or remove it" in line and line.isprintable()
    with pytest.raises(CheckpointError):
        companion_files(source)
