"""The method `balanced` from walk to checkpoint: projected mixers stored, resumed, exported, verified, in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import ghost
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.errors import CheckpointError, SettingsError, VerificationError
from ghost.evaluation.verify import verify
from ghost.export import export
from ghost.mixer import PROJECTIONS
from ghost.modeling import SOURCE, GhostMamba2ForCausalLM
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.walk import LayerResult, Walk, walk
from tasks.run.export import provenance
from tests.by_hand import small_settings, through_layers
from tests.chaos import contents
from tests.models import load_stock, make_model, open_stack, random_tokens, stack_logits, stock_logits

LAYERS, D_STATE, KEPT = 3, 16, 8
TOKENS = random_tokens(8, 24)
SETTINGS = RunSettings.make(method="balanced", round_to=4)


@pytest.fixture(scope="module", params=[1, 2], ids=["one group", "two groups"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    folder = tmp_path_factory.mktemp("model")
    return open_stack(make_model(folder, layers=LAYERS, d_state=D_STATE, n_groups=request.param))


@pytest.fixture(scope="module")
def results(stack: Stack) -> list[LayerResult]:
    return list(walk(stack, TOKENS, SETTINGS))


@pytest.fixture(scope="module")
def folder(stack: Stack, results: list[LayerResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(stack.checkpoint, results, tmp_path_factory.mktemp("out"))


def written(source: Checkpoint, results: list[LayerResult], folder: Path, d_state: int = KEPT) -> Path:
    mixers = [changed(result) for result in results]
    kept = [[group_n.nonzero().flatten().tolist() for group_n in result.selection.kept_gn] for result in results]
    made = {"determinants": {"checkpoint": source.digest, "method": "balanced"}}
    layout = source.mixer_layout.projected_to(d_state)
    export(source, mixers.__getitem__, layout, folder, {"ghost": made, "kept_channels": kept})
    return folder


def changed(result: LayerResult) -> Any:
    assert result.changed is not None
    return result.changed


def test_all_directions_kept_compute_the_dense_model(stack: Stack, tmp_path: Path) -> None:
    source = stack.checkpoint
    steps, mixers = Walk(stack, TOKENS, SETTINGS), []
    steps.kept = D_STATE
    for i in range(LAYERS):
        statistics = steps.statistics(i)
        selection = steps.select(i, statistics)
        mixers.append(steps.reduce(i, statistics, selection))
        steps.restore(i, selection, lambda i=i: mixers[i])
    export(source, mixers.__getitem__, source.mixer_layout.projected_to(D_STATE), tmp_path, {})
    found, expected = (stack_logits(b, TOKENS) for b in (open_stack(tmp_path), stack))
    assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_directions_come_in_falling_order_and_the_first_are_kept(results: list[LayerResult]) -> None:
    for result in results:
        hankel_gn = result.selection.saliency_gn
        assert bool((hankel_gn.diff(dim=-1) <= 0).all())
        assert bool(result.selection.kept_gn[:, :KEPT].all()) and not bool(result.selection.kept_gn[:, KEPT:].any())
        assert changed(result)["B_proj"].shape == (len(hankel_gn), KEPT, D_STATE)


def test_a_walk_continued_after_any_layer_gives_the_same_bits(stack: Stack, results: list[LayerResult]) -> None:
    for done in range(1, LAYERS):
        steps = Walk(stack, TOKENS, SETTINGS)
        for known in results[:done]:
            steps.restore(known.layer, known.selection, lambda known=known: changed(known))
        statistics = steps.statistics(done)
        reduced = steps.reduce(done, statistics, steps.select(done, statistics))
        assert all(reduced[name].equal(changed(results[done])[name]) for name in PROJECTIONS)


def test_later_layers_see_what_the_projected_ones_leave(stack: Stack, results: list[LayerResult]) -> None:
    """The walk's own projection of tensors that it holds is the stored mixer's forward."""
    one_shot = list(walk(stack, TOKENS, SETTINGS.model_copy(update={"sequential": False})))
    assert not one_shot[1].selection.saliency_gn.allclose(results[1].selection.saliency_gn, rtol=1e-3)
    through_blm = stack.layer(0, changed(results[0])).advance(stack.enter(TOKENS))
    steps = Walk(stack, TOKENS, SETTINGS)
    steps.restore(0, results[0].selection, lambda: changed(results[0]))
    steps.statistics(1)
    assert steps._path is not None and steps._path.stream.hidden_blm.equal(through_blm)


def test_the_folder_loads_in_transformers_and_computes_what_ghost_does(folder: Path) -> None:
    model = load_stock(folder)
    assert isinstance(model, GhostMamba2ForCausalLM)
    assert (model.config.state_size, model.config.projected_from) == (KEPT, D_STATE)
    assert (folder / SOURCE.name).read_bytes() == SOURCE.read_bytes()
    expected = stack_logits(open_stack(folder), TOKENS)
    assert_close(stock_logits(model, TOKENS), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_it_verifies_against_its_source_and_not_when_anything_was_changed(
    stack: Stack, folder: Path, results: list[LayerResult], tmp_path: Path
) -> None:
    source = stack.checkpoint
    found = verify(folder, source, TOKENS[0])
    assert found["difference"] <= 1e-5 and found["against"] == "the original with B and C projected"
    copy = written(source, results, tmp_path)
    tensors = load_file(copy / "model.safetensors")
    tensors["backbone.layers.1.mixer.D"] *= 1.5
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(VerificationError, match="computes with B and C projected: logits differ by"):
        verify(copy, source, TOKENS[0])
    (folder / SOURCE.name).rename(tmp_path / "moved")
    with pytest.raises(VerificationError, match=r"modeling_ghost_mamba2\.py is missing"):
        verify(folder, source, TOKENS[0])
    (tmp_path / "moved").rename(folder / SOURCE.name)


def test_a_projected_model_is_not_pruned_again(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match="is projected and can't be pruned again; give the model it was made from"
    ):
        Walk(open_stack(folder), TOKENS, SETTINGS)


@pytest.mark.parametrize(("fields", "said"), [({"soft": True}, "soft: balanced cuts no channels out"),
                                              ({"policy": "pooled"}, "policy: balanced does not rank")])  # fmt: skip
def test_what_does_not_go_with_directions_is_refused(stack: Stack, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Walk(stack, TOKENS, SETTINGS.model_copy(update=fields))


def test_a_run_that_lost_a_layer_ends_in_the_same_bytes(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, method="balanced")
    run = through_layers(settings)
    before = contents(tmp_path / "store")
    (tmp_path / "store" / run.pruning.weights(1)).unlink()
    again = through_layers(settings)
    assert again.cached == {0} and contents(tmp_path / "store") == before
    assert provenance(again.run, again.layers)["ghost"]["determinants"]["method"] == "balanced"
    again.export()
    exported = tmp_path / "store" / again.keys.checkpoint
    assert open_checkpoint(exported).mixer_layout.projected_from


@pytest.mark.parametrize("recovery", ["none", "lstsq"])
def test_in_memory_it_is_the_module_that_the_saved_folder_loads_as(stack: Stack, tmp_path: Path, recovery: Any) -> None:
    result = ghost.prune(stack.checkpoint.folder, method="balanced", calibration=TOKENS, round_to=4, recovery=recovery)
    assert isinstance(result.model, GhostMamba2ForCausalLM) and result.model.config.state_size == KEPT
    saved = load_stock(result.save(tmp_path / "saved"))
    assert stock_logits(result.model, TOKENS).equal(stock_logits(saved, TOKENS))
    model: Any = result.model
    generated = model.generate(TOKENS[:2].long(), max_new_tokens=4, do_sample=False)
    assert torch.is_tensor(generated) and generated.shape == (2, 28)


def test_energy_takes_the_fewest_directions_that_carry_it_in_every_layer(stack: Stack) -> None:
    dense = walk(stack, TOKENS, SETTINGS.model_copy(update={"sequential": False}))
    carried = [result.selection.saliency_gn.square().sum(0) for result in dense]
    shares = [(layer_n.cumsum(0) / layer_n.sum()).tolist() for layer_n in carried]
    energy = shares[0][4] * (1 - 1e-9)
    fewest = max(next(i for i, share in enumerate(layer, 1) if share >= energy) for layer in shares)
    steps = Walk(stack, TOKENS, SETTINGS.model_copy(update={"energy": energy, "round_to": 1}))
    assert steps.kept == fewest >= 5
    with pytest.raises(SettingsError, match="energy: ghost ranks channels, not directions; give --sparsity"):
        Walk(stack, TOKENS, RunSettings.make(energy=0.9, round_to=4))
