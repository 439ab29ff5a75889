"""The order of rows: bijections, windows that cover everything once, and a golden file that pins it all."""

import hashlib
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from streamgd.data.plan import (
    HOLDOUT,
    PLACES,
    SAMPLE,
    Permutation,
    Slice,
    block_order,
    chosen_rows,
    derive_key,
    file_order,
    window_order,
    window_rows_order,
)
from streamgd.data.source import Manifest, RowGroup

GOLDEN = json.loads((Path(__file__).parent / "golden_order.json").read_text())
WORD = 2**64


def manifest_of(rows_of_groups: list[int], groups_in_file: int = 3) -> Manifest:
    """A manifest that has row groups and no files: all that an order may depend on."""
    first_rows = np.cumsum([0, *rows_of_groups]).tolist()
    groups = tuple(
        RowGroup(i // groups_in_file, i % groups_in_file, rows, first_rows[i]) for i, rows in enumerate(rows_of_groups)
    )
    return Manifest(fs.LocalFileSystem(), (), None, groups, first_rows[-1], "")


def mix(word: int) -> int:
    """The finaliser of SplitMix64, from its paper."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % WORD
    return word ^ (word >> 31)


def feistel(index: int, n: int, keys: list[int]) -> int:
    """The permutation as its documentation has it, in plain Python."""
    bits = max(2, (n - 1).bit_length())
    left_bits, right_bits = bits // 2, bits - bits // 2
    while True:
        left, right = index >> right_bits, index % 2**right_bits
        for turn in (0, 2):
            left ^= mix((right + keys[turn]) % WORD) % 2**left_bits
            right ^= mix((left + keys[turn + 1]) % WORD) % 2**right_bits
        index = (left << right_bits) | right
        if index < n:
            return index


# Keys


def test_every_word_and_their_order_change_the_key() -> None:
    words = [(), (0,), (0, 0), (0, 0, 0), (1,), (1, 0), (0, 1), (1, 0, 1), (0, 1, 1), (2**64 - 1,), (2**63,)]

    assert len({derive_key(*each) for each in words}) == len(words)


@given(words=st.lists(st.integers(0, WORD - 1), max_size=4))
def test_a_key_is_the_recurrence_that_is_written_down(words: list[int]) -> None:
    golden, key = 0x9E3779B97F4A7C15, 0
    for word in words:
        key = mix((key * golden + mix((word + golden) % WORD)) % WORD)

    assert derive_key(*words) == key


# Permutations


@settings(max_examples=150)
@given(n=st.integers(1, 5000), seed=st.integers(0, 2**63))
def test_the_permutation_visits_each_row_once(n: int, seed: int) -> None:
    order = Permutation.of(n, seed, PLACES).as_array()

    np.testing.assert_array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize("n", [2**31 - 1, 2**31 + 5, 10**12 + 7, 2**45, 2**62 - 3])
def test_rows_of_huge_data_sets_have_places_of_their_own(n: int) -> None:
    permutation = Permutation.of(n, 3, PLACES)
    firsts = [0, n // 3, n - 20_000]
    places = set()
    for first in firsts:
        block, slot = permutation.place_rows(first, 20_000, 65_536)
        assert (slot >= 0).all()
        assert (slot < 65_536).all()
        places.update((block * 65_536 + slot).tolist())

    assert len(places) == 60_000
    assert min(places) >= 0
    assert max(places) < n
    # Spread over everything: some in each tenth.
    assert len({place * 10 // n for place in places}) == 10


@given(n=st.integers(1, 300), seed=st.integers(0, 100))
def test_the_permutation_is_the_network_that_is_written_down(n: int, seed: int) -> None:
    keys = [derive_key(seed, 99, turn) for turn in range(4)]

    assert Permutation.of(n, seed, 99).as_array().tolist() == [feistel(i, n, keys) for i in range(n)]


@given(
    n=st.integers(1, 3000), block_places=st.integers(1, 400), first=st.integers(0, 2999), rows=st.integers(0, 3000)
)  # fmt: skip
def test_rows_are_placed_where_the_array_says(n: int, block_places: int, first: int, rows: int) -> None:
    first = min(first, n)
    rows = min(rows, n - first)
    permutation = Permutation.of(n, 7, PLACES)
    block, slot = permutation.place_rows(first, rows, block_places)
    expected = permutation.as_array()[first : first + rows]

    np.testing.assert_array_equal(block, expected // block_places)
    np.testing.assert_array_equal(slot, expected % block_places)


def test_seeds_and_epochs_give_orders_of_their_own() -> None:
    orders = [block_order(seed, epoch, 50).tolist() for seed in range(6) for epoch in range(6)]
    orders += [window_rows_order(seed, epoch, 0, 50).tolist() for seed in range(6) for epoch in range(6)]
    orders += [window_rows_order(0, 0, window, 50).tolist() for window in range(1, 6)]

    assert len({tuple(order) for order in orders}) == len(orders)


def test_places_are_as_good_as_random() -> None:
    """Neighbours come far apart and no block gets more of one part of the rows than chance gives it."""
    n, blocks = 100_000, 20
    order = Permutation.of(n, 5, PLACES).as_array()
    counts = np.histogram2d(np.arange(n), order, bins=(20, blocks))[0]
    expected = n / (20 * blocks)
    chi_square = ((counts - expected) ** 2 / expected).sum()

    # 361 degrees of freedom: 5 standard deviations about their number.
    assert 361 - 5 * np.sqrt(722) < chi_square < 361 + 5 * np.sqrt(722)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / np.sqrt(n)


# Choices


@pytest.mark.parametrize("fraction", [0.0, 1e-4, 0.01, 0.1, 0.5, 0.999])
def test_the_chosen_share_is_the_one_asked_for(fraction: float) -> None:
    n = 400_000
    chosen = chosen_rows(1, SAMPLE, "part=1/file.parquet", 0, n, fraction).sum()

    assert abs(chosen - n * fraction) <= 5 * np.sqrt(n * fraction * (1 - fraction)) + 1e-9


@given(cuts=st.lists(st.integers(0, 500), max_size=5))
def test_the_choice_of_a_row_does_not_depend_on_how_the_file_is_read(cuts: list[int]) -> None:
    whole = chosen_rows(1, HOLDOUT, "a.parquet", 0, 500, 0.3)
    bounds = [0, *sorted(cuts), 500]
    parts = [chosen_rows(1, HOLDOUT, "a.parquet", start, stop - start, 0.3) for start, stop in pairwise(bounds)]

    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_larger_fraction_keeps_what_a_smaller_one_chose() -> None:
    small, large = (chosen_rows(1, SAMPLE, "a.parquet", 0, 10_000, fraction) for fraction in (0.1, 0.3))

    assert not (small & ~large).any()


@pytest.mark.parametrize("other", [(2, SAMPLE, "a.parquet"), (1, HOLDOUT, "a.parquet"), (1, SAMPLE, "b.parquet")])
def test_choices_by_other_seeds_purposes_and_files_are_independent(other: tuple[int, int, str]) -> None:
    n = 100_000
    here, there = chosen_rows(1, SAMPLE, "a.parquet", 0, n, 0.5), chosen_rows(*other, 0, n, 0.5)

    assert abs((here == there).mean() - 0.5) < 5 * 0.5 / np.sqrt(n)


# Slices and windows

shapes = st.tuples(
    st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 15), st.integers(1, 14), st.integers(0, 50)
)


@given(shape=shapes)
def test_the_order_of_the_files_covers_every_row_once(shape: tuple[list[int], int, int, int]) -> None:
    rows, slice_rows, _, _ = shape
    pieces = file_order(manifest_of(rows), slice_rows)
    numbers = [piece.row_group.first_row + row for piece in pieces for row in range(piece.start, piece.stop)]

    assert numbers == list(range(sum(rows)))
    assert all(1 <= piece.rows <= slice_rows for piece in pieces)


@given(shape=shapes)
def test_windows_cover_every_slice_once_front_to_back(shape: tuple[list[int], int, int, int]) -> None:
    rows, slice_rows, lanes, seed = shape
    manifest = manifest_of(rows)
    windows = list(window_order(manifest, seed, 0, lanes, slice_rows))
    taken = [piece for window in windows for piece in window]

    assert Counter(taken) == Counter(file_order(manifest, slice_rows))
    for group in manifest.row_groups:
        starts = [piece.start for piece in taken if piece.row_group == group]
        assert starts == sorted(starts)


@given(shape=shapes)
def test_no_more_row_groups_are_open_than_there_are_lanes(shape: tuple[list[int], int, int, int]) -> None:
    rows, slice_rows, lanes, seed = shape
    begun: set[RowGroup] = set()
    ended: set[RowGroup] = set()
    windows = list(window_order(manifest_of(rows), seed, 1, lanes, slice_rows))
    for number, window in enumerate(windows):
        groups = [piece.row_group for piece in window]
        assert 1 <= len(groups) == len(set(groups)) <= lanes
        # What was begun and has not ended goes on in the next window: nothing waits with an open reader.
        assert begun - ended <= set(groups)
        begun |= set(groups)
        ended |= {piece.row_group for piece in window if piece.stop == piece.row_group.rows}
        # Lanes stay full as long as row groups wait.
        if number and len(begun) < len(rows):
            assert len(groups) == min(lanes, len(rows))


def test_windows_of_other_epochs_and_seeds_differ() -> None:
    manifest = manifest_of([10] * 12)
    orders = {tuple(map(tuple, window_order(manifest, seed, epoch, 4, 5))) for seed in range(3) for epoch in range(3)}

    assert len(orders) == 9


# The golden file: the order is a specification. A change here breaks every run that is under way.


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.astype("<i8").tobytes()).hexdigest()


def described(window: list[Slice]) -> list[list[int]]:
    return [[piece.row_group.file_index, piece.row_group.index, piece.start, piece.stop] for piece in window]


def order_now() -> dict[str, object]:
    """What the golden file pins."""
    manifest = manifest_of([25, 7, 40, 1, 12, 30, 5])
    return {
        "derive_key": {"()": derive_key(), "(0,)": derive_key(0), "(7, 1, 0)": derive_key(7, 1, 0)},
        "permutation_10": Permutation.of(10, 42, PLACES).as_array().tolist(),
        "permutation_1000": digest(Permutation.of(1000, 42, PLACES).as_array()),
        "place_rows": [array.tolist() for array in Permutation.of(10**9, 42, PLACES).place_rows(123_456, 4, 65_536)],
        "block_order": [block_order(42, epoch, 9).tolist() for epoch in range(3)],
        "window_order": [[described(w) for w in window_order(manifest, 42, epoch, 3, 10)] for epoch in range(2)],
        "window_rows_order": window_rows_order(42, 1, 2, 12).tolist(),
        "sample": np.flatnonzero(chosen_rows(42, SAMPLE, "a/b.parquet", 1000, 200, 0.1)).tolist(),
        "holdout": np.flatnonzero(chosen_rows(42, HOLDOUT, "a/b.parquet", 1000, 200, 0.1)).tolist(),
    }


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_order_is_that_of_the_golden_file(name: str) -> None:
    assert order_now()[name] == GOLDEN[name]


def test_the_golden_file_is_complete() -> None:
    assert set(GOLDEN) == set(order_now())
