"""Errors of means and of changes in pairs, and the one wording for what is noise by them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ghost.report.figures import NOISE_NOTE, noted, with_noise
from ghost.report.paired_runs import NO_SAMPLES, OTHER_SAMPLES, PERPLEXITY, Figure, Sampled, Samples, difference
from ghost.significance import is_noise, mean_with_error, paired

WINDOWS, LENGTH = 40, 100


def test_the_error_of_a_mean_is_the_textbook_one() -> None:
    values = [1.0, 2.0, 4.0, -1.0]
    mean, error = mean_with_error(values)
    assert (mean, error) == pytest.approx((1.5, np.std(values, ddof=1) / 2))
    assert mean_with_error([3.0]) == (3.0, None)
    assert mean_with_error([1.0, math.nan])[1] is None and mean_with_error([1.0, math.inf])[1] is None


def test_samples_of_several_sizes_count_by_their_size() -> None:
    sizes = np.array([10.0, 10.0, 5.0])
    assert mean_with_error(0.7 * sizes, sizes) == pytest.approx((0.7, 0.0))


def test_the_error_is_how_far_means_of_other_samples_lie_from_each_other() -> None:
    draws = np.random.default_rng(0)
    sizes = draws.integers(20, 200, size=(2000, WINDOWS))
    found = [mean_with_error(draws.normal(0.3, 1.0, WINDOWS) * np.sqrt(of) + 2 * of, of) for of in sizes]
    means, errors = zip(*found, strict=True)
    assert np.mean(np.array(errors, dtype=float)) == pytest.approx(np.std(means), rel=0.05)


def windows(loss: float, seed: int = 0, **seen: str) -> dict[Figure, Sampled]:
    """Of a model that loses so many nats a token, on windows of which some are hard for every model."""
    hard, own = np.random.default_rng(1), np.random.default_rng(seed)
    nats = LENGTH * (3 + hard.normal(0, 0.5, WINDOWS) + loss + own.normal(0, 0.01, WINDOWS))
    return {PERPLEXITY: Sampled(values=nats, sizes=np.full(WINDOWS, LENGTH), seen=seen)}


def apart(first: Samples, second: Samples) -> float:
    """The error of the difference had each been measured by itself."""
    errors = [mean_with_error(of[PERPLEXITY].values, of[PERPLEXITY].sizes)[1] for of in (first, second)]
    return math.hypot(*(error or 0 for error in errors))


def test_pairs_find_what_two_errors_apart_would_hide() -> None:
    first, second = windows(0.0, seed=2), windows(0.02, seed=3)
    found = difference(first, second)
    assert found.value is not None and found.error is not None and not found.is_noise
    assert found.value == pytest.approx(math.expm1(0.02), abs=0.01)
    assert 10 * found.error < apart(first, second) > found.value
    assert difference(first, windows(0.0, seed=4)).is_noise
    same = difference(first, first)
    assert (same.value, same.error, same.is_noise) == (0, 0, False)


def test_what_was_not_seen_by_both_is_not_paired_and_says_so() -> None:
    assert difference(windows(0, text="a"), windows(0, text="b")).why_not == OTHER_SAMPLES["perplexity"]
    assert difference(windows(0), {}).why_not == NO_SAMPLES
    shorter = {PERPLEXITY: Sampled(values=np.ones(3), sizes=np.ones(3))}
    assert difference(windows(0), shorter).why_not == OTHER_SAMPLES["perplexity"]
    for part, words in OTHER_SAMPLES.items():
        figure: Figure = (part, "case", "metric")
        first: Samples = {figure: Sampled(values=np.ones(2), sizes=np.ones(2), seen={"seed": 0})}
        second: Samples = {figure: replace(first[figure], seen={"seed": 1})}
        assert difference(first, second, figure).why_not == words
        assert difference(first, first, figure).value == 0


@pytest.mark.parametrize("loss", [math.inf, math.nan, 800.0])
def test_a_model_that_fell_apart_has_no_difference(loss: float) -> None:
    found = difference(windows(0), windows(loss))
    assert (found.value, found.error, found.why_not, found.is_noise) == (None, None, None, False)


@pytest.mark.parametrize(
    ("value", "error", "form", "told"),
    [
        (0.072, 0.003, "{:+.1%}", "+7.2% ± 0.3%"),
        (0.001, 0.003, "{:+.1%}", "+0.1% ± 0.3%, noise"),
        (-0.031, 0.031, "{:+.3f}", "-0.031 ± 0.031, noise"),
        (0.072, 0.0004, "{:+.1%}", "+7.2% ± 0.04%"),
        (0.0, 0.0, "{:+.1%}", "+0.0% ± 0.0%"),
        (0.1, None, "{:+.1%}", "+10.0%"),
        (None, None, "{:+.1%}", "not finite"),
    ],
)
def test_a_change_is_told_with_its_error_and_as_noise_where_it_is(
    value: float | None, error: float | None, form: str, told: str
) -> None:
    assert with_noise(value, error, form) == told
    assert noted([told]) == (NOISE_NOTE if is_noise(value, error) else "")


def test_noise_ends_at_two_errors_of_either_sign() -> None:
    assert [is_noise(change, 0.5) for change in (-1.01, -0.99, 0.99, 1.01)] == [False, True, True, False]
    assert not is_noise(0.0, None) and not is_noise(None, 1.0)
    assert paired([1, 2], [2, 3]) == (1, 0)
