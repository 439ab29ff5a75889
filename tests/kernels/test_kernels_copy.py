"""Copies inside of loops."""

from __future__ import annotations

import numpy as np

from streamgd.kernels.copy import copy


def test_the_front_is_written_and_the_rest_stays() -> None:
    out = np.full(5, 7.0)
    copy(np.array([1.0, np.nan, -0.0]), out)
    copy(np.empty(0), out)
    expected = np.array([1.0, np.nan, -0.0, 7.0, 7.0])
    np.testing.assert_array_equal(out.view(np.int64), expected.view(np.int64))
