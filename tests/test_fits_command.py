"""`ghost fits`: what it prints, and what it refuses in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghost.serving.runtimes import RUNTIMES
from tests.hybrids import make_hybrid

pytest_plugins = ["tests.refusals"]

Execute = Callable[..., tuple[Any, str, str]]


def told(execute: Execute, *argv: str) -> str:
    """What it prints to people, without the bars of its tables."""
    code, out, err = execute(["fits", *argv])
    assert code == 0, err
    return " ".join(out.replace("│", " ").replace("┃", " ").split())


def test_of_the_demo_people_learn_what_a_smaller_state_is_worth(execute: Execute) -> None:
    out = told(execute, "demo", "--server", "vllm", "--memory", "1GiB", "--dtype", "bfloat16")
    assert "demo: mamba2, 6 layers, all with a Mamba2 state" in out
    assert "state of a layer: 8 heads of 64, times N = 128; 1 group" in out
    assert "128 (now) 96 64 32 16" in out and "state, bf16 786 kB 590 kB 393 kB 197 kB 98.3 kB" in out
    assert "vLLM 0.32.0 1,203" in out and " x6.9" in out
    assert "--max-num-seqs has to be raised" in out
    assert "Triton scan yes padded yes yes yes" in out
    assert "at N = 96 it computes as for 128, and only memory is saved" in out
    assert "weights: counted in the headers of its files." in out


def test_of_a_hybrid_people_learn_of_caches_and_of_who_does_not_know_it(execute: Execute, tmp_path: Path) -> None:
    folder = make_hybrid(tmp_path / "model", "bamba")
    (folder / "model.safetensors").unlink()
    out = told(execute, str(folder), "--keep", "8,4", "--context", "1024")
    assert "2 layers of attention beside it" in out and "sequences of 1,024 tokens" in out
    assert "cache a token" in out and "weights: reckoned from config.json." in out
    assert "vLLM 0.32.0 has not known bamba since 0.23" in out and "SGLang 0.5.23 does not know bamba" in out
    assert "llama.cpp 0.5.0 computes bamba otherwise than transformers, as tried" in out
    other = told(execute, str(make_hybrid(tmp_path / "other", "nemotron_h")), "--keep", "8,4", "--context", "1024")
    assert "llama.cpp 0.5.0, read known known known" in other and "SGLang 0.5.23, read known known known" in other


def test_what_would_run_without_its_head_is_not_recommended(execute: Execute) -> None:
    assert "SGLang 0.5.23 takes a pure mamba2 only as Codestral's folder has it" in told(execute, "demo")


def test_json_has_every_size_of_every_runtime(execute: Execute, tmp_path: Path) -> None:
    folder = make_hybrid(tmp_path / "model", "zamba2")
    code, out, _ = execute(["fits", str(folder), "--keep", "8", "--json"])
    found = json.loads(out)
    assert code == 0 and [each["runtime"] for each in found["runtimes"]] == [*RUNTIMES]
    assert (found["d_state"], found["mixers"], found["attention_layers"], found["counted"]) == (16, 6, 3, True)
    vllm, transformers = found["runtimes"][0], found["runtimes"][-1]
    assert [size["d_state"] for size in vllm["sizes"]] == [16, 8] and vllm["sizes"][0]["blocks"]["tokens"] % 16 == 0
    assert [size["state"] for size in transformers["sizes"]] == [6 * 64 * 16 * 4, 6 * 64 * 8 * 4]
    assert not found["runtimes"][2]["sizes"] and found["runtimes"][2]["refused"] == "does not know zamba2"
    assert vllm["kernels"][0]["otherwise"] == {"16": "", "8": "it computes as for 16, and only memory is saved"}


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--keep", "128"], "keep: 128 of d_state 128 drops nothing or leaves nothing; give 1 to 127"),
     (["--keep", "0"], "keep: 0 of d_state 128"), (["--keep", "64,half"], "keep: '64,half' is no list of numbers"),
     (["--server", "tgi"], "server: 'tgi' is unknown; give one of vllm, sglang"),
     (["--memory", "24"], "memory: '24' is no amount of memory; give a number and its unit, such as 24GiB"),
     (["--dtype", "int8"], "dtype: 'int8' is no precision to serve in; give auto, bfloat16")],
    ids=str,
)  # fmt: skip
def test_a_bad_value_is_refused_in_one_line(execute: Execute, options: list[str], said: str) -> None:
    code, out, err = execute(["fits", "demo", *options])
    assert code == 2 and not out and err.startswith(f"ghost: error: {said}") and err.count("\n") == 1


@pytest.mark.parametrize("config", ['{"model_type": "llama"}', "{", "[]", '{"model_type": "mamba2", "state_size": 0}'])
def test_another_config_is_refused_in_one_line(execute: Execute, tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    code, out, err = execute(["fits", str(tmp_path)])
    assert code == 2 and not out and err.startswith("ghost: error: ") and err.count("\n") == 1
