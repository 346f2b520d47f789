"""Bootstrap intervals: what they cover, what counts as one sample, what is missing."""

import numpy as np
import pytest

from hjepa.evaluate.bootstrap import bootstrap_mean


def test_the_mean_is_over_samples_and_lies_inside_the_interval():
    values = np.random.default_rng(0).normal(3, 1, (40, 3))
    mean, low, high = bootstrap_mean(values, np.repeat(np.arange(4), [1, 9, 10, 20]))
    np.testing.assert_allclose(mean, values.mean(0))
    assert ((low < mean) & (mean < high)).all()


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(300):
        _, low, high = bootstrap_mean(rng.exponential(1, (60, 1)) - 1, np.arange(60))
        hits.append(low[0] <= 0 <= high[0])
    assert 0.9 < np.mean(hits) < 0.98


def test_the_interval_is_as_wide_as_the_normal_one():
    values = np.random.default_rng(1).normal(0, 2, (400, 1))
    _, low, high = bootstrap_mean(values, np.arange(400))
    assert (high - low)[0] == pytest.approx(2 * 1.96 * 2 / 20, rel=0.1)


def test_samples_of_one_unit_count_as_one():
    """Ten copies of every sample tell nothing new; taken for independent ones they would narrow the interval."""
    values = np.random.default_rng(2).normal(0, 1, (30, 2))
    once = bootstrap_mean(values, np.arange(30))
    copies = bootstrap_mean(values.repeat(10, 0), np.arange(30).repeat(10))
    np.testing.assert_allclose(copies, once)
    naive = bootstrap_mean(values.repeat(10, 0), np.arange(300))
    assert (naive[2] - naive[1] < 0.5 * (once[2] - once[1])).all()


def test_what_is_missing_counts_for_nothing():
    values = np.random.default_rng(3).normal(0, 1, (50, 2))
    values[20:, 1] = np.nan
    mean, low, high = bootstrap_mean(values, np.arange(50))
    assert mean[1] == pytest.approx(values[:20, 1].mean())
    alone = bootstrap_mean(values[:20, 1:], np.arange(20))
    assert high[1] - low[1] == pytest.approx((alone[2] - alone[1])[0], rel=0.2)


def test_a_column_without_any_sample_has_no_interval():
    values = np.full((5, 2), np.nan)
    values[:, 0] = 1
    for figure in bootstrap_mean(values, np.arange(5)):
        assert figure[0] == 1
        assert np.isnan(figure[1])


def test_the_same_samples_give_the_same_interval_whatever_their_order_and_names():
    values = np.random.default_rng(4).normal(0, 1, (24, 2))
    units = np.repeat(np.arange(6), 4)
    first = bootstrap_mean(values, units)
    np.testing.assert_array_equal(bootstrap_mean(values, units), first)
    order = np.concatenate([np.random.default_rng(5).permutation(4) + 4 * k for k in range(6)])
    np.testing.assert_allclose(bootstrap_mean(values[order], 10**9 * units[order]), first)


def test_a_wider_level_is_a_wider_interval():
    values = np.random.default_rng(6).normal(0, 1, (50, 1))
    half, most = (bootstrap_mean(values, np.arange(50), level) for level in (0.5, 0.99))
    assert most[1] < half[1] < half[2] < most[2]
