"""llama.cpp's converter, as `ghost gguf --converter` runs it: what it is given, in whose words, and how it may fail.

A stub takes the converter's place, and writes down what it was given; bench/runtimes runs the real one.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.gguf import write_gguf
from tests.hybrids import make_hybrid, read_tensors

pytest_plugins = ["tests.refusals"]

MAIN = """
import json, sys
from pathlib import Path
from conversion.base import TextModel
def main():
    options, folder = dict(zip(sys.argv[1:-1:2], sys.argv[2:-1:2])), Path(sys.argv[-1])
    found = {"argv": sys.argv[1:-1], "config": json.loads((folder / "config.json").read_text()),
             "files": sorted(path.name for path in folder.iterdir()),
             "bytes": (folder / "model.safetensors").stat().st_size, "pre": TextModel().get_vocab_base_pre(None)}
    Path(options["--outfile"]).write_text(json.dumps(found))
"""
UNKNOWN = """
class TextModel:
    def get_vocab_base_pre(self, tokenizer):
        raise NotImplementedError("BPE pre-tokenizer was not recognized")
"""
KNOWN = """
class TextModel:
    def get_vocab_base_pre(self, tokenizer):
        return "falcon-h1"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[[str], Path]:
    def make(base: str) -> Path:
        (tmp_path / "llama.cpp" / "conversion").mkdir(parents=True)
        (tmp_path / "llama.cpp" / "convert_hf_to_gguf.py").write_text(MAIN)
        (tmp_path / "llama.cpp" / "conversion" / "base.py").write_text(base)
        return tmp_path / "llama.cpp"

    return make


def given(model: Path, checkout: Path) -> dict[str, Any]:
    """What the converter was given."""
    out = model.parent / "x.gguf"
    progress = lambda done, total: None  # noqa: E731
    write_gguf(str(model), out, "q8_0", tokenizer=None, converter=checkout, progress=progress)
    return json.loads(out.read_text())


def test_it_sees_the_weights_and_the_hubs_words_for_layers(checkout: Any, tmp_path: Path) -> None:
    model = make_hybrid(tmp_path / "model", "granitemoehybrid")
    found = given(model, checkout(UNKNOWN))
    assert found["config"]["layer_types"] == ["mamba", "attention", "mamba", "mamba"]
    assert "model_type" not in found["config"] and found["config"]["num_local_experts"] == 4
    assert found["config"]["architectures"] == ["GraniteMoeHybridForCausalLM"]
    assert found["bytes"] == (model / "model.safetensors").stat().st_size and read_tensors(model)
    assert found["files"] == sorted(path.name for path in model.iterdir())
    assert found["argv"][2:] == ["--outtype", "q8_0", "--model-name", "model"]
    assert found["pre"] == "gpt-2"  # the tokenizer was trained at home, and its pattern is GPT-2's


def test_a_pre_tokenizer_that_it_knows_stays_its_own(checkout: Any, tmp_path: Path) -> None:
    model = make_hybrid(tmp_path / "model", "falcon_h1")
    found = given(model, checkout(KNOWN))
    assert found["pre"] == "falcon-h1" and found["config"]["mamba_d_ssm"] == 48


@pytest.mark.parametrize(("pattern", "experts"), [("M-*-M", False), ("ME*EM", True)])
def test_a_nemotron_h_is_spelled_by_its_pattern(checkout: Any, tmp_path: Path, pattern: str, experts: bool) -> None:
    found = given(make_hybrid(tmp_path / "model", "nemotron_h", hybrid_override_pattern=pattern), checkout(UNKNOWN))
    config = found["config"]
    assert (config["hybrid_override_pattern"], config["num_hidden_layers"]) == (pattern, 5)
    assert ("num_experts_per_tok" in config) == ("n_routed_experts" in config) == experts
    assert "layers_block_type" not in config and found["argv"][-1] == "--no-mtp"


def test_a_dense_granite_has_the_width_of_its_one_mlp(checkout: Any, tmp_path: Path) -> None:
    config = given(make_hybrid(tmp_path / "model", "granitemoehybrid-dense"), checkout(UNKNOWN))["config"]
    assert config["intermediate_size"] == 24 and "num_local_experts" not in config


def test_its_own_last_line_says_why_it_gave_up(checkout: Any, command: Any, tmp_path: Path) -> None:
    model, llama = make_hybrid(tmp_path / "model", "falcon_h1"), checkout(KNOWN)
    (llama / "convert_hf_to_gguf.py").write_text("def main():\n    raise ValueError('Can not map tensor x')\n")
    line = command("gguf", model, tmp_path / "x.gguf", f"--converter={llama}")
    assert f"llama.cpp's converter at {llama} gave up on {model} (ValueError: Can not map tensor x)" in line
    assert not list(tmp_path.glob("*x.gguf*"))
