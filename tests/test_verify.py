"""The proof accepts a checkpoint that computes the masked original, and refuses every other."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.errors import VerificationError
from ghost.evaluation.verify import verify
from tests.models import make_model, make_native, prune, random_tokens

TOKENS = random_tokens(1, 48, seed=5)[0]
WAYS: dict[str, dict[str, Any]] = {
    "hard": {},
    "pooled": {"policy": "pooled"},
    "soft": {"soft": True},
    "soft and pooled": {"policy": "pooled", "soft": True},
    "one-shot": {"sequential": False},
}
B_ROW = 2 * 64 + 3
"""A row of in_proj that makes a channel of B: behind those of z and x."""
OTHERWISE = r"does not compute what .* computes without the dropped channels: logits differ by .*; prune it again"
UNREADABLE = r"ghost\.json is missing or damaged .*; give a checkpoint that ghost made"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(make_model(tmp_path_factory.mktemp("model"), layers=2, d_state=16, n_groups=2))


@pytest.fixture(scope="module")
def pruned(source: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pruned") / "out"
    prune(source, folder)
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_that_ghost_made_verifies(source: Checkpoint, way: str, tmp_path: Path):
    prune(source, tmp_path / "out", **WAYS[way])
    found = verify(tmp_path / "out", source, TOKENS)
    assert found["difference"] <= 1e-5 < found["limit"] == 1e-4
    assert (found["tokens"], found["layers"]) == (48, 2)


@pytest.mark.parametrize("fields", [{"dtype": torch.bfloat16}, {"tie_word_embeddings": False}])
def test_bf16_and_untied_checkpoints_verify(fields: dict[str, Any], tmp_path: Path):
    source = open_checkpoint(make_model(tmp_path / "model", **fields))
    prune(source, tmp_path / "out")
    assert verify(tmp_path / "out", source, TOKENS)["difference"] <= 1e-5


def test_a_checkpoint_made_from_a_native_folder_verifies(source: Checkpoint, tmp_path: Path):
    native = open_checkpoint(make_native(tmp_path / "native", source.folder))
    prune(native, tmp_path / "out")
    assert verify(tmp_path / "out", native, TOKENS)["difference"] <= 1e-5


def change_weight(folder: Path, name: str, row: int) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[f"backbone.layers.{name}"][row] *= -1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def change_record(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads((folder / "ghost.json").read_text())
    change(record)
    (folder / "ghost.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("name", "row"),
    [("1.mixer.in_proj.weight", B_ROW), ("0.mixer.conv1d.bias", 64), ("1.mixer.A_log", 2), ("0.norm.weight", 5)],
)
def test_a_changed_weight_is_refused(source: Checkpoint, pruned: Path, name: str, row: int, tmp_path: Path):
    folder = shutil.copytree(pruned, tmp_path / "out")
    change_weight(folder, name, row)
    with pytest.raises(VerificationError, match=OTHERWISE):
        verify(folder, source, TOKENS)


def test_a_state_channel_zeroed_on_top_is_refused(source: Checkpoint, tmp_path: Path):
    folder = tmp_path / "out"
    selection = prune(source, folder, soft=True)[1]
    weights = load_file(folder / "model.safetensors")
    weights["backbone.layers.1.mixer.in_proj.weight"][2 * 64 + int(selection.indices_gk()[0, 0])] = 0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(VerificationError, match=OTHERWISE):
        verify(folder, source, TOKENS)


def test_another_source_is_refused(pruned: Path, tmp_path: Path):
    other = open_checkpoint(make_model(tmp_path, layers=2, d_state=16, n_groups=2, seed=1))
    with pytest.raises(VerificationError, match=r"was not made from .*; give that model with --against"):
        verify(pruned, other, TOKENS)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_checkpoint_with_other_channels_than_it_lists_is_refused(
    source: Checkpoint, pruned: Path, layer: int, tmp_path: Path
):
    folder = shutil.copytree(pruned, tmp_path / "out")
    kept = json.loads((folder / "ghost.json").read_text())["kept_channels"][layer][1]
    dropped = next(channel for channel in range(16) if channel not in kept)
    change_record(folder, lambda record: record["kept_channels"][layer].__setitem__(1, [dropped, *kept[1:]]))
    with pytest.raises(VerificationError, match=OTHERWISE):
        verify(folder, source, TOKENS)


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no channels": lambda record: record.pop("kept_channels"),
    "no digest": lambda record: record["ghost"].pop("determinants"),
    "a layer too few": lambda record: record["kept_channels"].pop(),
    "a layer too many": lambda record: record["kept_channels"].append(record["kept_channels"][0]),
    "a group too few": lambda record: record["kept_channels"][1].pop(),
    "a group too many": lambda record: record["kept_channels"][1].append([0]),
    "a channel too high": lambda record: record["kept_channels"][1][0].append(16),
    "a channel by name": lambda record: record["kept_channels"][1][0].append("first"),
    "a number for a list": lambda record: record["kept_channels"].__setitem__(0, 7),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_refused_as_such(source: Checkpoint, pruned: Path, damage: str, tmp_path: Path):
    folder = shutil.copytree(pruned, tmp_path / "out")
    change_record(folder, DAMAGE[damage])
    with pytest.raises(VerificationError, match=UNREADABLE):
        verify(folder, source, TOKENS)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "7"])
def test_a_folder_without_a_readable_record_is_refused(
    source: Checkpoint, pruned: Path, content: str | None, tmp_path: Path
):
    folder = shutil.copytree(pruned, tmp_path / "out")
    (folder / "ghost.json").unlink() if content is None else (folder / "ghost.json").write_text(content)
    with pytest.raises(VerificationError, match=UNREADABLE):
        verify(folder, source, TOKENS)
