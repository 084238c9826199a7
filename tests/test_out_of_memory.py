"""Out of memory ends in one line that names what takes less, whatever was computing; errors are the allocator's own."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ghost
from ghost.checkpoint.source import open_checkpoint
from ghost.errors import GhostError, MemoryLimitError
from ghost.out_of_memory import is_out_of_memory, out_of_memory_in_one_line
from ghost.ssd import ssd
from tasks.run.evaluation_process import ask_apart
from tests.models import prune, random_tokens
from tests.refusals import Refused
from tests.too_much import TOO_MUCH, take_too_much

pytest_plugins = ["tests.refusals"]

LINE = f"ghost: error: out of memory: {4 * TOO_MUCH} bytes could not be had; give a smaller "


@pytest.fixture
def greedy_mixers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghost.decoder_layer.scan", take_too_much)


def test_a_run(refused: Refused, greedy_mixers: None) -> None:
    assert refused().startswith(f"{LINE}--batch-tokens, --length or --window, or --dtype bfloat16, or a machine with")


def test_an_evaluation(command: Refused, originals: Path, greedy_mixers: None) -> None:
    found = command("eval", originals / "model", f"--text={originals / 'text.txt'}", "--contexts=16")
    assert found.startswith(f"{LINE}--batch-tokens, fewer or shorter --contexts")


def test_a_proof(command: Refused, originals: Path, greedy_mixers: None, tmp_path: Path) -> None:
    source, made = open_checkpoint(originals / "model"), tmp_path / "made"
    with pytest.MonkeyPatch.context() as modest:
        modest.setattr("ghost.decoder_layer.scan", ssd)
        prune(source, made)
    found = command("verify", made, "--against", source.folder, f"--text={originals / 'text.txt'}")
    assert found.startswith(f"{LINE}--tokens, or a machine with")


@pytest.mark.parametrize("recovery", ["lstsq", "fit"])
def test_recovery_in_the_library(recovery: Any, originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghost.recovery.pairs.scan", take_too_much)
    monkeypatch.setattr("ghost.recovery.fit.ssd", take_too_much)
    with pytest.raises(MemoryLimitError, match=r"^out of memory: \d+ bytes could not be had; give a smaller batch_tok"):
        ghost.prune(originals / "model", calibration=random_tokens(9, 16), recovery=recovery, round_to=4)


def test_the_process_of_an_evaluation() -> None:
    with pytest.raises(GhostError, match=r"^out of memory: .* --batch-tokens or --window, or --dtype bfloat16, or a m"):
        ask_apart("tests.out_of_memory_process", {}, 60, lambda done: None)


def test_what_filled_the_memory_is_let_go_of() -> None:
    gone: list[weakref.ref[Tensor]] = []

    def fill() -> None:
        held = torch.ones(3)
        gone.append(weakref.ref(held))
        take_too_much(held)

    with pytest.raises(MemoryLimitError), out_of_memory_in_one_line():
        fill()
    gc.collect()
    assert gone[0]() is None


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")]
)
def test_others_that_say_it(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 can't be multiplied"), ValueError("out of memory"), OSError()]
)
def test_what_is_something_else_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, out_of_memory_in_one_line():
        raise error
    assert raised.value is error
