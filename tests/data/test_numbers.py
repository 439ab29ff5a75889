"""Columns of numbers as float64."""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from streamgd.data.numbers import as_float64


@pytest.mark.parametrize(
    "arrow_type",
    [pa.int8(), pa.uint8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.decimal128(9, 3)],
    ids=str,
)
def test_numbers_of_every_type_keep_their_values_and_nulls(arrow_type: pa.DataType) -> None:
    values = [0, 1, None, 100]
    if pa.types.is_decimal(arrow_type):
        values = [None if value is None else Decimal(value) for value in values]
    if pa.types.is_float16(arrow_type):
        values = [None if value is None else np.float16(value) for value in values]

    result = as_float64(pa.array(values, arrow_type))

    assert result.type == pa.float64()
    assert result.to_pylist() == [0.0, 1.0, None, 100.0]


def test_integers_beyond_exact_doubles_are_rounded_not_refused() -> None:
    assert as_float64(pa.array([2**64 - 1], pa.uint64())).to_pylist() == [2.0**64]


def test_decimals_become_doubles_to_the_last_place_or_so() -> None:
    values = ["0.1", "0.3", "-123456789.7"]
    array = pa.array([Decimal(value) for value in values], pa.decimal256(50, 1))

    assert as_float64(array).to_pylist() == pytest.approx([float(value) for value in values], rel=4e-16, abs=0)
