"""What a checkpoint takes in memory, by its headers: held against what the stack brings there."""

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ghost
from ghost import config
from ghost.checkpoint import sizes
from ghost.checkpoint.sizes import check_memory, largest_layer, layers, parameters
from ghost.checkpoint.source import open_checkpoint
from ghost.config import free_bytes
from ghost.decoder_layer import DecoderLayer
from ghost.errors import SettingsError
from ghost.mixer import RECURRENT
from ghost.stack import Stack
from tests.hybrids import make_hybrid
from tests.models import load_stock, make_native, random_tokens, text

pytest_plugins = ["tests.refusals"]

CPU = torch.device("cpu")
TRIED = {
    "mamba2-8-groups": torch.bfloat16,
    "zamba2-2-blocks-adapters": torch.bfloat16,
    "bamba-biases": torch.float32,
    "falcon_h1": torch.bfloat16,
    "granitemoehybrid": torch.bfloat16,
    "nemotron_h": torch.float32,
}
"""bf16 but where a family keeps some small tensor in fp32, which is not counted."""


def held(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors; what several of them share counts once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def brought(layer: DecoderLayer) -> int:
    """Bytes of what came from the files."""
    module = layer._module
    made_here = {id(part._buffers[name]) for part in module.modules() for name in part._non_persistent_buffers_set}
    buffers = (buffer for buffer in module.buffers() if id(buffer) not in made_here)
    return held([*module.parameters(), *buffers, *layer.mixer.values()])


@pytest.mark.parametrize(("variant", "dtype"), TRIED.items(), ids=TRIED)
def test_a_layer_takes_what_is_counted(variant: str, dtype: torch.dtype, tmp_path: Path) -> None:
    source = open_checkpoint(make_hybrid(tmp_path / "model", variant))
    stack = Stack(source, CPU, dtype)
    counted = [part.bytes for part in layers(source, dtype)]
    assert counted == [brought(stack.layer(i)) for i in range(source.layers)]
    largest = largest_layer(source, dtype)
    assert largest.bytes == max(counted) and largest.name == f"layer {counted.index(max(counted))}"


@pytest.mark.parametrize("variant", ["zamba2-2-blocks-rope", "granitemoehybrid", "nemotron_h"])
def test_parameters_are_those_of_the_stock_model(variant: str, tmp_path: Path) -> None:
    folder = make_hybrid(tmp_path / "model", variant)
    stock = load_stock(folder)
    saved = (tensor for name, tensor in stock.state_dict().items() if name not in stock.all_tied_weights_keys)
    assert parameters(open_checkpoint(folder)) == sum(math.prod(tensor.shape) for tensor in saved)


def test_a_tied_head_that_is_in_the_files_counts_once(originals: Path, tmp_path: Path) -> None:
    native = open_checkpoint(make_native(tmp_path / "native", originals / "model"))
    assert parameters(native) == parameters(open_checkpoint(originals / "model")) == native.parameters


def test_what_has_to_be_converted_or_stacked_is_read_beside_it(tmp_path: Path) -> None:
    source = open_checkpoint(make_hybrid(tmp_path / "model", "nemotron_h", dtype=torch.bfloat16))
    mixer, experts, *_ = layers(source, torch.bfloat16)
    stacked = [shape for name, shape in source.names.shapes.items() if "layers.1." in name and len(shape) == 3]
    correction = 4 * 4  # the router's, fp32 in the files
    assert mixer.file_bytes == 0 and experts.file_bytes - correction == 2 * sum(map(math.prod, stacked)) > 0
    wide = layers(source, torch.float32)[0]
    small = sum(tensor.nbytes for name, tensor in source.mixer(0).items() if name in RECURRENT)
    assert wide.bytes - small == 2 * wide.file_bytes


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose experts are more than its embeddings, with a text."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "text.txt").write_text(text(400))
    make_hybrid(folder / "model", "granitemoehybrid", intermediate_size=64)
    return folder


def test_a_part_larger_than_the_memory_that_is_there_is_refused(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_checkpoint(wide / "model")
    largest = largest_layer(source, torch.float32)
    monkeypatch.setattr(sizes, "free_bytes", lambda device: largest.bytes)
    check_memory(source, CPU, torch.float32)
    monkeypatch.setattr(sizes, "free_bytes", lambda device: largest.bytes - 1)
    told = f"{largest.name} of {wide / 'model'} takes 0.000144 GB in float32, and 0.000144 GB are free on cpu; "
    with pytest.raises(SettingsError, match=f"^{told}give --dtype bfloat16, which takes half of it, another --device"):
        check_memory(source, CPU, torch.float32)
    check_memory(source, CPU, torch.bfloat16)
    monkeypatch.setattr(sizes, "free_bytes", lambda device: 0)
    with pytest.raises(SettingsError, match=r"in bfloat16, and 0 GB are free on cuda:0; give --device cpu, or a machi"):
        check_memory(source, torch.device("cuda:0"), torch.bfloat16)


def test_each_of_several_processes_needs_room_of_its_own(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_checkpoint(wide / "model")
    largest = largest_layer(source, torch.bfloat16)
    monkeypatch.setattr(sizes, "free_bytes", lambda device: 2 * largest.bytes)
    check_memory(source, CPU, torch.bfloat16, processes=2)
    check_memory(source, torch.device("cuda:0"), torch.bfloat16, processes=3)  # each has a GPU
    told = r"GB in bfloat16 in each of 3 processes, and .* GB are free on cpu; give fewer --processes, another --device"
    with pytest.raises(SettingsError, match=told):
        check_memory(source, CPU, torch.bfloat16, processes=3)


def test_embeddings_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "free_bytes", lambda device: 3_000_000)
    with pytest.raises(SettingsError, match=r"^the head of .* takes 0\.0042 GB in float32, and 0\.003 GB are free"):
        check_memory(open_checkpoint("demo"), CPU, torch.float32)


def test_runs_and_the_library_refuse_before_any_work(
    wide: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "free_bytes", lambda device: 1000)
    assert re.search(r"layer \d of .*/model takes .* GB in float32, and 1e-06 GB are free on", refused(wide / "model"))
    with pytest.raises(SettingsError, match=r"layer \d of .* give --dtype bfloat16"):
        ghost.prune(wide / "model", calibration=random_tokens(4, 32))
    with pytest.raises(SettingsError, match=r"layer \d of .* give --dtype bfloat16"):
        ghost.perplexity(wide / "model", random_tokens(1, 400)[0], window=64)


def test_a_container_leaves_what_its_limit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CONTROL_GROUP", tmp_path)
    there = free_bytes(CPU)
    assert there > 1000
    for name, value in (("max", "900"), ("current", "500"), ("stat", "anon 400\ninactive_file 50\n")):
        (tmp_path / f"memory.{name}").write_text(value)
    assert free_bytes(CPU) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) > 1000
