"""Pruned folders of whole hybrids: what stock transformers computes with them, and what of the files has changed."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from ghost.checkpoint.families import family_of
from ghost.checkpoint.fields import with_infinity
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.errors import VerificationError
from ghost.evaluation.verify import verify
from ghost.selection import Selection
from tests.hybrids import (
    FOREIGN,
    INDEX,
    MTP,
    PER_FAMILY,
    VARIANTS,
    make_hybrid,
    mix_dtypes,
    model_type_of,
    read_shards,
    read_tensors,
    recut,
    write_shards,
)
from tests.models import carried, load_stock, mask_stock, prune, random_tokens, stock_logits

SEED = 11
"""As in tests/test_stack.py."""
TOKENS = random_tokens(3, 21, seed=3)
CUT = ("in_proj.weight", "in_proj.bias", "conv1d.weight", "conv1d.bias")
"""Of a mixer's tensors those that have rows for state channels."""


@dataclass(frozen=True)
class Case:
    """A model whose files are cut and typed oddly, with strangers among them, and its pruned folder."""

    variant: str
    source: Checkpoint
    folder: Path
    selections: list[Selection]

    @property
    def mixers(self) -> dict[str, str]:
        """By name in the files, the own name of every tensor of a mixer."""
        names = self.source.names
        return {file: own for i in names.mixers for own, file in names.mixer(i).items()}


class Written(NamedTuple):
    """A tensor as it lies on disk."""

    file: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    data: bytes


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    made = tmp_path_factory.mktemp("hybrid")
    model = make_hybrid(made / "model", request.param, seed=SEED, foreign=True)
    recut(model, 3)
    mix_dtypes(model)
    return pruned(request.param, model, made / "out")


def pruned(variant: str, model: Path, folder: Path, **fields: Any) -> Case:
    source = open_checkpoint(model)
    return Case(variant, source, folder, prune(source, folder, **fields))


def written(folder: Path) -> dict[str, Written]:
    """Every tensor of the safetensors files, by name."""
    return dict(_written(folder))


def _written(folder: Path) -> Iterator[tuple[str, Written]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as reader:
            for name in reader.keys():  # noqa: SIM118
                tensor = reader.get_tensor(name)
                data = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                yield name, Written(path.name, tuple(tensor.shape), tensor.dtype, data)


def loaded(folder: Path) -> tuple[Any, dict[str, Any]]:
    """As anyone loads it, in fp32, and what transformers missed or did not expect."""
    found: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    return found[0].eval(), found[1]


def differ(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def masked_logits(case: Case) -> Tensor:
    """Of the original, its dropped channels silenced after the convolution."""
    return stock_logits(mask_stock(load_stock(case.source.folder), case.source, case.selections), TOKENS)


def test_stock_computes_the_original_without_the_dropped_channels(case: Case) -> None:
    model, info = loaded(case.folder)
    found_blv = stock_logits(model, TOKENS)
    assert differ(found_blv, masked_logits(case)) < 1e-5
    assert differ(found_blv, stock_logits(load_stock(case.source.folder), TOKENS)) > 0.05
    assert info == loaded(case.source.folder)[1] and not info["missing_keys"] | info["mismatched_keys"]
    assert {tuple(group) for s in case.selections for group in s.kept_gn.tolist()} != {(True,) * 8 + (False,) * 8}


def test_every_other_tensor_has_the_bytes_that_it_had_where_it_was(case: Case) -> None:
    """mtp.* and whatever else the model does not have included; of a mixer all that has no row for a state channel."""
    before, after = written(case.source.folder), written(case.folder)
    assert list(before) == list(after) and {tensor.dtype for tensor in before.values()} > {torch.bfloat16, torch.int64}
    strangers = {*FOREIGN, *(MTP if model_type_of(case.variant) == "nemotron_h" else ())}
    assert strangers <= {name for name, tensor in after.items() if tensor == before[name]}
    changed = {name for name, tensor in after.items() if tensor != before[name]}
    assert changed == {name for name, own in case.mixers.items() if own in CUT}
    for name in changed:
        assert after[name][::2] == before[name][::2] and after[name].shape[0] < before[name].shape[0]
        assert after[name].shape[1:] == before[name].shape[1:]


def test_the_files_are_those_of_the_source_and_ghost_json(case: Case) -> None:
    source, names = case.source.folder, {path.name for path in case.folder.iterdir()}
    assert names == {path.name for path in source.iterdir()} | {"ghost.json"}
    before, after = (json.loads((folder / INDEX).read_text()) for folder in (source, case.folder))
    tensors = written(case.folder)
    assert after["weight_map"] == before["weight_map"] == {name: tensor.file for name, tensor in tensors.items()}
    assert after["metadata"] == {"total_size": sum(len(tensor.data) for tensor in tensors.values())}
    for name in names - {"ghost.json", "config.json", INDEX, *before["weight_map"].values()}:
        assert (case.folder / name).read_bytes() == carried(source / name)


def test_the_config_says_the_new_size_and_otherwise_what_it_said(case: Case) -> None:
    before, after = (json.loads((at / "config.json").read_text()) for at in (case.source.folder, case.folder))
    flag = "rescale_prenorm_residual"
    size = {family_of(case.source.config).state_size_field: case.selections[0].width}
    expected = size | ({flag: False} if hasattr(case.source.config, flag) else {})
    assert after == with_infinity(before) | expected and size.items().isdisjoint(before.items())


@pytest.mark.parametrize("variant", PER_FAMILY)
@pytest.mark.parametrize("fields", [{"policy": "pooled", "sparsity": 0.75}, {"soft": True}], ids=str)
def test_padded_and_zeroed_models_compute_it_too(variant: str, fields: dict[str, Any], tmp_path: Path) -> None:
    """Of a single file in bf16, which stays one."""
    model = make_hybrid(tmp_path / "model", variant, dtype=torch.bfloat16, seed=SEED)
    case = pruned(variant, model, tmp_path / "out", **fields)
    stock, info = loaded(case.folder)
    assert differ(stock_logits(stock, TOKENS), masked_logits(case)) < 1e-5 and not any(info.values())
    assert all(s.is_rectangular for s in case.selections) == ("soft" in fields)
    assert [path.name for path in case.folder.glob("*.safetensors*")] == ["model.safetensors"]
    assert written(case.folder).keys() == written(model).keys()


def test_shards_may_be_called_anything_and_hold_one_tensor_or_strangers_only(tmp_path: Path) -> None:
    model = make_hybrid(tmp_path / "model", "nemotron_h", seed=SEED, foreign=True)
    tensors = read_tensors(model)
    strangers = {name: tensors.pop(name) for name in (*MTP, *FOREIGN)}
    (first, tensor), *others = tensors.items()
    write_shards(model, [strangers, {first: tensor}, dict(others)])
    text = (model / INDEX).read_text()
    for path, name in zip(sorted(model.glob("*.safetensors")), ("z", "consolidated.00", "part-b"), strict=True):
        path.rename(model / f"{name}.safetensors")
        text = text.replace(path.name, f"{name}.safetensors")
    (model / INDEX).write_text(text)
    case = pruned("nemotron_h", model, tmp_path / "out")
    assert (case.folder / "z.safetensors").read_bytes() == (model / "z.safetensors").read_bytes()
    assert {t.file for t in written(case.folder).values()} == {"z.safetensors", "consolidated.00.safetensors",
                                                               "part-b.safetensors"}  # fmt: skip
    assert differ(stock_logits(loaded(case.folder)[0], TOKENS), masked_logits(case)) < 1e-5


@pytest.mark.parametrize("variant", ["granitemoehybrid", "nemotron_h"])
def test_pickled_files_go_out_as_safetensors_with_tied_tensors_once(variant: str, tmp_path: Path) -> None:
    model = make_hybrid(tmp_path / "model", variant, seed=SEED, foreign=True)
    expected = pruned(variant, model, tmp_path / "expected")
    pickled = shutil.copytree(model, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = read_tensors(model)
    if variant == "granitemoehybrid":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    torch.save(tensors, pickled / "pytorch_model.bin")
    prune(open_checkpoint(pickled), tmp_path / "out")
    assert written(tmp_path / "out") == written(expected.folder)


@pytest.mark.parametrize("variant", PER_FAMILY)
def test_verify_accepts_it_and_refuses_one_that_was_tampered_with(variant: str, tmp_path: Path) -> None:
    case = pruned(variant, make_hybrid(tmp_path / "model", variant, seed=SEED), tmp_path / "out")
    found = verify(case.folder, case.source, TOKENS[0])
    assert found["difference"] < 1e-5 and found["layers"] == len(case.source.mixers)
    last = case.source.mixers[-1]
    others = (name for name in case.source.names.homes if not name.startswith(f"{case.source.names.mixers[last]}."))
    for name in (case.source.names.mixer(last)["conv1d.weight"], case.source.names.homes[next(others)][0]):
        (shard,) = read_shards(case.folder)
        write_shards(tampered := shutil.copytree(case.folder, tmp_path / name), [shard | {name: -shard[name]}])
        with pytest.raises(VerificationError, match=r"logits differ by .*; prune it again"):
            verify(tampered, case.source, TOKENS[0])
