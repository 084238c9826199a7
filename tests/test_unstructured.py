"""wanda and sparsegpt, each against its paper's formula by hand, brute force or least squares; then in the walk."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

import ghost
from ghost.errors import CheckpointError, SettingsError
from ghost.evaluation.verify import verify
from ghost.mixer import MixerLayout
from ghost.saliency import check_pruning
from ghost.saliency.unstructured import BLOCK, DAMPING, sparsegpt, wanda
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.surgery import thin_mixer
from ghost.walk import Walk, walk
from tests.by_hand import ByHand, small_settings, through_layers, through_report
from tests.chaos import contents
from tests.models import load_stock, make_model, open_stack, random_tokens, stock_logits

HERE = "layer 3"
METHODS = {"wanda": wanda, "sparsegpt": sparsegpt}
LAYOUT = MixerLayout(d_model=12, nheads=2, headdim=3, n_groups=2, d_state=4, d_conv=2, norm_eps=1e-5)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(samples: int, width: int, *, seed: int = 1) -> Tensor:
    """Inputs (b, l, m) of a few common causes, of unequal size, and some noise."""
    causes = draw(samples, 8, width // 4, seed=seed) @ draw(width // 4, width, seed=seed + 1)
    return (causes + 0.3 * draw(samples, 8, width, seed=seed + 2)) * torch.linspace(0.3, 2, width)


def lost(rows_om: Tensor, thinned_om: Tensor, x_blm: Tensor) -> float:
    return float((x_blm @ (rows_om - thinned_om).T).square().sum())


def damped(x_blm: Tensor) -> Tensor:
    x_tm = x_blm.flatten(0, 1).double()
    hessian_mm = x_tm.T @ x_tm
    return hessian_mm + DAMPING * hessian_mm.diagonal().mean() * torch.eye(len(hessian_mm), dtype=torch.float64)


def test_wanda_drops_the_smallest_products_of_weight_and_input_norm_in_each_row() -> None:
    rows_om = torch.tensor([[3.0, -1.0, 2.0, 0.5], [0.1, 5.0, -1.0, 4.0]], dtype=torch.float64)
    first, second = torch.tensor([[[1.0, 3, 0, 8]]]), torch.tensor([[[0.0, 4, 1, 6]]])  # norms 1, 5, 1, 10
    thinned_om = wanda(rows_om, [first, second], 2, HERE)
    assert thinned_om.tolist() == [[0, -1.0, 0, 0.5], [0, 5.0, 0, 4.0]]


def test_sparsegpt_makes_the_optimal_brain_surgeon_s_update_where_one_weight_goes() -> None:
    """The weight that goes is the first, so all others may make up for it: dw = -w_0 / [H^-1]_00 H^-1 e_0."""
    rows_om, x_blm = draw(1, 6), correlated(20, 6)
    rows_om[0, 0] = 0.01
    inverse_mm = damped(x_blm).inverse()
    expected_om = rows_om - rows_om[0, 0] / inverse_mm[0, 0] * inverse_mm[:1]
    found_om = sparsegpt(rows_om, [x_blm], 1, HERE)
    assert found_om[0, 0] == 0
    assert_close(found_om[:, 1:], expected_om[:, 1:])


@pytest.mark.parametrize("width", [7, BLOCK + 5])
def test_sparsegpt_leaves_what_is_left_of_a_weight_that_goes_and_refits_what_is_right_of_it(width: int) -> None:
    """In a block of its own and in the second of two: by least squares over the columns that are still free."""
    x_blm = correlated(60, width)
    hessian_mm, rows_om, gone = damped(x_blm), draw(1, width) + 9, width - 4
    rows_om[0, gone] = 1e-3
    found_om = sparsegpt(rows_om, [x_blm], 1, HERE)
    free = slice(gone + 1, width)
    fitted = torch.linalg.solve(hessian_mm[free, free], hessian_mm[free, gone] * rows_om[0, gone])
    assert found_om[0, :gone].equal(rows_om[0, :gone]) and found_om[0, gone] == 0
    assert_close(found_om[0, free] - rows_om[0, free], fitted)


def test_sparsegpt_is_its_algorithm_written_out_column_by_column() -> None:
    """Without Cholesky: [H^-1]_jj and its row are those of the inverse over the columns that are left."""
    width, drop = BLOCK + 40, 60
    rows_om, x_blm = draw(3, width), correlated(80, width)
    hessian_mm, work_om = damped(x_blm), rows_om.clone()
    inverses = [hessian_mm[j:, j:].inverse() for j in range(width)]
    diagonal_m = torch.stack([inverse[0, 0] for inverse in inverses])
    for start, end, quota in ((0, BLOCK, drop * BLOCK // width), (BLOCK, width, drop - drop * BLOCK // width)):
        cost_oc = work_om[:, start:end].square() / diagonal_m[start:end]
        gone_oc = torch.zeros_like(cost_oc, dtype=torch.bool)
        gone_oc.scatter_(1, cost_oc.argsort(dim=1)[:, :quota], True)
        for j in range(start, end):
            error_o = work_om[:, j] / inverses[j][0, 0] * gone_oc[:, j - start]
            work_om[:, j:] -= torch.outer(error_o, inverses[j][0])
    found_om = sparsegpt(rows_om, [x_blm], drop, HERE)
    assert ((found_om == 0).sum(-1) == drop).all()
    assert_close(found_om, work_om)


@pytest.mark.parametrize(("drop", "share"), [(16, 0.5), (48, 0.7), (80, 0.9)])
def test_on_correlated_inputs_sparsegpt_loses_less_than_wanda_and_wanda_less_than_magnitude(
    drop: int, share: float
) -> None:
    rows_om, x_blm = draw(24, 96), correlated(100, 96)
    magnitude = wanda(rows_om, [torch.ones(1, 1, 96)], drop, HERE)
    errors = [lost(rows_om, found, x_blm) for found in (sparsegpt(rows_om, [x_blm], drop, HERE),
              wanda(rows_om, [x_blm], drop, HERE), magnitude)]  # fmt: skip
    assert errors[0] < share * errors[1] and errors[1] < errors[2]


@pytest.mark.parametrize("name", METHODS)
def test_batches_add_up_and_every_row_has_exactly_its_share_of_zeros(name: str) -> None:
    rows_om, x_blm = draw(5, BLOCK * 2 + 9), correlated(40, BLOCK * 2 + 9)
    at_once = METHODS[name](rows_om, [x_blm], 133, HERE)
    assert ((at_once == 0).sum(-1) == 133).all()
    assert_close(METHODS[name](rows_om, x_blm.split(7), 133, HERE), at_once)


@pytest.mark.parametrize("name", METHODS)
def test_inputs_that_are_always_zero_cost_nothing_and_all_zero_ones_are_no_error(name: str) -> None:
    rows_om, x_blm = 1 + draw(4, 12).abs(), draw(30, 8, 12, seed=1)
    x_blm[..., [2, 5, 11]] = 0
    assert (METHODS[name](rows_om, [x_blm], 3, HERE)[:, [2, 5, 11]] == 0).all()
    assert ((METHODS[name](rows_om, [0 * x_blm], 3, HERE) == 0).sum(-1) == 3).all()


@pytest.mark.parametrize("name", METHODS)
def test_inputs_that_overflowed_are_refused_by_layer(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"^layer 3: the mixer's inputs are not finite; try --dtype float32"):
        METHODS[name](draw(2, 4), [torch.full((1, 2, 4), torch.inf)], 2, HERE)


@pytest.mark.parametrize(("kept", "zeros"), [(1, 9), (2, 6), (3, 3)])
def test_only_the_rows_of_b_and_c_get_thinner_by_the_share_of_the_state_that_would_go(kept: int, zeros: int) -> None:
    weights = {name: draw(*shape).to(torch.bfloat16) for name, shape in LAYOUT.shapes().items()}
    thinned = thin_mixer(LAYOUT, weights, wanda, [correlated(6, 12)], kept, HERE)
    projection, before = thinned["in_proj.weight"], weights["in_proj.weight"]
    B_and_C = slice(12, 28)  # z and x have 6 rows each, B and C 8, dt 2
    assert ((projection[B_and_C] == 0).sum(-1) == zeros).all() and projection.dtype == torch.bfloat16
    untouched = torch.ones(30, dtype=torch.bool)
    untouched[B_and_C] = False
    assert projection[untouched].equal(before[untouched])
    assert all(thinned[name] is weights[name] for name in weights if name != "in_proj.weight")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    return open_stack(make_model(tmp_path_factory.mktemp("model"), d_state=8, n_groups=2))


def given_to_mixer(model: Any, layer: int, tokens_bl: Tensor) -> Tensor:
    """What stock transformers gives a layer's mixer, (b, l, m)."""
    given: list[Tensor] = []
    hook = model.backbone.layers[layer].mixer.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    stock_logits(model, tokens_bl)
    hook.remove()
    return given[0]


def settings_of(method: str, **changes: object) -> RunSettings:
    return RunSettings.make(method=method, round_to=4, **changes)


@pytest.mark.parametrize("name", METHODS)
def test_the_walk_thins_each_layer_on_what_the_thinned_layers_before_it_leave(stack: Stack, name: str) -> None:
    tokens_bl, source = random_tokens(6, 24), stack.checkpoint
    model = load_stock(source.folder)
    for result in walk(stack, tokens_bl, settings_of(name)):
        given_blm = given_to_mixer(model, result.layer, tokens_bl)
        expected = thin_mixer(source.mixer_layout, source.mixer(result.layer), METHODS[name], [given_blm], 4, HERE)
        assert result.changed is not None and result.changed.keys() == expected.keys()
        assert_close(result.changed["in_proj.weight"], expected["in_proj.weight"], rtol=1e-3, atol=1e-5)
        model.backbone.layers[result.layer].mixer.load_state_dict(result.changed)
        assert result.selection.kept_gn.all() and result.statistics.tokens == tokens_bl.numel()


@pytest.mark.parametrize("name", METHODS)
def test_one_shot_walks_thin_on_the_dense_model_s_activations(stack: Stack, name: str) -> None:
    tokens_bl, source = random_tokens(6, 24), stack.checkpoint
    given_blm = given_to_mixer(load_stock(source.folder), 2, tokens_bl)
    last = list(walk(stack, tokens_bl, settings_of(name, sequential=False)))[2]
    expected = thin_mixer(source.mixer_layout, source.mixer(2), METHODS[name], [given_blm], 4, HERE)
    assert last.changed is not None
    assert_close(last.changed["in_proj.weight"], expected["in_proj.weight"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_walk_thins_to_the_same_bits(stack: Stack, name: str) -> None:
    tokens_bl = random_tokens(6, 24)
    first, second, _ = walk(stack, tokens_bl, settings_of(name))
    resumed, before = Walk(stack, tokens_bl, settings_of(name)), first.changed
    assert before is not None and second.changed is not None
    resumed.restore(0, first.selection, lambda: before)
    again = resumed.reduce(1, resumed.statistics(1), second.selection)
    assert again["in_proj.weight"].equal(second.changed["in_proj.weight"])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"soft": True}, "^soft: .* cuts no channels out that could be zeroed; leave --soft out$"),
        ({"policy": "pooled"}, "^policy: .* does not rank a layer's channels; give --policy balanced$"),
        ({"recovery": "lstsq"}, "^recovery: .* leaves the state as it is; give --recovery none$"),
    ],
)
def test_settings_that_mean_nothing_here_are_refused(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_pruning(settings_of(name, **changes))


@pytest.fixture(scope="module", params=["wanda", "sparsegpt", "shedder"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSettings, ByHand]:
    settings = small_settings(tmp_path_factory.mktemp("run"), method=request.param)
    return settings, through_report(settings)


def test_a_run_resumes_in_the_same_bytes(finished: tuple[RunSettings, ByHand]) -> None:
    settings, run = finished
    before = contents(store := Path(settings.store))
    (store / run.pruning.weights(1)).unlink()
    assert through_layers(settings).cached == {0} and contents(store) == before


def test_a_run_says_that_the_state_keeps_its_size_and_verifies(finished: tuple[RunSettings, ByHand]) -> None:
    settings, run = finished
    results = json.loads(run.store.record(run.keys.evaluation))
    assert results["d_state"] == {"dense": 32, "pruned": 32} and len(set(results["state_bytes"].values())) == 1
    assert results["perplexity"]["dense"] != results["perplexity"]["pruned"]
    found = verify(Path(settings.store) / run.keys.checkpoint, run.source, run.run.evaluation_tokens[:48])
    shed = settings.method == "shedder"
    against = "the original without the dropped channels" if shed else "the stored, changed weights"
    assert found["difference"] <= 1e-5 and against in found["against"]


def test_in_memory_it_is_the_same_model_as_a_run_s(finished: tuple[RunSettings, ByHand]) -> None:
    settings, run = finished
    tokens_bl, method = run.run.calibration_bl, settings.method
    model = ghost.prune(run.source.folder, calibration=tokens_bl, method=method, round_to=8).model
    state, stored = model.state_dict(), load_file(Path(settings.store) / run.keys.checkpoint / "model.safetensors")
    assert all(state[key].equal(tensor) for key, tensor in stored.items()) and model.config.state_size == 32
