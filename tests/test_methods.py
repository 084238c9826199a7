"""The rivals of ghost, each against its equation by hand, brute force or finite differences."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from transformers.models.mamba2 import modeling_mamba2

from artifacts.schemas import STATS
from artifacts.tables import decode, encode
from ghost.errors import CheckpointError
from ghost.mixer import MixerInputs
from ghost.saliency import METHODS, GateGradients, LayerStatistics, find_method
from ghost.saliency.coupling import coupling
from ghost.saliency.ranks import EVERY, time_ranks
from ghost.settings import RunSettings
from ghost.ssd import recurrence
from ghost.stack import Stack
from ghost.walk import Walk, walk
from tasks.tables import statistics_columns, statistics_from
from tests.models import load_stock, make_model, open_stack, random_tokens

GROUPS, HEADS, HEADDIM, N, LENGTH = 2, 4, 3, 5, 11
RIVALS = ["ghost-joint", "rrqr", "sparsessm", "taylor", "taylor2"]
TOKENS = random_tokens(5, 16)


def inputs(seed: int = 0, samples: int = 3) -> MixerInputs:
    """Made-up inputs of a recurrence of five channels, float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return MixerInputs(
        z=torch.zeros(0),
        x_blhp=draw(samples, LENGTH, HEADS, HEADDIM),
        dt_blh=draw(samples, LENGTH, HEADS).exp(),
        A_h=torch.tensor([-0.1, -0.3, -0.5, -2.0], dtype=torch.float64),
        B_blgn=draw(samples, LENGTH, GROUPS, N),
        C_blgn=draw(samples, LENGTH, GROUPS, N) + 0.5,
        D_h=torch.zeros(HEADS),
    )


def definition(x: MixerInputs) -> Tensor:
    """H (b, l, g, r, n, p) of every step."""
    H = torch.zeros(len(x.x_blhp), HEADS, N, HEADDIM, dtype=torch.float64)
    states = []
    for t in range(LENGTH):
        B_bhn = x.B_blgn[:, t].repeat_interleave(HEADS // GROUPS, dim=1)
        H = (x.dt_blh[:, t] * x.A_h).exp()[..., None, None] * H
        H = H + torch.einsum("bhn,bhp,bh->bhnp", B_bhn, x.x_blhp[:, t], x.dt_blh[:, t])
        states.append(H.unflatten(1, (GROUPS, -1)))
    return torch.stack(states, dim=1)


def known(**statistics: Tensor) -> LayerStatistics:
    norms = torch.ones(1, len(next(iter(statistics.values()))[0]), dtype=torch.float64)
    return replace(LayerStatistics(norms, norms), **statistics)


def score(name: str, statistics: LayerStatistics) -> list[float]:
    return find_method(name).score(statistics, 0, 0)[0].tolist()


def test_coupling_is_the_squared_change_of_the_output_from_zeroing_any_set() -> None:
    first, second = inputs(0), inputs(1)
    M_gnn = coupling([first, second], every=1)
    dense = [recurrence(*x[1:6])[0] for x in (first, second)]
    for group in range(GROUPS):
        for dropped in (set_ for size in range(1, N + 1) for set_ in combinations(range(N), size)):
            change = torch.zeros((), dtype=torch.float64)
            for x, y_blhp in zip((first, second), dense, strict=True):
                C_blgn = x.C_blgn.clone()
                C_blgn[:, :, group, list(dropped)] = 0
                change += (recurrence(*x._replace(C_blgn=C_blgn)[1:6])[0] - y_blhp).square().sum()
            cost = M_gnn[group][list(dropped)][:, list(dropped)].sum()
            assert_close(cost, change / (2 * 3 * LENGTH), rtol=1e-9, atol=0)


def test_coupling_of_every_fourth_step_is_that_of_those_steps() -> None:
    x = inputs()
    Z = x.C_blgn[:, :, :, None, :, None] * definition(x)
    visited = Z[:, [3, 7, 10]]  # the last, shorter chunk ends with the window
    assert_close(coupling([x], every=4), torch.einsum("blgrnp,blgrmp->gnm", visited, visited) / 9)


def test_joint_elimination_takes_the_cheapest_set_that_grows_by_one() -> None:
    Z = torch.randn(40, N, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    M_nn, dropped = Z.T @ Z, []
    position = score("ghost-joint", known(coupling_gnn=M_nn.unsqueeze(0)))
    for step in range(N):
        costs = {n: Z[:, [*dropped, n]].sum(-1).square().sum() for n in range(N) if n not in dropped}
        dropped.append(min(costs, key=lambda n: float(costs[n])))
        assert position[dropped[-1]] == step


def test_joint_elimination_drops_channels_together_that_cancel() -> None:
    """Channels 0 and 1 cancel, so they go for less than either alone; 3 adds to 2, so 4 goes before it."""
    Z = torch.tensor([[2.0, -1.9, 0, 0, 4], [0, 0, 3, 3, 0]], dtype=torch.float64)
    joint = known(coupling_gnn=(Z.T @ Z).unsqueeze(0), energy_gn=Z.square().sum(0, keepdim=True))
    assert score("ghost-joint", joint) == [1, 0, 2, 4, 3]
    assert sorted(range(N), key=score("ghost", joint).__getitem__) == [1, 0, 2, 3, 4]


def test_rrqr_takes_the_column_that_those_taken_explain_least() -> None:
    Z = torch.randn(40, N, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    Z[:, 3] = 2 * Z[:, 1] - Z[:, 4]
    found, rest = score("rrqr", known(coupling_gnn=(Z.T @ Z).unsqueeze(0))), Z.clone()
    for _ in range(N - 1):
        norms = rest.norm(dim=0)
        n = int(norms.argmax())
        assert found[n] == pytest.approx(float(norms[n]), rel=1e-9)
        direction = rest[:, n] / norms[n]
        rest -= torch.outer(direction, direction @ rest)
    assert found.count(0.0) == 1 and found.index(0.0) in (1, 3, 4)


def test_sparsessm_ranks_the_channels_at_every_position_over_all_samples() -> None:
    first, second = inputs(0), inputs(1)
    energy_lgrn = sum(definition(x).square().sum((0, 5)) for x in (first, second))
    weight_gr = first.A_h.neg().log().square().unflatten(0, (GROUPS, -1))
    metric_lgn = (energy_lgrn * weight_gr[..., None]).sum(2)
    positions = [*range(EVERY - 1, LENGTH, EVERY), LENGTH - 1]
    for group in range(GROUPS):
        for n in range(N):
            worse = [int((metric_lgn[t, group] < metric_lgn[t, group, n]).sum()) for t in positions]
            expected = sum(worse) / len(positions) / (N - 1)
            assert float(time_ranks([first, second], "layer 0")[group, n]) == pytest.approx(expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), d_state=8, n_groups=2)


@pytest.fixture(scope="module")
def stack(folder: Path) -> Stack:
    return open_stack(folder)


def gradients_of(stack: Stack, tokens_bl: Tensor) -> list[LayerStatistics]:
    settings = RunSettings.make(method="taylor", round_to=4)
    return [result.statistics for result in walk(stack, tokens_bl, settings)]


@torch.inference_mode()
def stock_losses(folder: Path, layer: int, group: int, channel: int, gate: float) -> Tensor:
    """Loss of every sample (b) in stock transformers, one channel of C in one layer times `gate`."""
    model, calls = load_stock(folder), []

    def gated(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(C.clone())
        if len(calls) == layer + 1:
            calls[-1][:, :, group, channel] *= gate
        return scan(x, dt, A, B, calls[-1], *args, **kwargs)

    scan = modeling_mamba2.mamba2_chunk_scan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_mamba2, "mamba2_chunk_scan", gated)
        logits = model(TOKENS.long(), use_cache=False).logits[:, :-1].double()
    assert len(calls) > layer
    return F.cross_entropy(logits.mT, TOKENS[:, 1:].long(), reduction="none").sum(-1)


def test_gradients_are_finite_differences_of_stock_transformers_loss(folder: Path, stack: Stack) -> None:
    predicted = TOKENS[:, 1:].numel()
    for layer, statistics in enumerate(gradients_of(stack, TOKENS)):
        assert statistics.gradient_gn is not None and statistics.fisher_gn is not None
        for group, n in [(0, 0), (0, 5), (1, 2), (1, 7)]:
            above, below = (stock_losses(folder, layer, group, n, gate) for gate in (1.05, 0.95))
            G_b = (above - below) / 0.1
            size = float(G_b.abs().max())
            assert float(statistics.gradient_gn[group, n]) == pytest.approx(
                float(G_b.sum()) / predicted, abs=0.02 * size / predicted
            )
            assert float(statistics.fisher_gn[group, n]) == pytest.approx(
                float(G_b.square().sum()) / predicted, rel=0.04
            )


def test_gradients_do_not_depend_on_batches_and_are_of_the_dense_model(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = gradients_of(stack, TOKENS)
    monkeypatch.setattr(stack, "batch_tokens", 2 * TOKENS.shape[1])
    for a, b in zip(at_once, gradients_of(stack, TOKENS), strict=True):
        assert_close([a.gradient_gn, a.fisher_gn], [b.gradient_gn, b.fisher_gn], rtol=1e-3, atol=1e-7)
        assert a.tokens == b.tokens == TOKENS.numel() and a.energy_gn is None


def test_taylor_squares_before_samples_are_averaged_and_taylor2_predicts_the_loss() -> None:
    gradients = GateGradients(
        torch.tensor([[0.0, 3, -4]], dtype=torch.float64), torch.tensor([[8.0, 9, 16]], dtype=torch.float64), 2
    )
    statistics = gradients.means(known(energy_gn=torch.ones(1, 3)), tokens=4, where="layer 0")
    assert score("taylor", statistics) == pytest.approx([2.0, 4.5**0.5, 8**0.5])
    assert score("taylor2", statistics) == pytest.approx([2.0, 2.25 - 1.5, 4 + 2.0])


def test_gradients_that_overflowed_are_refused_by_layer() -> None:
    bad = GateGradients(torch.full((1, 3), torch.nan), torch.ones(1, 3), 2)
    with pytest.raises(CheckpointError, match=r"^layer 5: the loss's gradients are not finite; try --dtype float32"):
        bad.means(known(energy_gn=torch.ones(1, 3)), tokens=4, where="layer 5")


@pytest.mark.parametrize("method", RIVALS)
def test_a_resumed_walk_measures_the_same_bytes_and_the_table_gives_the_same_channels(
    stack: Stack, method: str
) -> None:
    settings = RunSettings.make(method=method, round_to=4)
    first, again = Walk(stack, TOKENS, settings), Walk(stack, TOKENS, settings)
    data, selections = b"", []
    for i in range(2):
        statistics = first.statistics(i)
        selections.append(first.select(i, statistics))
        first.restore(i, selections[-1])
        data = encode(statistics_columns(i, statistics), STATS)
        table = decode(data, STATS)
        assert encode(table, STATS) == data == encode(statistics_columns(i, statistics_from(table)), STATS)
        stored = first.select(i, statistics_from(table))
        assert stored.kept_gn.equal(selections[-1].kept_gn) and stored.saliency_gn.equal(selections[-1].saliency_gn)
    again.restore(0, selections[0])
    assert encode(statistics_columns(1, again.statistics(1)), STATS) == data


def test_every_method_says_what_it_is_and_has_a_row_in_the_docs() -> None:
    rows = (Path(__file__).parent.parent / "docs" / "methods.md").read_text()
    for method in METHODS.values():
        assert method.score.__doc__ and f"| `{method.name}` |" in rows
