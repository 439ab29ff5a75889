"""Levels and their codes: the final table does not depend on who met which level first."""

import threading
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgd.data.columns import CategoricalColumn, Label
from streamgd.data.levels import as_dictionary, no_levels
from streamgd.data.vocabulary import (
    UNKNOWN,
    CategoricalEncoding,
    Vocabulary,
    final_levels,
    hash_buckets,
)

Level = Label | None

TEXT = CategoricalColumn("carrier", "string")


def texts(*levels: str | None) -> pa.Array:
    return pa.array(levels, pa.string())


def counted(vocabulary: Vocabulary, levels: list[Level]) -> np.ndarray:
    """Total weight of each code, after the vocabulary has met the levels one by one."""
    counts = np.zeros(1000)
    for level in levels:
        counts[vocabulary.codes(pa.array([level], pa.string()))] += 1.0
    return counts


# Final order


def test_levels_are_ordered_by_frequency_then_value_then_null() -> None:
    vocabulary = Vocabulary(TEXT, 100, 16)
    levels = ["c", "a", None, "b", "a", "b", "z", "z", "z", None]
    counts = counted(vocabulary, levels)

    assert final_levels(vocabulary, counts).to_pylist() == ["z", "a", "b", None, "c"]


@pytest.mark.parametrize(
    ("values", "levels", "expected"),
    [("int", [10, 9, -3], [-3, 9, 10]), ("float", [2.5, -1.0], [-1.0, 2.5]), ("bool", [True, False], [False, True])],
)
def test_ties_are_ordered_as_values_not_as_text(values: str, levels: list[Level], expected: list[Level]) -> None:
    vocabulary = Vocabulary(CategoricalColumn("x", values), 100, 16)
    vocabulary.codes(pa.array(levels))

    assert final_levels(vocabulary, np.ones(len(levels))).to_pylist() == expected


def test_levels_that_no_training_row_has_are_left_out() -> None:
    vocabulary = Vocabulary(TEXT, 100, 16)
    vocabulary.codes(pa.array(["a", "held out", "b", "never counted"]))

    assert final_levels(vocabulary, np.array([1.0, 0.0, 2.0])).to_pylist() == ["b", "a"]


@given(levels=st.lists(st.one_of(st.none(), st.text(max_size=2)), min_size=1, max_size=40), seed=st.integers(0, 999))
def test_any_order_of_meeting_gives_the_same_final_table(levels: list[Level], seed: int) -> None:
    shuffled = list(levels)
    np.random.default_rng(seed).shuffle(shuffled)
    tables = []
    for order in (levels, shuffled):
        vocabulary = Vocabulary(TEXT, 100, 16)
        final = final_levels(vocabulary, counted(vocabulary, order))
        encoding = CategoricalEncoding(TEXT, 5, final, False, 0)
        rows = zip(vocabulary.levels.to_pylist(), encoding.table(vocabulary).tolist(), strict=True)
        tables.append((final.to_pylist(), dict(rows)))

    assert tables[0] == tables[1]
    frequencies = Counter(levels)
    final = tables[0][0]
    assert sorted(frequencies[level] for level in final) == [frequencies[level] for level in reversed(final)]
    assert set(final) == set(levels)


def test_threads_that_share_a_vocabulary_agree_on_every_code() -> None:
    vocabulary = Vocabulary(TEXT, 10_000, 16)
    found: list[dict[Level, int]] = [{} for _ in range(4)]
    start = threading.Barrier(4)

    def meet(thread: int) -> None:
        order = np.random.default_rng(thread).permutation(500)
        start.wait()
        for part in np.array_split(order, 25):
            levels = [f"level {number}" for number in part]
            found[thread].update(zip(levels, vocabulary.codes(pa.array(levels)).tolist(), strict=True))

    threads = [threading.Thread(target=meet, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found[0] == found[1] == found[2] == found[3]
    assert sorted(found[0].values()) == list(range(500))
    assert vocabulary.levels.to_pylist() == sorted(found[0], key=found[0].__getitem__)


def test_a_vocabulary_goes_on_from_what_was_written_down() -> None:
    first = Vocabulary(TEXT, 100, 16)
    first.codes(pa.array(["x", None, "y"]))
    second = Vocabulary(TEXT, 100, 16)
    second.restore(first.state())

    assert second.codes(pa.array(["y", "z", None])).tolist() == [2, 3, 1]


def test_a_frozen_vocabulary_does_not_grow() -> None:
    frozen = Vocabulary(TEXT, 0, 0, texts("UA", None), growing=False)

    assert frozen.codes(pa.array(["new", "UA", None, ""])).tolist() == [UNKNOWN, 0, 1, UNKNOWN]
    assert frozen.levels.to_pylist() == ["UA", None]
    assert not frozen.hashed


# Rows of theta


def test_each_level_has_a_name_of_its_own() -> None:
    levels = texts("AA", "null", None, "(other)", "", " ")
    names = CategoricalEncoding(TEXT, 0, levels, other=True, buckets=0, base_row=True).row_names()
    assert names == [
        "carrier=AA", "carrier='null'", "carrier=null", "carrier='(other)'", "carrier=''", "carrier=' '",
        "carrier=(other)",
    ]  # fmt: skip


def test_the_base_level_has_no_coefficient_and_unknown_levels_count_as_it() -> None:
    encoding = CategoricalEncoding(TEXT, 10, texts("UA", "AA", None), False, 0)
    words = Vocabulary(TEXT, 0, 0, texts("AA", "zz", None, "UA"), growing=False)

    assert encoding.table(words).tolist() == [10, -1, 11, -1]
    assert (encoding.n_rows, encoding.unknown_row) == (2, -1)
    assert encoding.row_names() == ["carrier=AA", "carrier=null"]


def test_levels_that_are_not_listed_may_share_a_row() -> None:
    encoding = CategoricalEncoding(TEXT, 10, texts("UA", "AA"), True, 0)
    words = Vocabulary(TEXT, 0, 0, texts("zz", "UA", "AA"), growing=False)

    assert encoding.table(words).tolist() == [11, -1, 10]
    assert (encoding.n_rows, encoding.unknown_row) == (2, 11)
    assert encoding.row_names() == ["carrier=AA", "carrier=(other)"]


def test_a_base_level_with_a_row_comes_first() -> None:
    encoding = CategoricalEncoding(TEXT, 10, texts("UA", "AA"), False, 0, base_row=True)
    words = Vocabulary(TEXT, 0, 0, texts("zz", "UA", "AA"), growing=False)

    assert encoding.table(words).tolist() == [10, 10, 11]
    assert encoding.row_names() == ["carrier=UA", "carrier=AA"]


def test_text_that_is_not_utf8_has_a_name_all_the_same() -> None:
    buffers = [None, pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"a\xff\xfe")]
    damaged = pa.Array.from_buffers(pa.string(), 2, buffers)

    assert CategoricalEncoding(TEXT, 0, damaged, False, 0).row_names() == ["carrier=\\xff\\xfe"]


def test_a_column_without_a_level_has_no_rows() -> None:
    encoding = CategoricalEncoding(TEXT, 10, texts(), False, 0)

    assert (encoding.n_rows, encoding.unknown_row, encoding.row_names()) == (0, -1, [])


@pytest.mark.parametrize("base_row", [True, False])
def test_an_encoding_comes_back_from_its_state(base_row: bool) -> None:
    for encoding in (
        CategoricalEncoding(TEXT, 3, texts("b", "a", None), True, 0, base_row),
        CategoricalEncoding(CategoricalColumn("n", "int", True), 3, no_levels("int"), False, 32),
    ):
        assert CategoricalEncoding.from_state(encoding.state()) == encoding


# Hashing


def test_hashes_are_pinned() -> None:
    """FNV-1a, 64 bit, of the text, modulo the buckets: a stored model must find its coefficients again."""
    assert hash_buckets(pa.array(["", "a", "foobar", "Zürich"]), 2**30).tolist() == [
        0xCBF29CE484222325 % 2**30,
        0xAF63DC4C8601EC8C % 2**30,
        0x85944171F73967E8 % 2**30,
        795344320,
    ]
    assert (
        hash_buckets(pa.array([0, -7, 2**40]), 1000).tolist()
        == hash_buckets(pa.array(["0", "-7", str(2**40)]), 1000).tolist()
    )
    assert hash_buckets(pa.array([None], pa.string()), 1000).tolist() == [455]
    assert hash_buckets(pa.array([1.5, 2.0]), 1000).tolist() == hash_buckets(pa.array(["1.5", "2"]), 1000).tolist()


@given(levels=st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=20), start=st.integers(0, 20))
def test_slices_hash_as_their_levels_do(levels: list[str | None], start: int) -> None:
    whole = hash_buckets(pa.array(levels, pa.string()), 97)
    part = hash_buckets(pa.array(levels, pa.string()).slice(start), 97)

    assert part.tolist() == whole[start:].tolist()
    assert ((whole >= 0) & (whole < 97)).all()


def test_a_hashed_column_keeps_no_levels() -> None:
    vocabulary = Vocabulary(CategoricalColumn("x", "string", hashed=True), 100, 64)
    codes = vocabulary.codes(pa.array(["a", "b", None]))

    assert codes.tolist() == (-2 - hash_buckets(pa.array(["a", "b", None]), 64)).tolist()
    assert len(vocabulary.levels) == 0


@given(order=st.permutations([f"v{number}" for number in range(9)]), step=st.integers(1, 9))
def test_too_many_levels_give_the_same_rows_whatever_the_order(order: list[str], step: int) -> None:
    """Levels that were met before the switch have codes, later ones are buckets; the rows are the same."""
    vocabulary = Vocabulary(TEXT, 5, 64)
    rows: dict[str, int] = {}
    codes = {}
    for start in range(0, len(order), step):
        part = order[start : start + step]
        codes.update(zip(part, vocabulary.codes(pa.array(part)).tolist(), strict=True))
    encoding = CategoricalEncoding(TEXT, 10, texts(), False, 64)
    table = encoding.table(vocabulary)
    for level, code in codes.items():
        rows[level] = int(table[code]) if code >= 0 else 10 - 2 - code

    assert vocabulary.hashed
    assert rows == {level: 10 + int(hash_buckets(pa.array([level]), 64)[0]) for level in order}


def test_as_many_levels_as_allowed_are_not_hashed() -> None:
    vocabulary = Vocabulary(TEXT, 3, 64)
    vocabulary.codes(pa.array(["a", "b", "c"]))
    assert not vocabulary.hashed
    vocabulary.codes(pa.array(["d"]))
    assert vocabulary.hashed


# Dictionaries


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["a", None, "b", "a"]),
        pa.array(["a", None, "b", "a"], pa.large_string()),
        pa.array(["a", None, "b", "a"], pa.string_view()),
        pa.array(["a", None, "b", "a"]).dictionary_encode(),
        pa.array(["a", None, "b", "a"], pa.large_string()).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([1, None, 0, 1], pa.uint8()), pa.array(["b", "a", "unused"])),
        pa.array(["x", "a", None, "b", "a", "y"]).slice(1, 4),
    ],
)
def test_text_of_any_storage_becomes_the_same_levels(array: pa.Array) -> None:
    found = as_dictionary(array, "string")

    assert found.dictionary.type == pa.string()
    assert found.to_pylist() == ["a", None, "b", "a"]


def test_nan_is_a_null_of_a_float_column() -> None:
    found = as_dictionary(pa.array([1.5, float("nan"), None]), "float")

    assert found.to_pylist() == [1.5, None, None]


def test_dictionaries_that_come_in_turn_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = []
    codes_of = Vocabulary._codes

    def counted(vocabulary: Vocabulary, levels: pa.Array) -> np.ndarray:
        looked_up.append(levels.to_pylist())
        return codes_of(vocabulary, levels)

    monkeypatch.setattr(Vocabulary, "_codes", counted)
    vocabulary = Vocabulary(CategoricalColumn("c", "string"), 10, 0)
    vocabulary.kept_dictionaries = 3
    dictionaries = [["a", "b"], ["b", "c"], ["d"]]
    for _ in range(4):
        found = [vocabulary.codes(pa.array(levels)).tolist() for levels in dictionaries]
        assert found == [[0, 1], [1, 2], [3]]

    assert looked_up == dictionaries
