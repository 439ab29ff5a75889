"""The same rows twice: with sparse columns, and with a feature for each of their coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamgd.data.blocks import Block, Entries

N_NUMERIC, N_LEVELS, N_SPARSE = 2, 3, 7
N_DOF = N_NUMERIC + N_LEVELS + N_SPARSE + 1
FIRST = N_NUMERIC + N_LEVELS


@dataclass(frozen=True)
class Twins:
    """``of_dense`` has for each coordinate of ``dense`` its place in theta of ``sparse``: theta = theta_dense there."""

    sparse: Block
    dense: Block
    of_dense: np.ndarray


def twins(
    rows: int, dtype: str = "float64", valued: bool = True, weighted: bool = True, n_classes: int = 2, seed: int = 0
) -> Twins:
    """Rows of 0 to 6 entries, some of which name a coordinate twice, numbers and levels; later coordinates are rare."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 7, rows)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    share = 0.5 ** np.arange(N_SPARSE)
    coordinates = (FIRST + rng.choice(N_SPARSE, starts[-1], p=share / share.sum())).astype(np.int32)
    values = rng.normal(size=starts[-1]) if valued else np.empty(0)
    entries = Entries(starts, coordinates, values.astype(dtype))
    codes = rng.integers(N_NUMERIC - 1, FIRST, (rows, 1)).astype(np.int32)
    codes[codes < N_NUMERIC] = -1
    sparse = Block(
        rng.normal(size=(rows, N_NUMERIC)).astype(dtype),
        codes,
        rng.integers(0, n_classes, rows).astype(float),
        rng.choice([0.5, 1.0, 3.0], rows) if weighted else np.empty(0),
        rng.normal(size=rows) if weighted and n_classes == 2 else np.empty(0),
        np.empty(0, np.uint64),
        entries,
    )
    added = np.zeros((rows, N_SPARSE))
    of_row = np.repeat(np.arange(rows), counts)
    np.add.at(added, (of_row, coordinates - FIRST), entries.values if valued else 1.0)
    features = np.hstack([sparse.features, added]).astype(dtype)
    codes = np.where(codes >= 0, codes + N_SPARSE, -1).astype(np.int32)
    dense = Block(features, codes, *sparse.arrays()[2:])
    of_dense = np.r_[:N_NUMERIC, FIRST : FIRST + N_SPARSE, N_NUMERIC:FIRST, N_DOF - 1]
    return Twins(sparse, dense, of_dense)
