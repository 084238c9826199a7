"""Model folders that claim sizes they don't have: refused in one line, at once, without the memory that they claim."""

import io
import json
import shutil
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ghost.checkpoint.source import open_checkpoint
from ghost.checkpoint.tensors import find_tensors
from tests.costs import MEGABYTE, refusal

pytest_plugins = ["tests.refusals"]

CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"


@pytest.fixture
def model(originals: Path, tmp_path: Path) -> Path:
    return shutil.copytree(originals / "model", tmp_path / "model")


def header(fields: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    encoded = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def tensor(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}}


HEADERS = {
    "longer than the file": header({}, length=10**6),
    "of a terabyte": header({}, length=10**12),
    "of all bits": header({}, length=2**64 - 1),
    "over 100 MB": header(b" " * 100_000_001),
    "tensor beyond the file": header(tensor([4], 0, 16), b"1234"),
    "tensor of a terabyte": header(tensor([2**38], 0, 2**40)),
    "product of the shape overflows": header(tensor([2**32, 2**32], 0, 0)),
    "bytes of the shape overflow": header(tensor([2**62, 4], 0, 0)),
    "end before start": header(tensor([1], 4, 0), b"1234"),
    "negative size": header(tensor([-1], 0, 4), b"1234"),
    "overlap": header(tensor([1], 0, 4) | {"b": tensor([1], 0, 4)["a"]}, b"1234"),
    "hole": header(tensor([1], 4, 8), b"12345678"),
    "more bytes than tensors": header(tensor([1], 0, 4), b"12345678"),
    "nested without end": header(b"[" * 10**6),
}


@pytest.mark.parametrize("data", HEADERS.values(), ids=HEADERS)
def test_a_safetensors_header_that_lies_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(data)
    assert "model.safetensors is truncated or damaged" in refusal(find_tensors, tmp_path)


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def deflated(data: bytes, padding: int) -> bytes:
    """The archive again, compressed, its pickle followed by zeros."""
    source, buffer = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in source.infolist():
            more = bytes(padding) if entry.filename.endswith(".pkl") else b""
            archive.writestr(entry.filename, source.read(entry) + more)
    return buffer.getvalue()


PICKLES = {
    "a bytearray": (lambda: saved({"a": Call(bytearray, 500 * MEGABYTE)}), "it holds more than tensors"),
    "an empty tensor": (lambda: saved({"a": Call(torch.Tensor, 10**12)}), "it holds more than tensors"),
    "a sparse tensor": (lambda: saved({"a": torch.eye(2).to_sparse()}), "it holds more than tensors"),
    "a tensor without data": (lambda: saved({"a": torch.empty(10**12, device="meta")}), "it holds more than tensors"),
    "one element, a terabyte": (
        lambda: saved({"a": torch.zeros(1).expand(2**38)}),
        "tensor a claims more elements than are stored",
    ),
    "a compressed archive": (lambda: deflated(saved({"a": torch.zeros(4)}), 100 * MEGABYTE), "it is compressed"),
}


@pytest.mark.parametrize(("make", "reason"), PICKLES.values(), ids=PICKLES)
def test_a_small_pickle_of_something_large_is_refused(make: Callable[[], bytes], reason: str, tmp_path: Path) -> None:
    data = make()
    assert len(data) < MEGABYTE
    (tmp_path / PICKLE).write_bytes(data)
    line = refusal(find_tensors, tmp_path)
    assert f"{PICKLE} can't be loaded safely ({reason}" in line and "convert it to safetensors" in line


def test_parameters_and_ordered_tables_are_read_from_pickles(originals: Path, tmp_path: Path) -> None:
    tensors = load_file(originals / "model" / WEIGHTS)
    torch.save(OrderedDict(tensors), tmp_path / PICKLE)
    found = find_tensors(tmp_path)
    assert found.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}, tmp_path / PICKLE)
    assert find_tensors(tmp_path).shapes == found.shapes


CONFIGS: dict[str, dict[str, Any]] = {
    "layers": {"num_hidden_layers": 2 * 10**7},
    "more layers than fit 64 bits": {"num_hidden_layers": 10**30},
    "labels": {"num_labels": 10**7},
    "chunk": {"chunk_size": 10**12},
    "width": {"hidden_size": 10**12},
    "consistent width": {"hidden_size": 10**12, "num_heads": 10**11, "head_dim": 20},
    "vocabulary": {"vocab_size": 10**12},
    "state": {"state_size": 2**62},
    "groups": {"n_groups": 10**12},
    "convolution": {"conv_kernel": 10**18},
    "infinite state": {"state_size": float("inf")},
}
NATIVE: dict[str, dict[str, Any]] = {
    "layers": {"n_layer": 2 * 10**7},
    "width": {"d_model": 10**12},
    "vocabulary": {"vocab_size": 10**12},
    "chunk": {"ssm_cfg": {"layer": "Mamba2", "chunk_size": 10**12}},
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_a_config_of_absurd_sizes_is_refused(changes: dict[str, Any], model: Path) -> None:
    fields = json.loads((model / CONFIG).read_text())
    (model / CONFIG).write_text(json.dumps(fields | changes))
    assert refusal(open_checkpoint, model)


@pytest.mark.parametrize("changes", NATIVE.values(), ids=NATIVE)
def test_a_native_config_of_absurd_sizes_is_refused(changes: dict[str, Any], originals: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(originals / "native", tmp_path / "native")
    fields = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(fields | changes))
    assert refusal(open_checkpoint, folder)


HYBRIDS: dict[str, dict[str, Any]] = {
    "a pattern": {"model_type": "nemotron_h", "hybrid_override_pattern": "M" * 10**6},
    "layers by name": {"model_type": "nemotron_h", "layers_block_type": ["mlp"] * 10**5},
    "attention": {"model_type": "bamba", "attn_layer_indices": list(range(10**5))},
    "shared blocks": {"model_type": "zamba2", "hybrid_layer_ids": list(range(10**5))},
}


@pytest.mark.parametrize("raw", HYBRIDS.values(), ids=HYBRIDS)
def test_a_hybrid_that_lists_an_absurd_number_of_layers_is_refused(raw: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(json.dumps(raw))
    assert "layers, the most is 10000; mend config.json" in refusal(open_checkpoint, tmp_path)


@pytest.mark.parametrize("name", [CONFIG, f"{WEIGHTS}.index.json"])
def test_a_json_file_of_a_gigabyte_is_not_read(name: str, model: Path) -> None:
    (model / WEIGHTS).unlink()
    with (model / name).open("wb") as file:
        file.truncate(1 << 30)
    assert "it has 1073741824 bytes, more than 100000000" in refusal(open_checkpoint, model)
