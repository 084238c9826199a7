"""The checkpoint that comes out, in stock transformers: it loads whole, computes the pruned model, and is smaller."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from ghost.checkpoint.fields import with_infinity
from ghost.checkpoint.names import spelled
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.checkpoint.tensors import TensorFiles
from ghost.checkpoint.writer import Planned, write_weights
from ghost.export import export
from ghost.selection import Selection
from tests.models import (
    carried,
    load_stock,
    make_model,
    make_native,
    mask_stock,
    open_stack,
    prune,
    random_tokens,
    stack_logits,
    stock_logits,
)

D_STATE, KEPT = 16, 8
TOKENS = random_tokens(2, 40)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one group": ({}, {}),
    "two groups": ({"n_groups": 2, "tie_word_embeddings": False}, {}),
    "pooled": ({"n_groups": 2}, {"policy": "pooled"}),
    "soft": ({"n_groups": 2}, {"soft": True}),
    "bf16": ({"dtype": torch.bfloat16, "tie_word_embeddings": False}, {}),
    "biases": ({"use_bias": True, "n_groups": 2}, {"policy": "pooled"}),
    "no biases": ({"use_conv_bias": False}, {}),
    "sharded": ({"max_shard_size": "20KB"}, {}),
    "many taps, odd chunks": ({"conv_kernel": 8, "chunk_size": 7, "n_groups": 4}, {}),
    "native": ({"n_groups": 2}, {}),
}


@dataclass(frozen=True)
class Pruned:
    """A model as transformers has it, what ghost opened (the same, or its native twin), and what came out."""

    model: Path
    source: Checkpoint
    selections: list[Selection]
    out: Path

    def config(self) -> dict[str, Any]:
        return json.loads((self.out / "config.json").read_text())

    def expected_logits(self) -> Tensor:
        return stock_logits(mask_stock(load_stock(self.model), self.source, self.selections), TOKENS)


def make_pruned(folder: Path, name: str) -> Pruned:
    fields, settings = CASES[name]
    model = make_model(folder / "model", d_state=D_STATE, **fields)
    source = make_native(folder / "native", model) if name == "native" else model
    shutil.copy(Path(__file__).parent.parent / "LICENSE", source)
    checkpoint = open_checkpoint(source)
    return Pruned(model, checkpoint, prune(checkpoint, folder / "out", **settings), folder / "out")


@pytest.fixture(scope="module", params=CASES)
def pruned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    return make_pruned(tmp_path_factory.mktemp("pruned"), request.param)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 of the largest element: two fp32 implementations."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_it_loads_whole_and_computes_the_model_without_the_dropped_channels(pruned: Pruned):
    loaded: Any = AutoModelForCausalLM.from_pretrained(pruned.out, dtype=torch.float32, output_loading_info=True)
    model, info = loaded
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= info.keys() and not any(info.values())
    assert_same(stock_logits(model.eval(), TOKENS), pruned.expected_logits())
    assert_same(stack_logits(open_stack(pruned.out), TOKENS), pruned.expected_logits())


def test_pruning_changed_the_model(pruned: Pruned):
    change = (pruned.expected_logits() - stock_logits(load_stock(pruned.model), TOKENS)).abs().max()
    assert change > 0.01 * pruned.expected_logits().abs().max()


def test_config_says_the_new_state_size_and_otherwise_what_it_said(pruned: Pruned):
    widest = max(selection.width for selection in pruned.selections)
    is_soft = open_checkpoint(pruned.out).mixer_layout.d_state == D_STATE
    expected = {"state_size": D_STATE if is_soft else widest, "rescale_prenorm_residual": False}
    assert pruned.config() == with_infinity(pruned.source.raw_config) | expected
    assert "__float__" not in (pruned.out / "config.json").read_text()  # transformers 4.57 can't read it


def test_every_tensor_keeps_its_dtype_and_those_outside_b_and_c_their_bits(pruned: Pruned):
    out = open_checkpoint(pruned.out)
    before, after = (c.tensors.load(_outside_mixers(c)) for c in (pruned.source, out))
    assert_same_tensors(after, {spelled(name): tensor for name, tensor in before.items()})
    for i in range(out.layers):
        before, after = pruned.source.mixer(i), out.mixer(i)
        assert {name: t.dtype for name, t in after.items()} == {name: t.dtype for name, t in before.items()}
        cut = {"in_proj.weight", "in_proj.bias", "conv1d.weight", "conv1d.bias"}
        assert all(after[name].equal(before[name]) for name in before.keys() - cut)
        d_inner = pruned.source.mixer_layout.d_inner
        assert after["in_proj.weight"][: 2 * d_inner].equal(before["in_proj.weight"][: 2 * d_inner])


def test_tokenizer_generation_settings_and_licence_are_carried_over(pruned: Pruned):
    names = {path.name for path in pruned.source.companions()}
    in_transformers = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert names == {"LICENSE"} | (in_transformers if pruned.source.folder == pruned.model else set())
    for name in names:
        assert (pruned.out / name).read_bytes() == carried(pruned.source.folder / name)
    weights = {path.name for path in open_checkpoint(pruned.out).tensors.files}
    weights |= {path.name for path in pruned.source.folder.glob("*.safetensors.index.json")}
    assert {path.name for path in pruned.out.iterdir()} == names | weights | {"config.json", "ghost.json"}


def test_the_tokenizer_and_the_stored_dtype_load_by_themselves(tmp_path: Path):
    pruned = make_pruned(tmp_path, "bf16")
    assert AutoTokenizer.from_pretrained(pruned.out)("state")["input_ids"]
    assert AutoModelForCausalLM.from_pretrained(pruned.out).dtype == torch.bfloat16


def test_pooled_layers_are_padded_to_the_widest_group_of_the_model(tmp_path: Path):
    pruned = make_pruned(tmp_path, "pooled")
    widths = [selection.width for selection in pruned.selections]
    assert not any(selection.is_rectangular for selection in pruned.selections) and len(set(widths)) > 1
    assert pruned.config()["state_size"] == max(widths) < D_STATE


def test_soft_computes_what_hard_computes(tmp_path: Path):
    soft = make_pruned(tmp_path, "soft")
    prune(soft.source, tmp_path / "hard")
    hard = open_checkpoint(tmp_path / "hard")
    assert (hard.mixer_layout.d_state, soft.config()["state_size"]) == (KEPT, D_STATE)
    assert hard.parameters < open_checkpoint(soft.out).parameters == soft.source.parameters
    assert_same(stock_logits(load_stock(soft.out), TOKENS), stock_logits(load_stock(hard.folder), TOKENS))


def test_weights_stored_with_the_flag_that_rescales_them_on_loading_stay_as_stored(tmp_path: Path):
    model = make_model(tmp_path / "model", d_state=D_STATE, rescale_prenorm_residual=True)
    source = open_checkpoint(model)
    selections = prune(source, tmp_path / "out")
    as_stored = shutil.copytree(model, tmp_path / "as-stored")
    (as_stored / "config.json").write_text(json.dumps(source.raw_config | {"rescale_prenorm_residual": False}))
    expected = stock_logits(mask_stock(load_stock(as_stored), source, selections), TOKENS)
    assert_same(stock_logits(load_stock(tmp_path / "out"), TOKENS), expected)


@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_each_tensor_is_read_once_and_each_layer_at_one_time(
    max_shard_size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In several dtypes too, which lie apart in the file that is written."""
    model, out, asked, read = tmp_path / "model", tmp_path / "out", list[int](), list[str]()
    load_stock(make_model(tmp_path / "fp32")).save_pretrained(model, max_shard_size=max_shard_size)
    for path in model.glob("*.safetensors"):
        wide = ("A_log", "dt_bias", "norm_f.weight")
        save_file({n: t if n.endswith(wide) else t.bfloat16() for n, t in load_file(path).items()}, path)
    source, load = open_checkpoint(model), TensorFiles.load
    monkeypatch.setattr(TensorFiles, "load", lambda self, names: load(self, _noted(read, names)))

    def unpruned(i: int) -> dict[str, Tensor]:
        asked.append(i)
        return source.mixer(i)

    out.mkdir()
    export(source, unpruned, source.mixer_layout, out, {})
    assert asked == [0, 1, 2] and sorted(read) == sorted(source.tensors.home)
    stored = {name: tensor for path in source.tensors.files for name, tensor in load_file(path).items()}
    assert_same_tensors(open_checkpoint(out).tensors.load(stored), stored)
    names = {path.name for path in model.iterdir()} - {"generation_config.json"}
    assert {path.name for path in out.iterdir()} - {"generation_config.json"} == names | {"ghost.json"}


def _noted(read: list[str], names: Iterable[str]) -> list[str]:
    read += (listed := list(names))
    return listed


def assert_same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert {name: t.dtype for name, t in found.items()} == {name: t.dtype for name, t in expected.items()}
    assert all(found[name].equal(expected[name]) for name in expected)


def _outside_mixers(checkpoint: Checkpoint) -> list[str]:
    """Those that are written: a pickled file's repetition of the embeddings as head is not."""
    skipped = {name for i in checkpoint.mixers for name in checkpoint.names.mixer(i).values()} | checkpoint.repeated
    return [name for name in checkpoint.tensors.home if name not in skipped]


def test_tensors_with_gaps_in_memory_are_written_whole(tmp_path: Path):
    source = open_checkpoint(make_model(tmp_path / "model", dtype=torch.bfloat16))
    shapes, stored = source.tensors.shapes, source.tensors.load(source.tensors.home)
    plan = [Planned(n, shapes[n], t.dtype, lambda t=t: t.repeat_interleave(2, dim=0)[::2]) for n, t in stored.items()]
    out = tmp_path / "out"
    out.mkdir()
    write_weights(out, {"model-1.safetensors": plan[::2], "model-2.safetensors": plan[1::2]})
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored.values())
    assert {n: load_file(out / file)[n].equal(stored[n]) for n, file in index["weight_map"].items()} == dict.fromkeys(
        stored, True
    )


@torch.inference_mode()
def test_generation_with_the_cache_equals_generation_without(pruned: Pruned):
    model, prompt = load_stock(pruned.out), TOKENS[:, :9].long()
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "output_logits": True}
    cached, plain = (
        model.generate(prompt, use_cache=use_cache, return_dict_in_generate=True, **options)
        for use_cache in (True, False)
    )
    assert cached.sequences.equal(plain.sequences) and cached.sequences.shape == (2, 21)
    for cached_bv, plain_bv in zip(cached.logits, plain.logits, strict=True):
        assert_same(cached_bv, plain_bv)


@torch.inference_mode()
def state_bytes(folder: Path) -> int:
    """Bytes of the recurrent states that transformers keeps in its cache, for a batch of 2."""
    cache = load_stock(folder)(TOKENS.long(), use_cache=True).cache_params
    states = [cache.get_recurrent_state(i, state_idx=0) for i in range(3)]
    return sum(state.untyped_storage().nbytes() for state in states)


def test_the_state_in_the_cache_is_smaller(tmp_path: Path):
    pruned = make_pruned(tmp_path, "two groups")
    layout = open_checkpoint(pruned.out).mixer_layout
    assert state_bytes(pruned.out) == 2 * 3 * 4 * layout.state_elements
    assert state_bytes(pruned.model) == 2 * 3 * 4 * pruned.source.mixer_layout.state_elements
    assert state_bytes(pruned.out) * D_STATE == state_bytes(pruned.model) * KEPT
