"""Whether a change is one: standard errors over samples, of differences in pairs above all, and what is noise by them.

Two models, or two runs, that have seen the same windows, prompts or documents are compared sample by sample: what makes
a sample hard for both cancels.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

ERRORS = 2.0
"""Standard errors of a change, below which it may as well be none."""


def mean_with_error(sums: ArrayLike, sizes: ArrayLike = 1.0) -> tuple[float, float | None]:
    """The mean of a figure and its standard error, where each sample (n,) is a sum over `sizes` of it: tokens of a
    window, one for a prompt. Samples stand for the text by their size (ratio estimator).

    No error of a single sample, and where a figure is not finite.
    """
    summed, sized = np.broadcast_arrays(np.asarray(sums, np.float64), np.asarray(sizes, np.float64))
    count, size = len(summed), float(sized.sum())
    mean = float(summed.sum()) / size
    if count < 2 or not math.isfinite(mean):
        return mean, None
    beside = summed - mean * sized
    return mean, math.sqrt(float((beside**2).sum()) * count / (count - 1)) / size


def paired(first: ArrayLike, second: ArrayLike, sizes: ArrayLike = 1.0) -> tuple[float, float | None]:
    """Mean of `second - first` and its standard error, sample by sample; as `mean_with_error`."""
    return mean_with_error(np.asarray(second, np.float64) - np.asarray(first, np.float64), sizes)


def is_noise(change: float | None, error: float | None) -> bool:
    """No difference beyond noise. What has no known error is taken at its word, and so is what is not finite."""
    return change is not None and error is not None and abs(change) < ERRORS * error
