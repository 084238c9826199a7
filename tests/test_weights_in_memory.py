"""Which weights are in memory: one layer's, the next one's beside it, or all; nothing else depends on it."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from ghost.checkpoint.source import open_checkpoint
from ghost.checkpoint.tensors import TensorFiles, is_finite
from ghost.errors import CheckpointError
from ghost.read_ahead import ReadAhead
from ghost.settings import RunSettings
from ghost.stack import Keeping, Stack
from ghost.walk import walk
from tests.hybrids import make_hybrid, read_tensors, write_shards
from tests.models import random_tokens, stack_logits

TOKENS = random_tokens(3, 20, seed=4)
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["mamba2-8-groups", "nemotron_h", "zamba2-2-blocks-adapters"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hybrid(tmp_path_factory.mktemp("model") / "model", request.param)


def opened(folder: Path, keeping: Keeping) -> Stack:
    return Stack(open_checkpoint(folder), CPU, torch.float32, keeping)


@pytest.mark.parametrize("keeping", get_args(Keeping)[1:])
def test_the_same_bits_come_out(folder: Path, keeping: Keeping) -> None:
    one, other = opened(folder, "one"), opened(folder, keeping)
    expected = list(walk(one, TOKENS, RunSettings(recovery="lstsq", sparsity=0.5, round_to=1)))
    found = list(walk(other, TOKENS, RunSettings(recovery="lstsq", sparsity=0.5, round_to=1)))
    assert stack_logits(other, TOKENS).equal(stack_logits(one, TOKENS))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.changed and theirs.changed
        assert all(tensor.equal(theirs.changed[name]) for name, tensor in ours.changed.items())


@pytest.mark.parametrize("keeping", get_args(Keeping))
def test_what_was_read_without_gradients_serves_those_who_want_them(folder: Path, keeping: Keeping) -> None:
    stack = opened(folder, keeping)
    stack_logits(stack, TOKENS)
    (result, *_) = walk(stack, TOKENS, RunSettings(method="taylor", sparsity=0.5, round_to=1))
    assert result.statistics.gradient_gn is not None and bool(result.statistics.gradient_gn.any())


@dataclass(frozen=True)
class Counted(TensorFiles):
    """Notes every tensor that is read from the files."""

    reads: list[str] = field(default_factory=list)

    def load(self, names: Iterable[str]) -> dict[str, Tensor]:
        loaded = super().load(names)
        self.reads.extend(loaded)
        return loaded


def counted(folder: Path, keeping: Keeping) -> tuple[Stack, list[str]]:
    source = open_checkpoint(folder)
    files = source.tensors
    tensors = Counted(files.files, files.home, files.shapes, files.dtypes)
    return Stack(replace(source, tensors=tensors), CPU, torch.float32, keeping), tensors.reads


@pytest.mark.parametrize(("keeping", "times"), [("one", 2), ("ahead", 2), ("resident", 1)])
def test_layers_are_read_once_a_pass_and_resident_ones_once(folder: Path, keeping: Keeping, times: int) -> None:
    stack, read = counted(folder, keeping)
    stack.run(TOKENS)
    stack.run(TOKENS)
    mixers = [name for i in stack.mixers for name in stack.checkpoint.names.mixer(i).values()]
    assert [read.count(name) for name in mixers] == [times] * len(mixers)


def test_reading_ahead_has_the_errors_of_reading(folder: Path, tmp_path: Path) -> None:
    tensors = read_tensors(folder)
    stack = opened(folder, "one")
    bad = stack.checkpoint.names.mixer(stack.mixers[-1])["D"]
    broken = make_copy(folder, tmp_path, tensors | {bad: tensors[bad] * torch.nan})
    with pytest.raises(CheckpointError, match=f"{bad} .* NaN"):
        opened(broken, "ahead").run(TOKENS)


def test_what_was_not_read_ahead_is_read_when_it_is_asked_for(folder: Path) -> None:
    tensors = open_checkpoint(folder).tensors
    first, second, *_ = sorted(tensors.home)
    ahead = ReadAhead(tensors, pinned=False)
    ahead.begin([first])
    assert ahead.load([first])[first].equal(tensors.load([first])[first])
    assert ahead.load([first, second])[second].equal(tensors.load([second])[second])


def test_a_weight_is_looked_at_for_nan_once_and_before_the_first_layer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def counting(tensor: Tensor) -> bool:
        looked.append(tensor.numel())
        return is_finite(tensor)

    monkeypatch.setattr("ghost.checkpoint.tensors.is_finite", counting)
    stack = opened(folder, "one")
    assert stack.checkpoint.digest
    weights = len(looked)
    assert weights == len({file for files in stack.checkpoint.names.homes.values() for file in files})
    stack.run(TOKENS)
    assert len(looked) == weights


def test_the_digest_of_a_model_with_nan_is_refused(folder: Path, tmp_path: Path) -> None:
    tensors = read_tensors(folder)
    last = opened(folder, "one").checkpoint.names.mixer(opened(folder, "one").mixers[-1])["A_log"]
    broken = make_copy(folder, tmp_path, tensors | {last: tensors[last] + torch.inf})
    with pytest.raises(CheckpointError, match=f"{last} .* infinite"):
        assert open_checkpoint(broken).digest


def make_copy(folder: Path, target: Path, tensors: dict[str, Tensor]) -> Path:
    target = target / "copy"
    target.mkdir()
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    write_shards(target, [tensors])
    return target
