"""A small data set on disk with all that blocks and windows can hold, and how it is encoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamgd.data.blocks import RecordLayout
from streamgd.data.columns import CategoricalColumn, Columns, NumericColumn, TargetColumn
from streamgd.data.encoder import Encoder, RowChoice
from streamgd.data.encoding import Encoding
from streamgd.data.scaler import Scaling
from streamgd.data.source import Manifest, discover
from streamgd.data.survey import Survey
from streamgd.data.vocabulary import CategoricalEncoding, Vocabulary, final_levels

CARRIER = CategoricalColumn("c", "string")
COLUMNS = Columns((NumericColumn("x", "x"), NumericColumn("k", "k")), (CARRIER,), TargetColumn("y"), "w", "o")
SHIFT0, SCALE0 = np.array([0.5, 100.0]), np.array([2.0, 50.0])


@dataclass(frozen=True)
class SmallLayout(RecordLayout):
    """A layout whose blocks and windows have 24 rows."""

    @property
    def block_rows(self) -> int:
        return 24


LAYOUT = SmallLayout(2, 1, "float64", True, True, True)


def table(rows: int) -> pa.Table:
    """Later rows are of later levels, so that the row groups differ."""
    rng = np.random.default_rng(rows)
    levels = [None if level == 5 else f"l{level}" for level in (np.arange(rows) * 6 // rows + rng.integers(0, 2, rows))]
    return pa.table({
        "x": pa.array(rng.normal(size=rows), mask=rng.random(rows) < 0.1), "k": np.arange(rows),
        "c": pa.array(levels, pa.string()), "y": pa.array(rng.normal(size=rows), mask=rng.random(rows) < 0.05),
        "w": rng.choice([0.5, 1.0, 4.0], rows), "o": rng.normal(size=rows),
    })  # fmt: skip


def written(folder: Path, rows: int, row_group_rows: int, files: int = 2) -> Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    each = -(-rows // files)
    for number in range(files):
        part = table(rows).slice(number * each, each)
        pq.write_table(part, folder / f"{number}.parquet", row_group_size=row_group_rows)
    return discover([str(folder)])


def growing_encoder(choice: RowChoice | None = None, layout: RecordLayout = LAYOUT, **options: Any) -> Encoder:
    vocabularies = [Vocabulary(CARRIER, 100, 16)]
    return Encoder(COLUMNS, layout, SHIFT0, SCALE0, vocabularies, choice=choice or RowChoice(), **options)


def encoding_of(survey: Survey, vocabularies: list[Vocabulary]) -> Encoding:
    """Standardised, every level known."""
    levels = final_levels(vocabularies[0], survey.level_counts[0])
    scaling = Scaling.from_moments(SHIFT0, SCALE0, survey.moments, True)
    return Encoding(COLUMNS, scaling, (CategoricalEncoding(CARRIER, 2, levels, False, 0),), "impute")


def expected_features(rows: pa.Table, train: np.ndarray) -> np.ndarray:
    """Standardised by the weighted moments of the training rows, the mean for null; straight from the table."""
    weight = rows["w"].to_numpy()
    features = np.empty((len(rows), 2))
    for j, name in enumerate(("x", "k")):
        values = np.array([np.nan if value is None else value for value in rows[name].to_pylist()], float)
        used = train & ~np.isnan(values)
        mean = np.average(values[used], weights=weight[used])
        deviation = np.sqrt(np.average((values[used] - mean) ** 2, weights=weight[used]))
        features[:, j] = np.where(np.isnan(values), 0.0, (values - mean) / deviation)
    return features


def expected_codes(rows: pa.Table, train: np.ndarray) -> np.ndarray:
    """Rows of theta: the heaviest level is the base, the others follow; levels of no training row count as it."""
    levels, weight = rows["c"].to_pylist(), rows["w"].to_numpy()
    total: dict[str | None, float] = {}
    for row in np.flatnonzero(train):
        total[levels[row]] = total.get(levels[row], 0.0) + weight[row]
    order = sorted(total, key=lambda level: (-total[level], level is None, level or ""))
    table = {level: 2 + place - 1 if place else -1 for place, level in enumerate(order)}
    return np.array([table.get(level, -1) for level in levels])
