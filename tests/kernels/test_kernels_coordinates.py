"""The coordinates that a mini-batch touches: each is listed once, fetched, and put back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgd.kernels import coordinates as kernels
from streamgd.kernels.entries import meet_entries

N_DOF, NOWHERE, UNTOUCHED = 9, 77, -5


@given(
    batches=st.lists(st.lists(st.integers(-1, N_DOF - 1), max_size=100), min_size=1, max_size=4),
    before=st.lists(st.integers(0, 100), min_size=N_DOF, max_size=N_DOF),
    first=st.integers(0, 3),
)
def test_each_coordinate_is_listed_once_whatever_batches_before_left(
    batches: list[list[int]], before: list[int], first: int
) -> None:
    table, place = np.zeros((N_DOF, kernels.SLOTS)), np.array(before, np.int32)
    room = first + kernels.most_touched(N_DOF, 0, 1, max(map(len, batches)), 0)
    memory = np.full(room + 9, UNTOUCHED, np.int32)
    touched = memory[:room]
    for batch in batches:
        met = np.array(batch, np.int32)
        end = kernels.list_each_once(met, first, table, touched, place, NOWHERE)
        assert sorted(touched[first:end]) == sorted({j for j in batch if j >= 0})
        assert [touched[at] if at != NOWHERE else -1 for at in met] == batch
        assert (place[touched[first:end]] == np.arange(first, end)).all()
        assert (memory[:first] == UNTOUCHED).all()
        assert (memory[room:] == UNTOUCHED).all()


def test_levels_are_listed_column_by_column() -> None:
    codes = np.array([[0, 4], [-1, 5], [1, 4], [0, 4], [8, 8]], np.int32)
    touched, place = np.zeros(8, np.int32), np.zeros(N_DOF, np.int32)
    levels, starts = np.empty((2, 4), np.int32), np.empty(3, np.int64)
    end = kernels.meet_levels(codes, 0, 4, 2, np.zeros((N_DOF, 4)), touched, place, NOWHERE, levels, starts)

    assert end == starts[2] == 6
    assert [set(touched[starts[c] : starts[c + 1]]) for c in range(2)] == [{0, 1}, {4, 5}]
    assert touched[levels[0, [0, 2, 3]]].tolist() == [0, 1, 0]
    assert levels[0, 1] == NOWHERE
    assert touched[levels[1]].tolist() == [4, 5, 4, 4]


def test_entries_are_listed_behind_levels() -> None:
    starts, coordinates = np.array([0, 2, 5, 5, 6]), np.array([3, 7, 6, 3, 6, 8], np.int32)
    touched, place = np.full(8, UNTOUCHED, np.int32), np.zeros(N_DOF, np.int32)
    met = np.full(6, UNTOUCHED, np.int32)
    end = meet_entries(starts, coordinates, 1, 4, 2, np.zeros((N_DOF, 4)), touched, place, met)

    assert end == 5
    assert set(touched[2:end]) == {3, 6, 8}
    assert touched[met[:4]].tolist() == [6, 3, 6, 8]
    assert (met[4:] == UNTOUCHED).all()
    assert (touched[[0, 1, 6, 7]] == UNTOUCHED).all()

    nothing = np.empty(0, np.int64)
    assert meet_entries(nothing, coordinates, 1, 4, 2, np.zeros((N_DOF, 4)), touched, place, met) == 2


@pytest.mark.parametrize("n_slots", range(5))
def test_what_is_gathered_is_put_back(n_slots: int) -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(N_DOF, kernels.SLOTS + n_slots))
    touched, here = np.array([3, 7, 0, 5], np.int32), np.full((table.shape[1], 4), np.nan)
    kernels.gather(table, touched, 1, 3, here)
    np.testing.assert_array_equal(here[:, 1:3], table[[7, 0]].T)
    assert np.isnan(here[:, [0, 3]]).all()

    here[:, 1:3] += 1.0
    expected = table.copy()
    expected[[7, 0]] += 1.0
    assert kernels.put_back(table, touched, 1, 3, here)
    np.testing.assert_array_equal(table, expected)
    here[kernels.THETA, 2] = np.inf
    assert not kernels.put_back(table, touched, 1, 3, here)
