"""The native state-spaces format, written: the same bits and the same meaning there and back, refusals in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ghost.checkpoint.source import open_checkpoint
from ghost.convert import convert
from ghost.errors import CheckpointError, GhostError, SettingsError
from ghost.evaluation.verify import verify
from tasks.convert import convert_folder
from tasks.run.open import open_run
from tests.by_hand import ByHand, small_settings
from tests.hybrids import make_hybrid
from tests.models import load_stock, make_model, make_native, open_stack, random_tokens, stack_logits
from tests.projected import projected_model

MAMBA_SSM = {"d_model", "d_intermediate", "n_layer", "vocab_size", "ssm_cfg", "attn_layer_idx", "attn_cfg", "rms_norm",
             "residual_in_fp32", "fused_add_norm", "pad_vocab_size_multiple", "tie_embeddings"}  # fmt: skip
"""MambaConfig's fields in mamba_ssm 2.3.2; any other is a TypeError there."""
TOKENS = random_tokens(1, 40)
VARIANTS: list[dict[str, Any]] = [
    {},
    {"n_groups": 2, "tie_word_embeddings": False, "use_bias": True, "max_shard_size": "20KB"},
    {"dtype": torch.bfloat16, "time_step_limit": (0.01, 0.5), "residual_in_fp32": False, "d_state": 24},
]
BEYOND = {"eos_token_id": 7, "max_position_embeddings": 4096, "note": "of the user's own"}
"""Fields of a config that a native one has no words for."""


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(folder)
    return checkpoint.tensors.load(checkpoint.tensors.home)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].equal(tensor), name


def plain(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module", params=VARIANTS, ids=["tied", "shards", "bf16"])
def there_and_back(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`, as `native`, and that as `hf`."""
    folder = tmp_path_factory.mktemp("formats")
    config = make_model(folder / "model", layers=2, **request.param) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | BEYOND))
    (folder / "model" / "ghost.json").write_text('{"ghost": {}}')
    convert(open_checkpoint(folder / "model"), folder / "native", "native")
    convert(open_checkpoint(folder / "native"), folder / "hf", "hf")
    return folder


def test_there_and_back_are_the_same_bits_and_the_same_config(there_and_back: Path) -> None:
    assert_same(tensors_of(there_and_back / "hf"), tensors_of(there_and_back / "model"))
    configs = [open_checkpoint(there_and_back / name).config.to_dict() for name in ("model", "hf")]
    model, hf = (config | {"_name_or_path": ""} for config in configs)
    assert hf == model
    assert {name: plain(there_and_back / "hf")[name] for name in BEYOND} == BEYOND
    carried = {"ghost.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert carried <= {path.name for path in (there_and_back / "hf").iterdir()}


def test_a_native_folder_is_what_mamba_ssm_loads(there_and_back: Path) -> None:
    """As MambaLMHeadModel does: every field an argument, one pickled file, its own names and no other."""
    native, source = there_and_back / "native", open_checkpoint(there_and_back / "model")
    config, layout = plain(native), source.mixer_layout
    assert config.keys() == MAMBA_SSM
    ssm = config["ssm_cfg"]
    assert (ssm["layer"], ssm["d_state"], ssm["ngroups"]) == ("Mamba2", layout.d_state, layout.n_groups)
    assert tuple(ssm.get("dt_limit", (0.0, float("inf")))) == layout.dt_limit
    pickled = torch.load(native / "pytorch_model.bin", weights_only=True)
    assert_same(pickled, load_file(native / "model.safetensors"))
    renamed = {"backbone.embedding.weight": "backbone.embeddings.weight"}
    names = {renamed.get(name, name) for name in pickled}
    assert names == {*source.names.shapes} and "backbone.embeddings.weight" not in pickled
    head = source.tensors.load([source.names.homes[source.names.source("lm_head.weight")][0]])
    assert pickled["lm_head.weight"].equal(*head.values())


def test_a_native_folder_computes_the_same(there_and_back: Path) -> None:
    model, native = (open_stack(there_and_back / name) for name in ("model", "native"))
    assert stack_logits(native, TOKENS).equal(stack_logits(model, TOKENS))
    assert native.checkpoint.config.eos_token_id == 7
    (there_and_back / "native" / "model.safetensors").rename(there_and_back / "aside")
    try:
        assert stack_logits(open_stack(there_and_back / "native"), TOKENS).equal(stack_logits(model, TOKENS))
    finally:
        (there_and_back / "aside").rename(there_and_back / "native" / "model.safetensors")


def test_a_folder_that_was_native_first_becomes_one_of_transformers(tmp_path: Path) -> None:
    made = make_native(tmp_path / "native", make_model(tmp_path / "model", layers=2))
    convert_folder(str(made), tmp_path / "hf", "hf")
    assert_same(tensors_of(tmp_path / "hf"), tensors_of(tmp_path / "model"))
    logits = [load_stock(tmp_path / name)(TOKENS.long()).logits for name in ("hf", "model")]
    torch.testing.assert_close(*logits)  # native folders have another chunk_size: 256, where none is said


def test_a_config_of_another_model_beside_a_native_one_is_refused(there_and_back: Path, tmp_path: Path) -> None:
    for path in (there_and_back / "native").iterdir():
        (tmp_path / path.name).hardlink_to(path)
    words = json.loads((tmp_path / "hf-config.json").read_text())
    (tmp_path / "hf-config.json").unlink()
    (tmp_path / "hf-config.json").write_text(json.dumps(words | {"chunk_size": 8}))
    with pytest.raises(CheckpointError, match=r"hf-config.json is of another model than config.json .* remove it"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("family", ["bamba", "nemotron_h"])
def test_a_hybrid_is_refused(family: str, tmp_path: Path) -> None:
    assert_refused(make_hybrid(tmp_path / "model", family), tmp_path, f"model_type is '{family}'")


def test_what_the_format_cannot_say_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", layers=2, layer_norm_epsilon=1e-6)
    assert_refused(model, tmp_path, "layer_norm_epsilon is 1e-06")
    projected_model().save_pretrained(tmp_path / "projected")
    assert_refused(tmp_path / "projected", tmp_path, "is projected")


def test_a_format_that_a_folder_is_in_already_is_refused(there_and_back: Path, tmp_path: Path) -> None:
    for name, form in (("model", "hf"), ("native", "native")):
        with pytest.raises(CheckpointError, match=f"is in {form} format already"):
            convert_folder(str(there_and_back / name), tmp_path / "out", form)  # type: ignore[arg-type]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(SettingsError, match="not empty; give a new folder"):
        convert_folder("demo", tmp_path / "taken", "native")


def test_a_run_ends_in_the_format_that_is_asked_for(tmp_path: Path) -> None:
    """The same tensors as the run that ends in transformers' has; what mamba_ssm loads lies in --out, and verifies."""
    model = tmp_path / "model"
    by_format = {}
    for form in ("hf", "native"):
        run = by_format[form] = ByHand(small_settings(tmp_path, format=form, out=str(tmp_path / form)))
        run.prune()
        run.export()
        run.evaluate()
        run.report()
        run.finish()
    assert by_format["native"].cached == {0, 1}, "layers are the same whatever the format"
    assert by_format["native"].keys != by_format["hf"].keys
    assert by_format["native"].evaluated.results == by_format["hf"].evaluated.results
    assert plain(tmp_path / "native").keys() == MAMBA_SSM
    convert_folder(str(tmp_path / "native"), tmp_path / "back", "hf")
    assert_same(tensors_of(tmp_path / "back"), tensors_of(tmp_path / "hf"))
    assert plain(tmp_path / "back") == plain(tmp_path / "hf")
    found = verify(tmp_path / "native", open_checkpoint(model), TOKENS[0])
    assert found["difference"] < found["limit"]


def test_the_same_checkpoint_has_the_same_bytes(tmp_path: Path) -> None:
    model = open_checkpoint(make_model(tmp_path / "model", layers=2))
    for name in ("one", "other"):
        convert(model, tmp_path / name, "native")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name


def test_a_run_that_the_format_cannot_end_in_is_refused_before_any_work(tmp_path: Path) -> None:
    small = small_settings(tmp_path)
    with pytest.raises(SettingsError, match="format native has no words for the projected checkpoint"):
        open_run(small.model_copy(update={"format": "native", "method": "balanced"}))
    hybrid = str(make_hybrid(tmp_path / "hybrid", "bamba"))
    with pytest.raises(CheckpointError, match="native format holds Mamba2 layers alone"):
        open_run(small.model_copy(update={"format": "native", "model": hybrid}))
    assert not (tmp_path / "store").exists()


def assert_refused(model: Path, folder: Path, why: str) -> None:
    with pytest.raises(GhostError) as refused:
        convert_folder(str(model), folder / "out", "native")
    assert why in str(refused.value) and "\n" not in str(refused.value) and not (folder / "out").exists()
