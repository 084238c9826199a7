"""`ghost doctor MODEL`: what a run would find and do, from config and headers, and the same refusals as a run's."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flows.doctor_command import model_rows
from flows.units import in_bytes, in_time
from ghost.checkpoint import sizes
from ghost.checkpoint.source import open_checkpoint
from ghost.settings import RunSettings
from tasks.doctor import estimate
from tasks.doctor.model import examine_model
from tests.hybrids import make_hybrid

pytest_plugins = ["tests.refusals"]

Execute = Callable[..., tuple[Any, str, str]]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "TRIAL_SECONDS", 0.0)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two mixers of 32 channels in five layers; every weight is NaN, so that whoever reads one is refused."""
    folder = make_hybrid(tmp_path_factory.mktemp("doctor") / "hybrid", "nemotron_h", ssm_state_size=32)
    weights = folder / "model.safetensors"
    save_file({name: torch.full_like(t, torch.nan) for name, t in load_file(weights).items()}, weights)
    return folder


def test_of_the_demo_it_says_what_a_run_says() -> None:
    found = examine_model("demo")
    assert (found["family"], found["layers"], found["mixers"], found["d_state"]) == ("mamba2", 6, 6, 128)
    assert found["state_bytes"] == {"dense": 1_572_864, "pruned": 786_432} and found["pruned_d_state"] == 64
    assert found["parameters"] == 3_841_424 and not any(found["methods"].values()) and not found["tokenizer"]
    assert found["walk_seconds"] > 0 and found["evaluation_seconds_per_token"] > 0


def test_of_a_hybrid_it_reads_headers_alone(hybrid: Path) -> None:
    found = examine_model(str(hybrid))
    assert (found["layers"], found["mixers"], found["n_groups"], found["nheads"]) == (5, 2, 8, 8)
    assert found["layer_kinds"] == {"Mamba2": 2, "experts": 1, "attention": 1, "MLP": 1}
    assert found["state_bytes"] == {"dense": 2 * 64 * 32 * 4, "pruned": 2 * 64 * 16 * 4}
    assert found["conv_state_bytes"] == {"dense": 2 * (64 + 512) * 4 * 4, "pruned": 2 * (64 + 256) * 4 * 4}
    assert found["largest_layer"] == "layer 0"
    assert [name for name, why in found["methods"].items() if why] == ["balanced"]


def test_it_tells_people_in_rows(hybrid: Path) -> None:
    rows = dict(model_rows(examine_model(str(hybrid))))
    assert rows["layers"] == "5 layers, 2 with a Mamba2 state: 2 Mamba2, 1 experts, 1 attention, 1 MLP"
    assert rows["mixers"] == "d_state 32 in 8 groups, 8 heads of 8, d_model 32"
    assert rows["state"].startswith("16.4 kB a sequence, in fp32; 8.19 kB at sparsity 0.5, with d_state 16\nbeside it")
    assert "attention keeps its caches as they are" in rows["state"]
    assert rows["methods"].startswith("all but balanced\nmethod balanced makes a projected checkpoint")
    assert "free on cpu, in float32: walk" in rows["memory"] and "an estimate: one mixer of this shape" in rows["time"]


def test_on_the_command_line_a_line_each_or_one_object(hybrid: Path, execute: Execute) -> None:
    code, out, err = execute(["doctor", str(hybrid)])
    assert code == 0 and "largest layer: layer 0: " in out, err
    assert [line.partition(":")[0] for line in out.splitlines()] == [name for name, _ in model_rows_of(hybrid)]
    code, out, _ = execute(["doctor", str(hybrid), "--json"])
    assert code == 0 and json.loads(out)["model"]["family"] == "nemotron_h" and out.count("\n") == 1


def model_rows_of(folder: Path) -> list[tuple[str, str]]:
    return model_rows(examine_model(str(folder)))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def of_another_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "jamba"}')


def without_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def with_a_small_state(folder: Path) -> None:
    shutil.rmtree(folder)
    make_hybrid(folder, "bamba", mamba_d_state=8)


@pytest.mark.parametrize("spoil", [no_config, of_another_kind, without_a_shard, with_a_small_state])
def test_a_folder_is_refused_in_the_line_of_a_run(
    spoil: Callable[[Path], None],
    hybrid: Path,
    tmp_path: Path,
    command: Callable[..., str],
    refused: Callable[..., str],
) -> None:
    folder = shutil.copytree(hybrid, tmp_path / "model")
    spoil(folder)
    assert command("doctor", folder) == refused(folder, round_to=16)


def test_what_does_not_fit_is_told_as_a_run_refuses_it(
    hybrid: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "free_bytes", lambda device: 100)
    code, out, _ = execute(["doctor", str(hybrid)])
    assert code == 1 and "memory: too little: layer 0 of " in out and "give --dtype bfloat16" in out
    assert "time: not tried" in out and "walk_seconds" not in out


def test_a_native_folder_needs_a_tokenizer(originals: Path) -> None:
    rows = dict(model_rows(examine_model(str(originals / "native"))))
    assert rows["tokenizer"].endswith("give one with --tokenizer") and rows["methods"] == "all 13"


def test_more_text_and_larger_parts_take_more() -> None:
    source = open_checkpoint("demo")
    few, many = (RunSettings.make(samples=samples) for samples in (16, 512))
    small, large = (estimate.memory(source, settings, CPU, torch.float32) for settings in (few, many))
    tokens = (512 - 16) * few.length
    held = 4 * (2 * 512 + 2 * 128 + 8 + 512 + 2 * 128 + 256)  # z, x, B, C, dt; x, B, C after the convolution; stream
    assert large["walk"] - small["walk"] == tokens * held and large["evaluation"] == small["evaluation"]
    assert large["total"] >= large["process"] + large["walk"]


@pytest.mark.parametrize("variant", ["nemotron_h", "granitemoehybrid"])
def test_a_token_goes_through_the_chosen_experts_alone(variant: str, tmp_path: Path) -> None:
    folder = make_hybrid(tmp_path / "model", variant, num_experts_per_tok=1)
    one, both = open_checkpoint(folder), open_checkpoint(make_hybrid(tmp_path / "two", variant, num_experts_per_tok=2))
    experts = sum(size for size, _, share in estimate._others(one) if share < 1)
    through = [sum(size * share for size, _, share in estimate._others(source)) for source in (one, both)]
    assert experts > 0 and through[1] - through[0] == pytest.approx(experts / 4)


@pytest.mark.parametrize(
    ("size", "told"), [(999, "999 bytes"), (1_234_567, "1.23 MB"), (1e13, "10 TB")], ids=["bytes", "MB", "TB"]
)
def test_bytes_are_told_in_their_unit(size: float, told: str) -> None:
    assert in_bytes(size) == told


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.1, "1 seconds"), (80, "80 seconds"), (600, "10 minutes"), (9000, "2.5 hours")]
)
def test_seconds_are_told_in_their_unit(seconds: float, told: str) -> None:
    assert in_time(seconds) == told
