"""Copies, sums and memory inside of loops."""

from __future__ import annotations

import numpy as np

from streamgd.kernels.arrays import copy, inner, sum_of, zeros_in_lines
from streamgd.kernels.prefetch import CACHE_LINE_BYTES


def test_the_front_is_written_and_the_rest_stays() -> None:
    out = np.full(5, 7.0)
    copy(np.array([1.0, np.nan, -0.0]), out)
    copy(np.empty(0), out)
    expected = np.array([1.0, np.nan, -0.0, 7.0, 7.0])
    np.testing.assert_array_equal(out.view(np.int64), expected.view(np.int64))


def test_sums_are_those_of_numpy() -> None:
    left, right = np.random.default_rng(0).normal(size=(2, 1001))
    np.testing.assert_allclose(sum_of(left), left.sum(), rtol=1e-12)
    np.testing.assert_allclose(inner(left, right), left @ right, rtol=1e-12)
    np.testing.assert_allclose(inner(left[:7], right), left[:7] @ right[:7], rtol=1e-12)
    assert sum_of(np.empty(0)) == inner(np.empty(0), right) == 0.0


def test_rows_of_zeros_begin_with_a_cache_line() -> None:
    for width in range(0, 64, 8):
        rows = zeros_in_lines(3, width)
        assert (rows.shape, rows.dtype, rows.any()) == ((3, width), np.float64, False)
        assert rows.flags.c_contiguous
        assert rows.ctypes.data % CACHE_LINE_BYTES == 0
