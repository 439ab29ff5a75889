"""Levels in bytes: codes in the order of meeting, as a dictionary of Python gives them, and back from plain arrays."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgd.data import levels as module
from streamgd.data.levels import ARROW_TYPES, LevelIndex, levels_from_state, levels_state, no_levels
from streamgd.errors import DataError
from streamgd.state import join, split

VALUES = {
    "string": st.text(max_size=3), "int": st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
    "float": st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0]), "bool": st.booleans(),
}  # fmt: skip


@st.composite
def batches(draw: st.DrawFn) -> tuple[str, list[list[Any]]]:
    values = draw(st.sampled_from(sorted(VALUES)))
    return values, draw(st.lists(st.lists(st.none() | VALUES[values], max_size=60), max_size=5))


@given(batches=batches(), skipped=st.integers(0, 3))
def test_levels_get_the_codes_that_a_dictionary_gives(batches: tuple[str, list[list[Any]]], skipped: int) -> None:
    values, parts = batches
    index, expected = LevelIndex(values), {}
    for part in parts:
        met = part[skipped:]
        for level in met:
            expected.setdefault(level, len(expected))
        codes = index.codes(pa.array(part, ARROW_TYPES[values])[skipped:], growing=True)
        assert codes.tolist() == [expected[level] for level in met]

    assert len(index) == len(expected)
    assert index.levels.type == ARROW_TYPES[values]
    assert index.levels.to_pylist() == list(expected)
    again = LevelIndex(values, index.levels)
    assert again.codes(index.levels, growing=False).tolist() == list(range(len(expected)))


@given(batches=batches(), skipped=st.integers(0, 3))
def test_levels_come_back_from_their_state(batches: tuple[str, list[list[Any]]], skipped: int) -> None:
    values, parts = batches
    distinct = list(dict.fromkeys(level for part in parts for level in part))
    levels = pa.array(distinct, ARROW_TYPES[values])[skipped:]
    arrays, tree = split(levels_state(levels, values))

    assert levels_from_state(join(arrays, tree)).equals(levels)


def test_many_levels_find_their_codes_again() -> None:
    texts = pa.array([f"level {number}" for number in range(100_000)])
    index = LevelIndex("string", texts)
    order = np.random.default_rng(0).permutation(len(texts))

    np.testing.assert_array_equal(index.codes(texts.take(pa.array(order)), growing=False), order)
    assert index.codes(pa.array(["level 100000", "", None]), growing=False).tolist() == [-1, -1, -1]


def test_no_text_is_taken_for_another_of_the_same_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hashes that are all alike, only the bytes tell levels apart."""
    monkeypatch.setattr(module.kernels, "hash_texts", lambda _offsets, _data, out: out.fill(7))
    levels = [f"{number}" for number in range(200)] + ["", None, "1 "]

    assert LevelIndex("string").codes(pa.array(levels + levels), growing=True).tolist() == [*range(203)] * 2


def test_more_than_two_gigabytes_of_levels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    with pytest.raises(DataError, match="more than 2 GB"):
        LevelIndex("string").codes(pa.array([str(number) * 9 for number in range(100)]), growing=True)


@pytest.mark.parametrize("values", sorted(ARROW_TYPES))
def test_no_levels_have_their_type(values: str) -> None:
    assert no_levels(values).type == ARROW_TYPES[values]
    assert len(LevelIndex(values, no_levels(values))) == 0


@pytest.mark.parametrize(
    "lengths",
    [[2**30, 5], [1], [1, 1, 1], [2**32 - 1, 3], np.array([1, 1]), np.array([-1, 3]), np.array([2**32 + 2])],
    ids=str,
)
@pytest.mark.parametrize("values", VALUES)
def test_lengths_that_lead_out_of_the_bytes_are_refused(lengths: Any, values: str) -> None:
    lengths = np.array(lengths, np.uint32) if isinstance(lengths, list) else lengths
    with pytest.raises(ValueError, match="lengths do not add up"):
        levels_from_state({"values": values, "lengths": lengths, "bytes": np.zeros(2, np.uint8), "null": -1})
