"""The benchmark of recovery's cost: phases that add up, and sizes that are reckoned from them."""

import pytest

from bench import recovery_cost
from bench.recovery_cost import PHASES, _measured, at_size, passes
from ghost.recovery import fit, judge, pairs
from ghost.stack import Stack
from tests.models import make_model, open_stack, random_tokens

LAYERS, SAMPLES, LENGTH = 3, 8, 32
TOKENS = SAMPLES * LENGTH
PHASES_OF = {
    "fit": {"windows", "step", "error", "judge", "head"},
    "lstsq": {"constant", "sums", "ridge", "judge", "head"},
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    return open_stack(make_model(tmp_path_factory.mktemp("model"), layers=LAYERS, d_state=32))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LAYERS": LAYERS, "SAMPLES": SAMPLES, "LENGTH": LENGTH}.items():
        monkeypatch.setattr(recovery_cost, name, value)


def test_phases_make_up_the_whole_and_the_fit_is_as_it_was_afterwards(stack: Stack) -> None:
    before = fit.STEPS, fit.fit, judge.Judge.divergences, stack.layer
    for level, phases in PHASES_OF.items():
        clock, reads = _measured(stack, random_tokens(SAMPLES, LENGTH), level)
        assert {phase for phase in PHASES if clock[phase] > 0} == phases
        assert sum(clock[phase] for phase in PHASES) < clock["all"]
        assert reads > passes(LAYERS, judge.AHEAD)
    assert (fit.STEPS, fit.fit, judge.Judge.divergences, stack.layer) == before
    plain, plain_reads = _measured(stack, random_tokens(SAMPLES, LENGTH), "none")
    assert not any(plain[phase] for phase in PHASES) and plain_reads == LAYERS


def test_at_its_own_size_what_was_measured_comes_out_but_for_the_steps() -> None:
    clock = dict.fromkeys(PHASES, 1.0) | {"all": 20.0}
    seconds = at_size("fit", clock, 2.0, LAYERS, TOKENS)
    steps, checks = fit.STEPS / recovery_cost.STEPS, (1 + fit.STEPS // fit.CHECK_EVERY) / 2
    assert sum(seconds.values()) == pytest.approx(20.0 + (steps - 1) + (checks - 1))
    assert at_size("none", clock, 2.0, LAYERS, TOKENS) == {"walk": 2.0}


def test_more_layers_and_tokens_cost_no_more_than_the_bounds_say() -> None:
    clock = dict.fromkeys(PHASES, 1.0) | {"all": 20.0}
    one, four = (at_size("fit", clock, 2.0, 48, count * pairs.FITTED_MOST) for count in (1, 4))
    grown = {phase for phase in one if four[phase] > 1.001 * one[phase]}
    assert grown == {"walk", "dense path and the rest"}
    assert passes(48, judge.AHEAD) < 48 * (1 + judge.AHEAD) and passes(5, 48) == 5 + 4 + 3 + 2 + 1
