"""Bins keep the order of numbers, and putting bins together loses nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from streamgd.report.bins import BINS, Sums, bin_of, merge_equal


@given(arrays.arrays(np.float64, st.integers(1, 50), elements=st.floats(allow_nan=False)))
def test_a_larger_number_is_in_no_lower_bin(values: np.ndarray) -> None:
    places = bin_of(np.sort(values))
    assert (np.diff(places) >= 0).all()
    assert places.min() >= 0
    assert places.max() < BINS


def test_bins_are_narrow_where_standardised_numbers_are() -> None:
    assert len(np.unique(bin_of(np.linspace(-2.0, 2.0, 4001)))) > 300


@given(
    arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(0.0, 1e6)),
    st.integers(1, 25),
)
def test_merging_keeps_the_total_and_makes_no_more_groups_than_asked_for(weight: np.ndarray, bins: int) -> None:
    table = np.stack([weight, 2.0 * weight])
    merged = merge_equal(table, weight, bins)
    assert merged.shape[1] <= bins
    np.testing.assert_allclose(merged.sum(axis=1), table.sum(axis=1))
    assert (merged[0] > 0.0).all()


def test_groups_of_even_weight_are_even() -> None:
    assert merge_equal(np.ones((1, 100)), np.ones(100), 20).tolist() == [[5.0] * 20]


@given(st.data())
def test_sums_of_parts_add_up_to_the_sums_of_all(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    places, numbers = random.integers(0, 8, n), random.normal(size=(4, n))
    cut = data.draw(st.integers(0, n))
    total = Sums.empty(8)
    for part in (slice(None, cut), slice(cut, None)):
        total.add(Sums.of(places[part], 8, *numbers[:, part]))
    value, target, prediction, weight = numbers
    np.testing.assert_allclose(total.table, Sums.of(places, 8, *numbers).table, atol=1e-12)
    for k in range(8):
        rows = places == k
        expected = [weight, weight * value, weight * target, weight * prediction, weight * (target - prediction) ** 2]
        np.testing.assert_allclose(total.table[:, k], [each[rows].sum() for each in expected], atol=1e-12)
