"""Model folders that can't be pruned: a line that names what is wrong with them, before any work."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, MambaConfig

pytest_plugins = ["tests.refusals"]

Refused = Callable[..., str]
Spoil = Callable[[Path], object]
CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
EMBEDDINGS, MIXER = "backbone.embeddings.weight", "backbone.layers.1.mixer."
AGAIN, BELONG = "download or copy the checkpoint again", "check that config and weights belong together"


@pytest.fixture
def model(originals: Path, tmp_path: Path) -> Path:
    return shutil.copytree(originals / "model", tmp_path / "model")


def written(name: str, data: str | bytes) -> Spoil:
    return lambda model: (model / name).write_bytes(data.encode() if isinstance(data, str) else data)


def configured(**changes: Any) -> Spoil:
    return lambda m: written(CONFIG, json.dumps(json.loads((m / CONFIG).read_text()) | changes))(m)


def edited(edit: Callable[[dict[str, Tensor]], object]) -> Spoil:
    def spoil(model: Path) -> None:
        tensors = load_file(model / WEIGHTS)
        edit(tensors)
        save_file(tensors, model / WEIGHTS)

    return spoil


def replaced(name: str, value: Tensor) -> Spoil:
    return edited(lambda tensors: tensors.update({name: value}))


def sharded(index: Any) -> Spoil:
    def spoil(model: Path) -> None:
        (model / WEIGHTS).rename(model / "1.safetensors")
        (model / f"{WEIGHTS}.index.json").write_text(json.dumps(index))

    return spoil


def pickled(change: Callable[[dict[str, Tensor]], object]) -> Spoil:
    def spoil(model: Path) -> None:
        torch.save(change(load_file(model / WEIGHTS)), model / PICKLE)
        (model / WEIGHTS).unlink()

    return spoil


def as_file(model: Path) -> None:
    shutil.rmtree(model)
    model.write_text("weights")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4567\n"
PULL, PIP = "run git lfs pull in its folder", ": pip install sentencepiece"


def pointing(name: str) -> Spoil:
    """A file that is a pointer; where it is of weights, the others are not there."""

    def spoil(model: Path) -> None:
        if name.startswith(("pytorch", "model")):
            (model / WEIGHTS).unlink()
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(POINTER)

    return spoil


def only_tokenizer(data: bytes) -> Spoil:
    def spoil(model: Path) -> None:
        (model / "tokenizer.json").unlink()
        (model / "tokenizer.model").write_bytes(data)

    return spoil


def halved(model: Path) -> None:
    os.truncate(model / WEIGHTS, (model / WEIGHTS).stat().st_size // 2)


MODELS: dict[str, tuple[Spoil, str, str]] = {
    "missing folder": (shutil.rmtree, "/model: no such folder", "give demo, a local folder, or a hub name"),
    "a file": (as_file, "/model is a file", "give the folder that holds config.json"),
    "no config": (lambda m: (m / CONFIG).unlink(), "/model has no config.json", AGAIN),
    "config is no JSON": (written(CONFIG, "{no"), "config.json is not JSON", AGAIN),
    "config is a list": (written(CONFIG, "[]"), "config.json is not a JSON object", AGAIN),
    "GPT-2": (written(CONFIG, json.dumps(GPT2Config().to_dict())), "'gpt2' has attention and no", "so give one of"),
    "Mamba1": (written(CONFIG, json.dumps(MambaConfig().to_dict())), "'mamba' has Mamba1 mixers", "needs Mamba2"),
    "two types": (configured(model_type=["mamba2"]), "model_type ['mamba2'] is no name", "so give one of"),
    "another family": (configured(model_type="bamba"), "mamba_n_heads must divide", AGAIN),
    "size in words": (configured(state_size="many"), "'state_size'", AGAIN),
    "no layers": (configured(num_hidden_layers=0), "num_hidden_layers is 0", "mend config.json"),
    "a layer too few": (configured(num_hidden_layers=2), "unexpected tensor backbone.layers.2.", BELONG),
    "a layer too many": (configured(num_hidden_layers=4), "layer 3 of", "the checkpoint is incomplete"),
    "no weights": (lambda m: (m / WEIGHTS).unlink(), "/model has no weights", AGAIN),
    "truncated": (halved, "model.safetensors is truncated or damaged", AGAIN),
    "empty": (written(WEIGHTS, ""), "model.safetensors is truncated or damaged", AGAIN),
    "garbage": (written(WEIGHTS, bytes(range(256)) * 16), "model.safetensors is truncated or damaged", AGAIN),
    "missing shard": (sharded({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}),
                      "shard 2.safetensors is missing", AGAIN),
    "shard elsewhere": (sharded({"weight_map": {"a": "../evil.safetensors"}}), "'../evil.safetensors'", AGAIN),
    "shard by number": (sharded({"weight_map": {"a": 3}}), "names the shard 3", AGAIN),
    "index is a list": (sharded([]), "model.safetensors.index.json is not a readable weight index", AGAIN),
    "no A_log": (edited(lambda t: t.pop(f"{MIXER}A_log")), "tensor A_log is missing", "the checkpoint is incomplete"),
    "no final norm": (edited(lambda t: t.pop("backbone.norm_f.weight")), "backbone.norm_f.weight is missing", AGAIN),
    "wrong shape": (replaced(f"{MIXER}D", torch.ones(5)), "D has shape (5,), but config.json asks for (4,)", BELONG),
    "wrong vocabulary": (configured(vocab_size=99), f"{EMBEDDINGS} has shape (304, 32)", BELONG),
    "Mamba1's tensor": (replaced(f"{MIXER}x_proj.weight", torch.ones(5)), "tensor x_proj.weight", "not a Mamba2 mixer"),
    "an MLP": (replaced("backbone.layers.1.mlp.weight", torch.ones(5)), "tensor backbone.layers.1.mlp.weight", BELONG),
    "int8": (replaced(f"{MIXER}D", torch.ones(4, dtype=torch.int8)), f"{MIXER}D in {WEIGHTS} is I8", "ghost reads F64"),
    "no tokenizer": (lambda m: [p.unlink() for p in m.glob("token*")], "the tokenizer of", "give one with --tokenizer"),
    "a training state": (pickled(lambda t: {"model": t}), f"{PICKLE} can't be loaded", "convert it to safetensors"),
    "a pickled list": (pickled(list), f"{PICKLE} can't be loaded", "convert it to safetensors"),
    "a pointer to weights": (written(WEIGHTS, POINTER), f"/model/{WEIGHTS} is a git-lfs pointer", PULL),
    "a pointer to a tokenizer": (written("tokenizer.json", POINTER), "tokenizer.json is a git-lfs pointer", PULL),
    "a pointer to a config": (written(CONFIG, POINTER), f"/model/{CONFIG} is a git-lfs pointer", PULL),
    "a pointer to a pickle": (pointing(PICKLE), f"{PICKLE} is a git-lfs pointer", PULL),
    "a pointer to an index": (pointing(f"{WEIGHTS}.index.json"), "index.json is a git-lfs pointer", PULL),
    "a pointer to a template": (pointing("x/y.jinja"), "/model/x/y.jinja is a git-lfs pointer", PULL),
    "sentencepiece": (only_tokenizer(b"\x0a\x09\x0a\x05<unk>"), "tokenizer.model needs sentencepiece", PIP),
    "a damaged pickle": (lambda m: (m / WEIGHTS).rename(m / PICKLE), f"{PICKLE} is truncated, damaged", AGAIN),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "thing", "remedy"), MODELS.values(), ids=MODELS)
def test_a_spoilt_model_is_refused(spoil: Spoil, thing: str, remedy: str, model: Path, refused: Refused) -> None:
    spoil(model)
    line = refused(model)
    assert thing in line and remedy in line


class Trespass:
    """Pickles as a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_an_unsafe_pickle_is_refused_and_not_run(model: Path, tmp_path: Path, refused: Refused) -> None:
    trace = tmp_path / "trace"
    pickled(lambda tensors: tensors | {"x": Trespass(trace)})(model)
    line = refused(model)
    assert f"{PICKLE} can't be loaded safely (it holds more than tensors); convert it to safetensors" in line
    assert not trace.exists()
    torch.load(model / PICKLE, weights_only=False)
    assert trace.exists(), "the pickle was harmless: this test showed nothing"


SSM = {"layer": "Mamba2", "d_state": 32, "headdim": 16, "ngroups": 1}
NATIVE: dict[str, tuple[dict[str, Any], str, str]] = {
    "Mamba1": ({"ssm_cfg": {}}, "ssm_cfg.layer is 'Mamba1'", "give a Mamba2 model"),
    "attention": ({"attn_layer_idx": [1]}, "attn_layer_idx is [1]", "give a pure Mamba2 model"),
    "MLP": ({"d_intermediate": 64}, "d_intermediate is 64", "give a pure Mamba2 model"),
    "LayerNorm": ({"rms_norm": False}, "rms_norm is false", "give a model with RMS norm"),
    "half recurrent": ({"ssm_cfg": SSM | {"d_ssm": 32}}, "ssm_cfg.d_ssm is 32", "give a model whose whole d_inner"),
    "no headdim": ({"ssm_cfg": SSM | {"headdim": 0}}, "ssm_cfg.headdim is 0", "mend config.json"),
    "no vocabulary": ({"vocab_size": None}, "vocab_size is None", "mend config.json"),
    "no tokenizer": ({}, "no tokenizer could be loaded from", "give one with --tokenizer"),
}


@pytest.mark.parametrize(("changes", "thing", "remedy"), NATIVE.values(), ids=NATIVE)
def test_a_native_model_of_another_kind_is_refused(
    changes: dict[str, Any], thing: str, remedy: str, originals: Path, tmp_path: Path, refused: Refused
) -> None:
    folder = shutil.copytree(originals / "native", tmp_path / "native")
    configured(**changes)(folder)
    line = refused(folder)
    assert thing in line and remedy in line


def linked(given: Path) -> None:
    (given / "tokenizer.json").unlink()
    (given / "tokenizer.json").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [(written("tokenizer.json", POINTER), PULL), (only_tokenizer(b"\x0a\x07"), PIP), (linked, "remove the link")],
    ids=["a pointer", "sentencepiece", "a link"],
)
def test_a_tokenizer_that_is_given_is_looked_over_as_the_models_own(
    spoil: Spoil, remedy: str, originals: Path, tmp_path: Path, refused: Refused
) -> None:
    (given := tmp_path / "given").mkdir()
    for path in originals.glob("model/tok*"):
        shutil.copy(path, given)
    spoil(given)
    assert remedy in refused(tokenizer=given)
