"""Paired bootstrap intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DRAWS, SEED = 1000, 0


def bootstrap_mean(values: NDArray, units: NDArray, level: float = 0.95) -> tuple[NDArray, NDArray, NDArray]:
    """Mean over samples and its percentile interval, resampling whole units.

    Args:
        values: (N, H) samples, NaN where there is none.
        units: (N,) which unit (sequence) each sample belongs to: samples of one unit are not independent.

    Returns:
        mean, low, high: (H,), NaN where no sample is.
    """
    names, index = np.unique(units, return_inverse=True)
    there = ~np.isnan(values)
    sums, counts = np.zeros((len(names), values.shape[1])), np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, np.where(there, values, 0))
    np.add.at(counts, index, there)
    picked = np.random.default_rng(SEED).multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (picked @ sums) / (picked @ counts)
        centre = sums.sum(0) / counts.sum(0)
    tail = (1 - level) / 2
    low, high = _quantiles(means, tail), _quantiles(means, 1 - tail)
    return centre, low, high


def _quantiles(means: NDArray, q: float) -> NDArray:
    """Of each column's finite entries; NaN where most draws had no sample at all."""
    finite = np.isfinite(means)
    enough = finite.mean(0) > 0.5
    out = np.full(means.shape[1], np.nan)
    for h in np.flatnonzero(enough):
        out[h] = np.quantile(means[finite[:, h], h], q)
    return out
