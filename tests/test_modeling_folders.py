"""Folders of projected models: saved, sharded, loaded by the registered classes or from the file that they carry."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import ghost.modeling as modeling
from ghost.modeling import MODEL_TYPE, SOURCE, GhostMamba2Config, GhostMamba2ForCausalLM, auto_map
from tests.models import make_tokenizer, random_tokens
from tests.projected import N, R, projected_model

REMOTE = """
import sys, torch
from transformers import AutoModel, AutoModelForCausalLM
folder, out = sys.argv[1:]
tokens, found = torch.load(out + ".in"), {}
for dtype in (torch.float32, torch.bfloat16):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=True).eval()
    found[str(dtype)] = model(tokens, use_cache=False).logits.detach()
found["generated"] = model.generate(tokens[:1], attention_mask=torch.ones_like(tokens[:1]), max_new_tokens=5)
found["modules"] = [type(model).__module__, type(model.config).__module__]
found["ghost"] = [name for name in sys.modules if name.partition(".")[0] == "ghost"]
found["base"] = type(AutoModel.from_pretrained(folder, trust_remote_code=True)).__name__
model.save_pretrained(out + ".again")
torch.save(found, out)
"""
HARNESS = """
import sys
from lm_eval.models.huggingface import HFLM
from lm_eval.api.instance import Instance
model = HFLM(pretrained=sys.argv[1], trust_remote_code=True, max_length=64, device="cpu", dtype="float32")
texts = [("The state", " of a model"), ("A token", " is read")]
requests = [Instance("loglikelihood", {}, text, i) for i, text in enumerate(texts)]
print(type(model.model).__module__, [value for value, _ in model.loglikelihood(requests, disable_tqdm=True)])
"""


def tokens() -> Tensor:
    return random_tokens(2, 37).long()


@torch.inference_mode()
def logits(model: Any) -> Tensor:
    return model.eval()(tokens(), use_cache=False).logits


def elsewhere(program: str, *arguments: str | Path, modules: Path) -> str:
    """What `program` prints in a process that can't see this repository, its remote code cached under `modules`."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_MODULES_CACHE": str(modules)}
    blocked = "import sys; sys.modules['ghost'] = None; del sys\n"  # where an editable install would find it
    command = [sys.executable, "-c", blocked + program, *map(str, arguments)]
    done = subprocess.run(command, cwd=modules, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def load(folder: Path, **given: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **given)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export: weights, config.json and the modeling file."""
    projected_model(2).save_pretrained(tmp_path / "model")
    make_tokenizer(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_says_how_to_load_itself(folder: Path):
    raw = json.loads((folder / "config.json").read_text())
    assert raw["model_type"] == MODEL_TYPE == "ghost_mamba2"
    assert (raw["state_size"], raw["projected_from"]) == (R, N)
    assert raw["architectures"] == ["GhostMamba2ForCausalLM"]
    assert raw["auto_map"] == auto_map() == {
        "AutoConfig": "modeling_ghost_mamba2.GhostMamba2Config",
        "AutoModel": "modeling_ghost_mamba2.GhostMamba2Model",
        "AutoModelForCausalLM": "modeling_ghost_mamba2.GhostMamba2ForCausalLM",
    }  # fmt: skip
    assert (folder / "modeling_ghost_mamba2.py").read_bytes() == SOURCE.read_bytes()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_is_the_same_model(tmp_path: Path, tied: bool, shard: str, dtype: torch.dtype):
    model = projected_model(2, tie_word_embeddings=tied, rescale_prenorm_residual=True).to(dtype)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "20KB")
    loaded, info = load(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert type(loaded) is GhostMamba2ForCausalLM
    assert (loaded.lm_head.weight is loaded.backbone.embeddings.weight) == tied
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(logits(loaded), logits(model))


def test_the_base_model_loads_with_nothing_missing(folder: Path):
    given: Any = {"output_loading_info": True}
    base, info = AutoModel.from_pretrained(folder, **given)  # pyright: ignore[reportGeneralTypeIssues]
    assert not info["missing_keys"]
    with torch.inference_mode():
        hidden_blm = base.eval()(tokens(), use_cache=False).last_hidden_state
        found = hidden_blm @ base.embeddings.weight.T
    torch.testing.assert_close(found, logits(projected_model(2)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_recurrence_keeps_the_parameters_of_the_file_in_any_dtype(folder: Path, dtype: torch.dtype):
    stored, loaded = load_file(folder / "model.safetensors"), load(folder, dtype=dtype).state_dict()
    for name, tensor in loaded.items():
        kept = name.endswith((".A_log", ".dt_bias", ".D"))
        assert tensor.dtype == (torch.float32 if kept else dtype), name
        assert not kept or tensor.equal(stored[name])


def test_a_folder_without_a_projection_says_so_and_begins_with_the_first_channels(folder: Path):
    weights, name = load_file(folder / "model.safetensors"), "backbone.layers.1.mixer.B_proj"
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    loaded, info = load(folder, output_loading_info=True)
    assert info["missing_keys"] == {name}
    assert torch.equal(loaded.state_dict()[name], torch.eye(R, N).expand(2, R, N))


def test_registering_again_changes_nothing_and_the_registered_classes_win_over_the_folders(folder: Path):
    modeling._register()
    assert type(AutoConfig.from_pretrained(folder)) is GhostMamba2Config
    trusted = load(folder, trust_remote_code=True)
    assert type(trusted) is GhostMamba2ForCausalLM
    assert torch.equal(logits(trusted), logits(load(folder)))


def test_from_its_own_file_where_ghost_is_not_installed_it_is_the_same_model(folder: Path, tmp_path: Path):
    out, modules = tmp_path / "found", tmp_path / "modules"
    modules.mkdir()
    torch.save(tokens(), f"{out}.in")
    elsewhere(REMOTE, folder, out, modules=modules)
    found = torch.load(out)
    assert found["ghost"] == ["ghost"]  # the blocked name alone
    assert all(name.startswith("transformers_modules.") for name in found["modules"])
    assert found["base"] == "GhostMamba2Model"
    for dtype in (torch.float32, torch.bfloat16):
        model = load(folder, dtype=dtype).eval()
        assert torch.equal(found[str(dtype)], logits(model))
    given = {"attention_mask": torch.ones_like(tokens()[:1]), "max_new_tokens": 5}
    assert torch.equal(found["generated"], model.generate(tokens()[:1], **given))
    again = Path(f"{out}.again")
    assert (again / SOURCE.name).read_bytes() == SOURCE.read_bytes()
    assert torch.equal(logits(load(again)), logits(model))


def test_lm_eval_loads_a_folder_that_it_may_trust(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "modules").mkdir()
    printed = elsewhere(HARNESS, tmp_path / "copy", modules=tmp_path / "modules")
    module, _, values = printed.strip().splitlines()[-1].partition(" ")
    assert module.startswith("transformers_modules.")
    assert json.loads(values) == [pytest.approx(value, rel=1e-5) for value in _loglikelihoods(folder)]


@torch.inference_mode()
def _loglikelihoods(folder: Path) -> list[float]:
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), load(folder).eval()
    found = []
    for context, continuation in (("The state", " of a model"), ("A token", " is read")):
        ids, start = tokenizer(context + continuation)["input_ids"], len(tokenizer(context)["input_ids"])
        scores = model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
        found.append(sum(float(scores[i - 1, ids[i]]) for i in range(start, len(ids))))
    return found
