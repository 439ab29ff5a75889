"""A list column of indices, as hashed columns give them: each row names `active` of very many columns.

Each place of the list has columns of its own, of a popularity that falls as rank^-EXPONENT (Zipf's law): a few occur in
most rows, most in a few rows of a million. They are numbered at random over all places.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

EXPONENT = 1.1

Float64Array: TypeAlias = npt.NDArray[np.float64]
Int32Array: TypeAlias = npt.NDArray[np.int32]


def first_ranks(active: int, columns: int) -> npt.NDArray[np.int64]:
    """Where the ranks of each place of the list begin, and the end of the last; shape (active + 1,).

    >>> first_ranks(3, 8).tolist()
    [0, 2, 5, 8]
    """
    return np.arange(active + 1) * columns // active


def draw_numbers(random: np.random.Generator, columns: int) -> Int32Array:
    """The number that the column of each rank has."""
    return random.permutation(columns).astype(np.int32)


def draw_effects(random: np.random.Generator, active: int, columns: int, variance: float) -> Float64Array:
    """Effects of all columns by rank; each place adds the same part of `variance`, with mean 0, to raw."""
    effects, firsts = random.standard_normal(columns), first_ranks(active, columns)
    for first, end in pairwise(firsts):
        power = np.arange(1.0, end - first + 2.0) ** (1.0 - EXPONENT)
        probability = np.diff(power) / (power[-1] - 1.0)
        of_place = effects[first:end]
        of_place -= of_place @ probability
        if end - first > 1:
            of_place *= np.sqrt(variance / active / (np.square(of_place) @ probability))
    return effects


def draw_ranks(random: np.random.Generator, rows: int, active: int, columns: int) -> npt.NDArray[np.int64]:
    """Ranks of the columns that each row names, shape (rows, active)."""
    firsts = first_ranks(active, columns)
    sizes = np.diff(firsts)
    # The inverse of the distribution function, of a density that falls as x^-EXPONENT from 1 to size + 1.
    power = 1.0 - EXPONENT
    drawn = random.random((rows, active))
    drawn *= (sizes + 1.0) ** power - 1.0
    drawn += 1.0
    drawn **= 1.0 / power
    return firsts[:-1] + np.clip(drawn.astype(np.int64) - 1, 0, sizes - 1)
