"""The stack against stock transformers: whole models of every family, streamed a decoder layer at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import ReferenceType, ref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ghost.checkpoint.in_memory import in_memory
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.decoder_layer import DecoderLayer
from ghost.mixer import Weights
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.walk import walk
from tests.hybrids import PER_FAMILY, VARIANTS, make_hybrid, model_type_of, read_tensors, write_shards
from tests.models import load_stock, open_stack, random_tokens, stack_logits, stock_logits

SEED = 1
"""Rounding grows from layer to layer by what the weights are: with this one no variant comes near the bound, stock's
own distance from float64 included; with 0, 10 and 11 some are beyond it, stock as far from float64 as ghost."""
ROWS, LENGTH = 5, 21
TOKENS = random_tokens(ROWS, LENGTH, seed=3)
"""Two chunks of 8, and some."""
EXACT = {"falcon_h1": {"ssm_multipliers": [0.75, 1.25, 0.5, 1.875, 0.375]}}
"""Stock holds them in a buffer that is fp32 whatever the model is."""


@dataclass(frozen=True)
class Whole:
    """A model in stock transformers, and what it computes; and its folder's stack."""

    variant: str
    model: Any
    logits_blv: Tensor
    stack: Stack

    @property
    def folder(self) -> Path:
        return self.stack.checkpoint.folder


@pytest.fixture(scope="module", params=VARIANTS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = make_hybrid(tmp_path_factory.mktemp("hybrid") / "model", request.param, seed=SEED, foreign=True)
    model = load_stock(folder)
    return Whole(request.param, model, stock_logits(model, TOKENS), open_stack(folder))


@pytest.fixture
def small_batches(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 2, 2 and 1 rows."""
    monkeypatch.setattr(whole.stack, "batch_tokens", 2 * LENGTH + 1)


def differ(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest logit."""
    return float((found - expected).abs().max() / expected.abs().max())


def rms(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())


@contextmanager
def in_float64() -> Iterator[None]:
    """Inside, what goes to fp32 for precision goes to float64, in stock's code and in ghost's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        patch.setattr(torch, "float32", torch.float64)
        yield


@pytest.mark.parametrize("length", [1, LENGTH])
def test_logits_are_stocks(whole: Whole, length: int) -> None:
    assert differ(stack_logits(whole.stack, TOKENS[:, :length]), whole.logits_blv[:, :length]) < 1e-5


def test_in_float64_nothing_is_left_of_the_difference(whole: Whole, tmp_path: Path) -> None:
    """So that what is left in fp32 is rounding, and a wrong epsilon or multiplier would not hide in it."""
    exact: Any = EXACT.get(model_type_of(whole.variant), {})
    model = load_stock(make_hybrid(tmp_path / "model", whole.variant, **exact), torch.float64)
    model.set_experts_implementation("eager")  # the grouped kernels have no float64
    stack = Stack(in_memory(model), torch.device("cpu"), torch.float64)
    with in_float64():
        assert differ(stack_logits(stack, TOKENS), stock_logits(model, TOKENS)) < 1e-12


def test_bf16_costs_no_more_than_in_stock(whole: Whole) -> None:
    in_bf16 = stock_logits(load_stock(whole.folder, torch.bfloat16), TOKENS)
    found = stack_logits(open_stack(whole.folder, torch.bfloat16), TOKENS)
    assert 0 < rms(found - whole.logits_blv) < 2 * rms(in_bf16 - whole.logits_blv)


def test_rows_in_several_batches_give_the_same_logits(whole: Whole, small_batches: None) -> None:
    assert [rows.stop for rows, _ in whole.stack.enter(TOKENS).batches()] == [2, 4, 5]
    assert differ(stack_logits(whole.stack, TOKENS), whole.logits_blv) < 1e-5


@torch.inference_mode()
def test_any_rows_go_on_alone(whole: Whole) -> None:
    """Rows out of order, then some of those: masks and whatever else has a row for every sequence come along."""
    stack = whole.stack
    stream = stack.enter(TOKENS).take(torch.tensor([4, 0, 2])).take(slice(1, None))
    for i in range(stack.layers):
        stream = stream.moved(stack.layer(i).advance(stream))
    with stack.head() as logits:
        found = logits(stream.hidden_blm)
    assert differ(found, whole.logits_blv[[0, 2]]) < 1e-5


@pytest.mark.parametrize("variant", PER_FAMILY[1:])
def test_masks_of_eager_attention_are_taken_with_their_rows(variant: str, tmp_path: Path) -> None:
    folder = make_hybrid(tmp_path / "model", variant, seed=SEED, attn_implementation="eager")
    model = load_stock(folder)
    assert model.config._attn_implementation == "eager"
    found = stack_logits(open_stack(folder, batch_tokens=2 * LENGTH + 1), TOKENS)
    assert differ(found, stock_logits(model, TOKENS)) < 1e-5


@pytest.mark.parametrize("variant", ["zamba2-2-blocks-adapters", "granitemoehybrid"])
def test_tied_tensors_may_lie_in_the_files_too_and_a_head_be_one_of_its_own(variant: str, tmp_path: Path) -> None:
    folder = make_hybrid(tmp_path / "model", variant, seed=SEED)
    before_blv = stock_logits(load_stock(folder), TOKENS)
    tied, tensors = open_checkpoint(folder).names.tied, read_tensors(folder)
    write_shards(folder, [tensors := tensors | {name: tensors[other].clone() for name, other in tied.items()}])
    assert differ(stack_logits(open_stack(folder), TOKENS), before_blv) < 1e-5
    write_shards(folder, [tensors | {"lm_head.weight": tensors["lm_head.weight"].flip(0).contiguous()}])
    expected_blv = stock_logits(load_stock(folder), TOKENS)
    assert differ(expected_blv, before_blv) > 0.1
    assert differ(stack_logits(open_stack(folder), TOKENS), expected_blv) < 1e-5


@torch.inference_mode()
def test_what_a_mixer_is_given_and_what_is_left_of_it_are_stocks(whole: Whole) -> None:
    """`mixer_input` is the input of stock's mixer; `leave` takes another output in place of the mixer's."""
    stack, given, hooks = whole.stack, dict[int, Tensor](), list[RemovableHandle]()
    for i, path in stack.checkpoint.names.mixers.items():
        mixer = whole.model.get_submodule(path)
        hooks.append(mixer.register_forward_pre_hook(_noting(given, i), with_kwargs=True))
    stock_logits(whole.model, TOKENS)
    for hook in hooks:
        hook.remove()
    stream = stack.enter(TOKENS)
    for i in range(stack.layers):
        layer = stack.layer(i)
        if i in stack.mixers:
            mixed_blm = layer.mixed(layer.inputs(stream))
            assert differ(layer.mixer_input(stream), given[i]) < 1e-5
            left_blm = layer.leave(stream, mixed_blm)
            assert left_blm.equal(layer.advance(stream)) and not left_blm.equal(layer.leave(stream, 2 * mixed_blm))
        stream = stream.moved(layer.advance(stream))


def _noting(given: dict[int, Tensor], i: int) -> Any:
    def note(mixer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        given[i] = args[0] if args else named["hidden_states"]

    return note


def test_mixers_are_where_stock_has_them_and_layers_all_there_are(whole: Whole) -> None:
    stack, model = whole.stack, whole.model
    names = [name.split(".") for name, _ in model.named_parameters() if name.endswith("A_log")]
    assert stack.mixers == tuple(int(parts[2]) for parts in names)
    assert stack.layers == len(model.base_model.layers)
    assert all((i in stack.mixers) == bool(stack.layer(i).mixer) for i in range(stack.layers))


class Frugal(Stack):
    """Gives a decoder layer only when nobody has the one before any more."""

    given: ReferenceType[nn.Module] | None = None

    def layer(self, i: int, mixer: Weights | None = None) -> DecoderLayer:
        assert self.given is None or self.given() is None
        layer = super().layer(i, mixer)
        self.given = ref(layer._module)
        return layer


def bare(stack: Stack) -> bool:
    return all(parameter.is_meta for parameter in stack._stock.model.parameters())


def frugal(source: Checkpoint) -> Frugal:
    return Frugal(source, torch.device("cpu"), torch.float32)


def test_one_layer_is_in_memory_at_a_time_and_none_afterwards(whole: Whole, small_batches: None) -> None:
    """zamba2's shared blocks too, which lie with one layer and are part of several."""
    stack = frugal(whole.stack.checkpoint)
    stream = stack.run(TOKENS)
    assert bare(stack) and stack.given is not None and stack.given() is None
    with stack.head() as logits:
        assert not bare(stack) and logits(stream.hidden_blm).isfinite().all()
    assert bare(stack)


@pytest.mark.parametrize("method", ["ghost", "taylor", "shedder", "wanda"])
def test_a_walk_has_one_layer_in_memory_at_a_time(method: str, tmp_path: Path) -> None:
    stack = frugal(open_checkpoint(make_hybrid(tmp_path / "model", "zamba2-2-blocks-rope")))
    assert len(list(walk(stack, TOKENS, RunSettings.make(method=method, round_to=4)))) == 6 and bare(stack)
