"""Recovery: the ridge by hand, the judge against stock transformers, and runs that resume in the same bits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor
from torch.testing import assert_close

from ghost.decoder_layer import DecoderLayer
from ghost.errors import SettingsError, VerificationError
from ghost.evaluation.verify import verify
from ghost.export import export
from ghost.mixer import mixer_forward
from ghost.pruned_path import PrunedPath
from ghost.recovery import DensePath, Pairs, recover
from ghost.recovery import local as local_steps
from ghost.recovery.judge import Judge
from ghost.recovery.local import descend
from ghost.recovery.pairs import FITTED_MOST, HELD_MOST
from ghost.recovery.ridge import OUT_PROJ, sums
from ghost.selection import Selection, select
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.surgery import pad_mixer, slice_mixer, zero_mixer
from ghost.walk import LayerResult, Walk, walk
from tasks.run.export import provenance
from tasks.store.show import layer_rows
from tests.by_hand import small_settings, through_layers
from tests.chaos import contents
from tests.models import load_stock, make_model, mask_stock, open_stack, random_tokens, stock_logits

LAYERS, ROWS, LENGTH = 3, 9, 24
TOKENS = random_tokens(ROWS, LENGTH)
FIRST = select(-torch.arange(16.0).expand(2, -1), 4)
"""The first four channels of each of two groups."""
FORWARD = ("constant", "lstsq x1", "lstsq x0.5", "lstsq x0.25")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many Adam steps as a model of this size needs."""
    monkeypatch.setattr(local_steps, "STEPS", 75)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    return open_stack(make_model(tmp_path_factory.mktemp("model"), layers=LAYERS, d_state=16, n_groups=2))


def pruned(stack: Stack, i: int) -> DecoderLayer:
    source = stack.checkpoint
    return stack.layer(i, slice_mixer(source.mixer_layout, source.mixer(i), FIRST)[1])


@pytest.fixture(scope="module")
def pairs(stack: Stack) -> Pairs:
    """The entry of layer 0, where both paths are the same."""
    inputs_blm = torch.cat(list(PrunedPath(stack, TOKENS).mixer_inputs()))
    return Pairs(stack, inputs_blm, DensePath(stack, TOKENS).outputs(), torch.arange(ROWS))


def judge_of(stack: Stack, pairs: Pairs) -> Judge:
    return Judge(stack, TOKENS, pairs.split()[1].rows, dict.fromkeys(range(LAYERS), FIRST))


def test_whole_windows_are_held_back_one_in_eight_and_at_least_one(pairs: Pairs) -> None:
    fitted, held = pairs.split()
    assert fitted.rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 8] and held.rows.tolist() == [7]
    fitted, held = replace(pairs, inputs_blm=pairs.inputs_blm[:2]).split()
    assert (fitted.rows.tolist(), held.rows.tolist()) == ([0], [1])


@pytest.mark.parametrize(("windows", "length"), [(1000, 128), (128, 2048), (5, 20_000), (3, 100_000), (2, 100_000)])
def test_of_many_tokens_a_part_is_taken_spread_over_the_text(pairs: Pairs, windows: int, length: int) -> None:
    fitted, held = replace(pairs, inputs_blm=torch.empty(windows, length, 1)).split()
    for part, most in ((fitted.rows, FITTED_MOST), (held.rows, HELD_MOST)):
        assert len(part) == 1 or most / 2 <= len(part) * length <= most
        assert int(part[-1] - part[0]) >= windows - 2 * windows / len(part)
    assert len(fitted.rows) and not set(fitted.rows.tolist()) & set(held.rows.tolist())


def test_what_later_layers_keep_is_looked_up_on_as_many_windows(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghost.walk.HELD_MOST", 3 * LENGTH)
    steps = Walk(stack, TOKENS, RunSettings(sparsity=0.5, round_to=1, recovery="lstsq"))
    steps.statistics(0)
    assert steps._judge is not None
    for found in walk(stack, TOKENS[::3], RunSettings(sparsity=0.5, round_to=1)):
        kept = steps._judge.outlook[found.layer]
        assert isinstance(kept, Selection) and kept.kept_gn.equal(found.selection.kept_gn)


def divergence(dense_blv: Tensor, found_blv: Tensor) -> float:
    """KL(dense || found) in nats a token, by its definition."""
    dense_blv, found_blv = dense_blv.double(), found_blv.double()
    difference_blv = dense_blv.log_softmax(-1) - found_blv.log_softmax(-1)
    return float((dense_blv.softmax(-1) * difference_blv).sum(-1).mean())


def test_the_judge_follows_a_candidate_and_the_dense_model_through_so_many_layers(
    stack: Stack, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ghost.recovery.judge.AHEAD", 1)
    read, stream = list[int](), stack.enter(TOKENS)
    layer_of, candidate = stack.layer, pruned(stack, 0)
    monkeypatch.setattr(stack, "layer", lambda i: read.append(i) or layer_of(i))
    judge = judge_of(stack, pairs)
    (found,) = judge.divergences(0, stream, [candidate])
    assert read == [0, 1] and judge.divergences(0, stream, [candidate]) == [found]
    assert read == [0, 1, 1], "the dense model goes its way once"
    entering = stream.take(pairs.split()[1].rows)
    stream = entering.moved(candidate.advance(entering))
    dense = entering.moved(layer_of(0).advance(entering))
    stream, dense = stream.moved(layer_of(1).advance(stream, FIRST)), dense.moved(layer_of(1).advance(dense))
    with stack.head() as logits:
        expected = divergence(logits(dense.hidden_blm), logits(stream.hidden_blm))
    assert found == pytest.approx(expected, rel=1e-4)


def test_what_the_dense_model_does_is_no_distance(stack: Stack, pairs: Pairs) -> None:
    path = DensePath(stack, TOKENS)
    while path.position < LAYERS - 1:
        path.advance()
    dense = stack.layer(LAYERS - 1)
    found = judge_of(stack, pairs).divergences(LAYERS - 1, path.stream, [dense])
    assert found == [pytest.approx(0, abs=1e-9)]


def test_one_window_is_refused() -> None:
    with pytest.raises(SettingsError, match="holds calibration windows back and samples is 1; give --samples 2"):
        RunSettings.make(recovery="lstsq", samples=1)


def test_the_dense_path_is_the_dense_model(stack: Stack) -> None:
    dense, entering = DensePath(stack, TOKENS), []
    model = load_stock(stack.checkpoint.folder)
    for block in model.backbone.layers:
        block.register_forward_pre_hook(lambda block, args: entering.append(args[0]))
    stock_logits(model, TOKENS)
    for hidden_blm in entering:
        assert_close(dense.stream.hidden_blm, hidden_blm, rtol=1e-4, atol=1e-4)
        dense.advance()


def test_the_ridge_is_the_least_squares_solution_of_the_stacked_system(stack: Stack, pairs: Pairs) -> None:
    layer = pruned(stack, 0)
    batches = list(pairs.features(layer))
    X_ti, Y_tm = (torch.cat(tensors).double() for tensors in zip(*batches, strict=True))
    W_mi = layer.mixer[OUT_PROJ].double()
    R_tm, found = Y_tm - X_ti @ W_mi.T, sums(layer, pairs)
    ridge = 0.1 * X_ti.square().sum() / X_ti.shape[1]
    stacked = torch.cat([X_ti, ridge.sqrt() * torch.eye(X_ti.shape[1])])
    expected_mi = torch.linalg.lstsq(stacked, F.pad(R_tm, (0, 0, 0, X_ti.shape[1]))).solution.T
    assert_close(found.solve(0.1), expected_mi, rtol=1e-4, atol=1e-6)
    for change_mi in (torch.zeros_like(W_mi), expected_mi):
        direct = (Y_tm - X_ti @ (W_mi + change_mi).T).square().sum()
        assert found.error(change_mi) == pytest.approx(float(direct), rel=1e-5)


def test_features_and_targets_are_those_of_the_mixers(stack: Stack, pairs: Pairs) -> None:
    """What enters out_proj gives the mixer's output; with the dense mixer in place nothing is lacking."""
    assert sums(stack.layer(0), pairs).residual < 1e-6 * sums(pruned(stack, 0), pairs).residual


def test_the_judge_measures_what_stock_transformers_measures(stack: Stack, pairs: Pairs) -> None:
    layout, layer = stack.checkpoint.mixer_layout, pruned(stack, 0)
    prefix = stack.checkpoint.names.mixers[0]
    dense_blv = stock_logits(load_stock(stack.checkpoint.folder), TOKENS)
    model = mask_stock(load_stock(stack.checkpoint.folder), stack.checkpoint, [FIRST] * LAYERS)
    held = pairs.split()[1]
    uncut, cut = judge_of(stack, pairs).divergences(0, stack.enter(TOKENS), [stack.layer(0), layer])
    for kl, mixer in ((uncut, stack.layer(0).mixer), (cut, pad_mixer(layout, layer.mixer))):
        model.load_state_dict({f"{prefix}.{name}": tensor for name, tensor in mixer.items()}, strict=False)
        expected = divergence(dense_blv[held.rows], stock_logits(model, TOKENS[held.rows]))
        assert kl == pytest.approx(expected, rel=1e-3)
    assert uncut != cut


def squared_error(layer: DecoderLayer, pairs: Pairs) -> float:
    inputs_blm, target_blm = pairs.take(pairs.rows)
    return float(F.mse_loss(mixer_forward(layer.layout, layer.mixer, inputs_blm), target_blm))


def test_local_steps_lower_the_error_on_windows_that_they_never_saw(stack: Stack, pairs: Pairs) -> None:
    layer, (fitted, held) = pruned(stack, 0), pairs.split()
    moved = descend(layer, fitted, held, seed=0)
    assert squared_error(moved, held) < 0.9 * squared_error(layer, held)
    again = descend(layer, fitted, held, seed=0)
    assert all(again.mixer[name].equal(tensor) for name, tensor in moved.mixer.items())


def test_local_steps_leave_zeroed_channels_at_zero(stack: Stack, pairs: Pairs) -> None:
    source = stack.checkpoint
    zeroed = zero_mixer(source.mixer_layout, source.mixer(0), FIRST)
    moved = descend(stack.layer(0, zeroed), *pairs.split(), seed=0).mixer
    gone = zeroed["conv1d.bias"] == 0
    assert int(gone.sum()) == 2 * 2 * 12
    assert not moved["conv1d.bias"][gone].any() and not moved["conv1d.weight"][gone].any()
    assert not moved["conv1d.weight"].equal(zeroed["conv1d.weight"])


@pytest.mark.parametrize(
    ("level", "names"),
    [("fit", {"none", "fit"}), ("lstsq", {"none", *FORWARD}), ("local", {"none", *FORWARD, "local"})],
)
def test_the_best_candidate_on_held_back_windows_is_taken_and_no_change_is_one(
    stack: Stack, pairs: Pairs, level: str, names: set[str]
) -> None:
    mixer = {name: tensor.bfloat16() for name, tensor in pruned(stack, 0).mixer.items()}
    judge, stream = judge_of(stack, pairs), stack.enter(TOKENS)
    found = recover(pairs, judge, 0, stream, mixer, level=level, seed=0)
    assert found.kl[found.chosen] == min(found.kl.values()) <= found.kl["none"]
    assert found.kl.keys() == names
    assert all(tensor.dtype == torch.bfloat16 for tensor in found.mixer.values())
    stored = stack.layer(0, found.mixer)
    assert judge_of(stack, pairs).divergences(0, stream, [stored]) == [found.kl[found.chosen]]


def test_a_layer_that_loses_nothing_is_left_as_it_is(stack: Stack, pairs: Pairs) -> None:
    dense = stack.checkpoint.mixer(0)
    found = recover(pairs, judge_of(stack, pairs), 0, stack.enter(TOKENS), dense, level="lstsq", seed=0)
    assert_close(found.mixer[OUT_PROJ], dense[OUT_PROJ], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fields", [{"recovery": "lstsq"}, {"recovery": "local"},
                                    {"recovery": "lstsq", "sequential": False}], ids=str)  # fmt: skip
def test_a_walk_continued_after_any_layer_gives_the_same_bits(stack: Stack, fields: dict[str, Any]) -> None:
    settings = RunSettings.make(round_to=4, **fields)
    uninterrupted = list(walk(stack, TOKENS, settings))
    for done in range(1, LAYERS):
        steps = Walk(stack, TOKENS, settings)
        for known in uninterrupted[:done]:
            steps.restore(known.layer, known.selection, lambda known=known: mixer_of(known))
        expected = uninterrupted[done]
        statistics = steps.statistics(done)
        assert energy(statistics).equal(energy(expected.statistics))
        source = stack.checkpoint
        cut = slice_mixer(source.mixer_layout, source.mixer(done), steps.select(done, statistics))[1]
        recovered = steps.recover(done, cut)
        assert all(recovered.mixer[name].equal(tensor) for name, tensor in mixer_of(expected).items())


def mixer_of(result: LayerResult) -> dict[str, torch.Tensor]:
    assert result.recovered is not None
    return result.recovered.mixer


def energy(statistics: Any) -> torch.Tensor:
    return statistics.energy_gn


def test_later_layers_are_scored_on_what_the_recovered_ones_leave(stack: Stack) -> None:
    plain, recovered, one_shot = (
        [energy(result.statistics) for result in walk(stack, TOKENS, RunSettings.make(round_to=4, **fields))]
        for fields in ({}, {"recovery": "local"}, {"recovery": "local", "sequential": False})
    )
    dense = [energy(r.statistics) for r in walk(stack, TOKENS, RunSettings.make(round_to=4, sequential=False))]
    assert plain[0].equal(recovered[0]) and not torch.allclose(plain[1], recovered[1], rtol=1e-3)
    for shot, expected in zip(one_shot, dense, strict=True):
        assert_close(shot, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("recovery", ["lstsq", "local"])
def test_a_run_that_lost_a_layer_ends_in_the_same_bytes_and_says_what_recovery_did(
    tmp_path: Path, recovery: str
) -> None:
    settings = small_settings(tmp_path, recovery=recovery)
    run = through_layers(settings)
    before = contents(tmp_path / "store")
    record = run.layers[1].record
    assert ", held-back KL " in str(record.note) and record.figures is not None
    assert record.figures["kl"][record.figures["recovery"]] == min(record.figures["kl"].values())
    assert "KL with" in layer_rows(str(tmp_path / "store"), run.keys.run_id)[1][1]
    (tmp_path / "store" / run.pruning.weights(1)).unlink()
    assert through_layers(settings).cached == {0}
    assert contents(tmp_path / "store") == before


def test_a_recovered_checkpoint_verifies_against_its_own_weights_and_says_so(tmp_path: Path) -> None:
    run, folder = through_layers(small_settings(tmp_path, recovery="lstsq")), tmp_path / "out"
    # Recovery may find nothing better than a slice; this D makes the weights other ones in any case.
    stored = [load(run.store.record(run.pruning.weights(i))) for i in range(2)]
    folder.mkdir()
    layout = replace(run.source.mixer_layout, d_state=16)
    made = provenance(run.run, run.layers)
    export(run.source, lambda i: stored[i] | {"D": stored[i]["D"] * 1.1}, layout, folder, made)
    source, tokens = run.source, TOKENS[0]
    found = verify(folder, source, tokens)
    assert found["difference"] <= 1e-5 and found["against"] == "the stored, changed weights in ghost's own path"
    record = json.loads((folder / "ghost.json").read_text())
    record["ghost"]["determinants"]["recovery"] = "none"
    (folder / "ghost.json").write_text(json.dumps(record))
    with pytest.raises(VerificationError, match="without the dropped channels: logits differ by"):
        verify(folder, source, tokens)


def test_recovery_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    runs = {through_layers(small_settings(tmp_path, recovery=how)).pruning.prune_id for how in ("none", "lstsq")}
    assert len(runs) == 2
