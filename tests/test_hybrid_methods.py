"""Every method and recovery on whole hybrids; gradients and the judge against stock transformers."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

import ghost
from ghost.errors import SettingsError
from ghost.evaluation.verify import verify
from ghost.recovery import DensePath, Judge
from ghost.saliency import METHODS
from ghost.saliency.gradients import gate_gradients
from ghost.selection import select
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.stream import Stream
from ghost.surgery import pad_mixer, slice_mixer
from ghost.walk import LayerResult, Walk
from tasks.run.open import open_run
from tests.hybrids import PER_FAMILY, make_hybrid, model_type_of
from tests.models import load_stock, mask_stock, open_stack, random_tokens, stock_logits

HYBRIDS = PER_FAMILY[1:]
TOKENS = random_tokens(9, 21, seed=4)
PREDICTED = TOKENS[:, 1:].numel()
SEED = 11
"""As in tests/test_stack.py."""
REFUSED = (
    "method balanced makes a projected checkpoint, which ghost can write for mamba2 only, not for {}; choose another "
    "method, e.g. ghost with --recovery fit"
)


@dataclass(frozen=True)
class Case:
    """A hybrid."""

    variant: str
    stack: Stack

    @property
    def folder(self) -> Path:
        return self.stack.checkpoint.folder


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """One of each family."""
    made = tmp_path_factory.mktemp("hybrids")
    return {variant: Case(variant, open_stack(make_hybrid(made / variant, variant, seed=SEED))) for variant in HYBRIDS}


@pytest.fixture(scope="module", params=HYBRIDS)
def case(request: pytest.FixtureRequest, cases: dict[str, Case]) -> Case:
    return cases[request.param]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Adam: what they gain is not at stake here."""
    monkeypatch.setattr("ghost.recovery.fit.STEPS", 50)
    monkeypatch.setattr("ghost.recovery.local.STEPS", 25)


def losses(model: Any, tokens_bl: Tensor) -> Tensor:
    """Of each sample (b), summed over its tokens."""
    logits_blv = model(tokens_bl.long(), use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits_blv.mT, tokens_bl[:, 1:].long(), reduction="none").sum(-1)


def stock_gradients(case: Case) -> list[Tensor]:
    """By mixer dL_s/dg (b, g, n), where C of stock's recurrence goes through gates g that are 1."""
    place = f"transformers.models.{model_type_of(case.variant)}.modeling_{model_type_of(case.variant)}"
    modeling, gates = importlib.import_module(place), list[Tensor]()
    scan = modeling.mamba2_chunk_scan

    def gated(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *args: Any, **named: Any) -> Any:
        gates.append(torch.ones_like(C[:, :1]).requires_grad_())
        return scan(x, dt, A, B, C * gates[-1], *args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling, "mamba2_chunk_scan", gated)
        total = losses(load_stock(case.folder), TOKENS).sum()
    return [gradient.squeeze(1) for gradient in torch.autograd.grad(total, gates)]


def test_gradients_are_those_of_autograd_through_stock(case: Case) -> None:
    """In batches of 4, 4 and 1; attention, experts and shared blocks are on the way back too."""
    found = gate_gradients(case.stack, TOKENS.split(4))
    for gradients, G_bgn in zip(found.values(), stock_gradients(case), strict=True):
        G_bgn, scale = G_bgn.double(), float(G_bgn.abs().max())
        assert gradients.predicted == PREDICTED
        assert_close(gradients.sum_gn, G_bgn.sum(0), rtol=0, atol=1e-3 * scale)
        assert_close(gradients.squares_gn, G_bgn.square().sum(0), rtol=0, atol=1e-3 * scale**2)


def dense_stream(stack: Stack, i: int) -> Stream:
    """At the entry of layer i."""
    dense = DensePath(stack, TOKENS)
    while dense.position < i:
        dense.advance()
    return dense.stream


@torch.inference_mode()
def test_the_judge_measures_what_stock_measures(case: Case) -> None:
    """With a mixer dense, and cut; before it all is dense, after it all is cut, and other layers are as they are."""
    source, layout = case.stack.checkpoint, case.stack.checkpoint.mixer_layout
    saliency_gn = torch.rand(layout.n_groups, layout.d_state, generator=torch.Generator().manual_seed(0))
    half, every = select(saliency_gn, 8), select(saliency_gn, 16)
    i, path = source.mixers[1], source.names.mixers[source.mixers[1]]
    rows, stream = torch.tensor([3, 7]), dense_stream(case.stack, i)
    judge = Judge(case.stack, TOKENS, rows, dict.fromkeys(source.mixers, half))
    cut = slice_mixer(layout, source.mixer(i), half)[1]
    model = mask_stock(load_stock(source.folder), source, [every, every, *[half] * len(source.mixers)])
    dense_blv = stock_logits(load_stock(source.folder), TOKENS[rows]).double().log_softmax(-1)
    found = judge.divergences(i, stream, [case.stack.layer(i), case.stack.layer(i, cut)])
    for kl, mixer in zip(found, (source.mixer(i), pad_mixer(layout, cut)), strict=True):
        model.load_state_dict({f"{path}.{name}": tensor for name, tensor in mixer.items()}, strict=False)
        found_blv = stock_logits(model, TOKENS[rows]).double().log_softmax(-1)
        expected = (dense_blv.exp() * (dense_blv - found_blv)).sum(-1).mean()
        # after the last mixer, dense is dense: what is left is rounding in batches of other sizes
        assert kl == pytest.approx(float(expected), rel=1e-3, abs=1e-7)
    assert abs(found[0] - found[1]) > 0.01 * found[0]


def assert_works(pruned: ghost.Pruned, case: Case, folder: Path) -> None:
    """It computes, otherwise than the dense model, and proves to compute what it should."""
    source = case.stack.checkpoint
    assert tuple(result.layer for result in pruned.layers) == source.mixers
    found = verify(pruned.save(folder), source, TOKENS[0])
    assert found["difference"] < 1e-5 and found["layers"] == len(source.mixers)
    dense_blv, pruned_blv = (stock_logits(model, TOKENS) for model in (load_stock(case.folder), pruned.model))
    assert (pruned_blv - dense_blv).abs().max() > 1e-3 * dense_blv.abs().max()


METHOD_ON = dict(zip(sorted(METHODS.keys() - {"balanced"}), HYBRIDS * 3, strict=False))


@pytest.mark.parametrize("method", METHOD_ON)
def test_every_method_prunes_a_hybrid(cases: dict[str, Case], method: str, tmp_path: Path) -> None:
    case = cases[METHOD_ON[method]]
    pruned = ghost.prune(case.folder, calibration=TOKENS, method=method, round_to=4)
    assert all(result.selection.saliency_gn.isfinite().all() for result in pruned.layers)
    assert_works(pruned, case, tmp_path / "saved")


def stored(result: LayerResult) -> dict[str, Tensor]:
    assert result.recovered is not None
    return result.recovered.mixer


RIDGES = ("lstsq x1", "lstsq x0.5", "lstsq x0.25")
RECOVERY = dict(zip(HYBRIDS, ("lstsq", "fit", "lstsq", "local", "fit"), strict=True))


def test_recovery_never_loses_and_is_taken_up_to_the_last_bit(case: Case, tmp_path: Path) -> None:
    recovery = RECOVERY[case.variant]
    pruned = ghost.prune(case.folder, calibration=TOKENS, round_to=4, recovery=recovery)
    for found in (result.recovered for result in pruned.layers):
        assert found is not None and found.kl[found.chosen] == min(found.kl.values()) <= found.kl["none"]
        tried = {recovery} if recovery == "fit" else {*RIDGES, recovery} - {"lstsq"}
        gained = set() if recovery == "fit" else found.kl.keys() & {"constant"}
        assert found.kl.keys() == {"none"} | tried | gained
    assert_works(pruned, case, tmp_path / "saved")
    first, second, *_ = pruned.layers
    steps = Walk(case.stack, TOKENS, RunSettings.make(round_to=4, recovery=recovery))
    steps.restore(first.layer, first.selection, lambda: stored(first))
    statistics = steps.statistics(second.layer)
    again = steps.recover(second.layer, steps.reduce(second.layer, statistics, steps.select(second.layer, statistics)))
    assert all(again.mixer[name].equal(tensor) for name, tensor in stored(second).items())


def test_balanced_is_refused_before_any_work(case: Case, tmp_path: Path) -> None:
    """The texts are not even looked for."""
    message, nowhere = f"^{REFUSED.format(model_type_of(case.variant))}$", str(tmp_path / "nowhere.txt")
    with pytest.raises(SettingsError, match=message):
        Walk(case.stack, TOKENS, RunSettings.make(method="balanced"))
    with pytest.raises(SettingsError, match=message):
        ghost.prune(case.folder, method="balanced", calibration=nowhere)
    with pytest.raises(SettingsError, match=message):
        ghost.prune(load_stock(case.folder), method="balanced", calibration=nowhere)
    with pytest.raises(SettingsError, match=message):
        open_run(RunSettings.make(model=str(case.folder), method="balanced", calibration=nowhere, store=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
