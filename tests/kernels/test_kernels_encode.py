"""Arrow buffers read by address: values, null bitmaps at any offset, moments, and the loops that move records."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgd.kernels import encode as kernels
from streamgd.kernels import moments as moments_kernels
from streamgd.kernels.arrow import KINDS
from streamgd.kernels.moments import TILE_ROWS

TYPES = {
    "double": pa.float64(), "float": pa.float32(), "int64": pa.int64(), "int32": pa.int32(), "int16": pa.int16(),
    "int8": pa.int8(), "uint32": pa.uint32(), "uint16": pa.uint16(), "uint8": pa.uint8(), "bool": pa.bool_(),
}  # fmt: skip


def encoded(
    arrays: list[pa.Array], weight: np.ndarray, shift: np.ndarray, scale: np.ndarray, dtype: type = np.float64,
    kept: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Features (n_rows, n_columns), moments and the mask of nulls, by the kernel."""
    buffers = [array.buffers() for array in arrays]
    addresses = np.array([values.address for _, values in buffers])
    validity = np.array([bitmap.address if bitmap is not None else 0 for bitmap, _ in buffers])
    offsets = np.array([array.offset for array in arrays])
    kinds = np.array([KINDS.index(str(array.type)) for array in arrays])
    # Two elements stand before the features, one after them, and must be left alone.
    out = np.full((len(weight), len(arrays) + 3), 77.0, dtype)
    target, target_out = np.arange(0.5, len(weight)), np.empty((len(weight), 2))
    ends = np.array([*range(TILE_ROWS, len(weight), TILE_ROWS), len(weight)])
    tiles, edges = np.full((len(ends), len(arrays) + 1, 3), np.nan), np.empty((0, 0, 0))
    found, has_null = np.full((len(arrays), 2), np.nan), np.zeros(len(weight), np.bool_)
    kept = weight > 0 if kept is None else kept
    largest = kernels.encode_numeric(
        addresses, validity, offsets, kinds, weight, shift, scale, np.zeros_like(shift), np.ones_like(scale),
        target, out, 2, target_out[:, 1], ends, tiles, edges, found, kept, has_null, True,
    )  # fmt: skip
    assert (out[:, :2] == 77.0).all()
    assert (out[:, -1] == 77.0).all()
    np.testing.assert_array_equal(target_out[:, 1], target)
    np.testing.assert_array_equal(found[:, 1], np.isnan(out[kept][:, 2:-1]).sum(axis=0))
    moments = np.zeros((len(arrays) + 1, 3))
    moments_kernels.merge_in_order(tiles, moments)
    assert largest == (target[weight > 0].max() if (weight > 0).any() else 0.0)
    moments = moments[:-1]
    return out[:, 2:-1], np.column_stack([moments, found[:, 0]]), has_null


def plain_values(array: pa.Array) -> np.ndarray:
    """The values as float64, NaN where null, by way of Python."""
    return np.array([np.nan if value is None else float(value) for value in array.to_pylist()])


def random_values(name: str, n: int, rng: np.random.Generator) -> list[float | int | bool | None]:
    if name == "bool":
        values = (rng.random(n) < 0.5).tolist()
    elif name in ("double", "float"):
        values = rng.normal(5.0, 30.0, n).astype(np.float32).tolist()
    else:
        limits = np.iinfo(name)
        values = rng.integers(max(limits.min, -(2**52)), min(limits.max, 2**52), n, endpoint=True).tolist()
    return [None if rng.random() < 0.2 else value for value in values]


def check_moments(moments: np.ndarray, values: np.ndarray, weight: np.ndarray, shift: float, scale: float) -> None:
    z = (values - shift) / scale
    used = ~np.isnan(z) & (weight > 0)
    z, w = z[used], weight[used]
    if not used.any():
        np.testing.assert_array_equal(moments, 0.0)
        return
    mean = np.average(z, weights=w)
    size = np.abs(z).max()
    assert moments[0] == pytest.approx(w.sum(), rel=1e-13)
    assert moments[1] == pytest.approx(mean, rel=1e-12, abs=1e-13 * size)
    assert moments[2] == pytest.approx((w * (z - mean) ** 2).sum(), rel=1e-11, abs=1e-22 * size**2 * w.sum())
    assert moments[3] == np.abs(values[used]).max()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("nulls", [True, False])
def test_every_element_type_is_read_as_numpy_reads_it(name: str, dtype: type, nulls: bool) -> None:
    rng = np.random.default_rng(KINDS.index(name))
    # More than two tiles, the last one short.
    n = 2 * TILE_ROWS + 37
    values = random_values(name, n + 50, rng)
    if not nulls:
        values = [value for value in values if value is not None]
        values += values
    array = pa.array(values, TYPES[name])
    array = array.slice(13, n)
    assert (array.null_count > 0) == nulls
    weight = rng.choice([0.0, 0.5, 2.0], n)
    features, moments, has_null = encoded([array], weight, np.array([3.0]), np.array([7.0]), dtype)

    expected = plain_values(array)
    np.testing.assert_array_equal(has_null, np.isnan(expected))
    np.testing.assert_allclose(features[:, 0], (expected - 3.0) / 7.0, rtol=np.finfo(dtype).eps * 2)
    check_moments(moments[0], expected, weight, 3.0, 7.0)


@settings(max_examples=60)
@given(
    name=st.sampled_from(KINDS),
    offset=st.integers(0, 40),
    n=st.integers(0, 70),
    seed=st.integers(0, 10**6),
)
def test_slices_begin_anywhere_in_values_and_bitmap(name: str, offset: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = pa.array(random_values(name, offset + n + 9, rng), TYPES[name]).slice(offset, n)
    features, _, has_null = encoded([array], np.ones(n), np.zeros(1), np.ones(1))

    np.testing.assert_array_equal(features[:, 0], plain_values(array))
    np.testing.assert_array_equal(has_null, [value is None for value in array.to_pylist()])


def test_columns_do_not_mix() -> None:
    rng = np.random.default_rng(4)
    n = TILE_ROWS + 5
    arrays = [pa.array(random_values(name, n + k, rng), TYPES[name]).slice(k, n) for k, name in enumerate(TYPES)]
    shift, scale = rng.normal(size=len(arrays)), rng.uniform(0.5, 2.0, len(arrays))
    weight = rng.uniform(0.1, 3.0, n)
    features, moments, has_null = encoded(arrays, weight, shift, scale)
    expected = np.stack([plain_values(array) for array in arrays], axis=1)

    np.testing.assert_allclose(features, (expected - shift) / scale, rtol=1e-15)
    np.testing.assert_array_equal(has_null, np.isnan(expected).any(axis=1))
    for j in range(len(arrays)):
        check_moments(moments[j], expected[:, j], weight, shift[j], scale[j])


def test_nan_counts_as_null() -> None:
    array = pa.array([1.0, float("nan"), 3.0, None])
    features, moments, has_null = encoded([array], np.ones(4), np.zeros(1), np.ones(1))

    assert has_null.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(features[:, 0], [1.0, np.nan, 3.0, np.nan])
    np.testing.assert_allclose(moments[0], [2.0, 2.0, 2.0, 3.0], rtol=1e-15)


@pytest.mark.parametrize("left_out", [np.inf, -np.inf, 1e300, np.nan])
def test_what_stands_in_a_row_of_weight_zero_has_no_part_in_the_moments(left_out: float) -> None:
    values = pa.array([1.0, left_out, 3.0])
    _, moments, _ = encoded([values], np.array([1.0, 0.0, 1.0]), np.zeros(1), np.ones(1))

    np.testing.assert_array_equal(moments[0], [2.0, 2.0, 2.0, 3.0])


def test_infinity_shows_as_the_largest_magnitude_of_the_rows_that_are_kept() -> None:
    values, weight = [pa.array([1.0, -np.inf])], np.array([1.0, 0.0])
    for kept in (True, False):
        _, moments, _ = encoded(values, weight, np.zeros(1), np.ones(1), kept=np.array([True, kept]))

        np.testing.assert_array_equal(moments[0], [1.0, 1.0, 0.0, np.inf if kept else 1.0])


def test_a_column_of_nulls_has_no_moments() -> None:
    _, moments, has_null = encoded([pa.nulls(5, pa.float64())], np.ones(5), np.zeros(1), np.ones(1))

    np.testing.assert_array_equal(moments[0], 0.0)
    assert has_null.all()


def test_moments_keep_their_digits_where_the_shift_is_that_of_the_column() -> None:
    values = 1e15 + np.tile([-1.0, 1.0], 3000)
    _, moments, _ = encoded([pa.array(values)], np.ones(6000), np.array([1e15]), np.ones(1))

    np.testing.assert_allclose(moments[0, :3], [6000.0, 0.0, 6000.0], atol=1e-10)


@pytest.mark.parametrize("name", ["double", "int64", "int8", "bool"])
def test_classes_are_numbered_in_their_order(name: str) -> None:
    values: list[Any] = [True, False, None] if name == "bool" else [7, -3, None, 0, 5]
    classes = np.array([True, False] if name == "bool" else [5, -3, 7], np.float64)
    rng = np.random.default_rng(2)
    rows = [values[k] for k in rng.integers(0, len(values), 700)]
    array = pa.array(rows, pa.type_for_alias(name))[3:]
    bitmap, buffer = array.buffers()
    out = np.empty(len(array))
    of_array = [buffer.address, bitmap.address, array.offset, KINDS.index(name)]
    kept = np.arange(len(array)) > 300
    unknown, has_nan = kernels.class_numbers(*(np.array([part]) for part in of_array), classes, kept, out)

    number = {value: float(k) for k, value in enumerate(classes.tolist())}
    expected = np.array([np.nan if value is None else number.get(float(value), np.inf) for value in rows[3:]])
    np.testing.assert_array_equal(out, expected)
    assert has_nan
    of_no_class = np.flatnonzero(np.isinf(expected) & kept)
    assert unknown == (of_no_class[0] if len(of_no_class) else -1)


def test_codes_are_those_of_the_places_and_their_weights_are_counted() -> None:
    rng = np.random.default_rng(0)
    places = [rng.integers(0, size, 700).astype(np.int32) for size in (5, 1, 300)]
    tables = [rng.integers(-9, 99, size).astype(np.int32) for size in (5, 1, 300)]
    weight = rng.integers(0, 4, 700).astype(float)
    starts, out, counts = np.array([0, 5, 6]), np.full((700, 5), -77, np.int32), np.zeros(306)
    addresses = np.array([each.ctypes.data for each in places])
    kernels.encode_codes(addresses, np.concatenate(tables), starts, weight, counts, out, 1)

    for column, (place, table) in enumerate(zip(places, tables, strict=True)):
        np.testing.assert_array_equal(out[:, 1 + column], table[place])
        counted = np.bincount(place, weight, len(table))
        np.testing.assert_array_equal(counts[starts[column] : starts[column] + len(table)], counted)
    assert (out[:, [0, 4]] == -77).all()
    kernels.encode_codes(addresses, np.concatenate(tables), starts, np.empty(0), np.empty(0), out, 1)


@given(codes=st.lists(st.integers(-3, 8), max_size=30), weights=st.lists(st.sampled_from([0.0, 1.0, 2.5]), max_size=30))
def test_weights_of_places_are_summed_by_code(codes: list[int], weights: list[float]) -> None:
    n = min(len(codes), len(weights))
    table, counts = np.array(codes[:n], np.int32), np.array(weights[:n])
    found = kernels.weight_by_code(table, counts)

    used = (table >= 0) & (counts > 0)
    assert found.tolist() == (np.bincount(table[used], counts[used]).tolist() if used.any() else [])
