"""Theta of a full shuffle depends on the global numbers of rows alone: not on files, row groups or types of text."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamgd
from streamgd.data import sample

ROWS = 2_500


def rows() -> pa.Table:
    """Sorted by time, with a rare value far off, nulls, weights, text and a decimal."""
    random = np.random.default_rng(5)
    when = np.sort(random.integers(1_600_000_000, 1_700_000_000, ROWS))
    far = np.where(random.random(ROWS) < 0.01, 1e9, random.normal(size=ROWS))
    level = np.array(["a", "b", "c", "d"])[random.choice(4, ROWS, p=[0.4, 0.3, 0.2, 0.1])]
    y = (when - 1.65e9) / 1e8 + (level == "b") + random.normal(size=ROWS)
    return pa.table(
        {
            "when": when.astype(np.float64), "far": pa.array(far, mask=random.random(ROWS) < 0.2), "level": level,
            "price": pa.array(random.integers(0, 99_999, ROWS)).cast(pa.decimal128(22, 2)),
            "w": random.integers(0, 4, ROWS), "y": y, "late": y > 0,
        }
    )  # fmt: skip


def written(folder: Path, cuts: list[int], group_rows: int, as_codes: bool) -> str:
    """The rows in a file for each part between the cuts."""
    table = rows()
    if as_codes:
        table = table.set_column(2, "level", table.column("level").dictionary_encode())
    bounds = [0, *sorted(set(cuts)), ROWS]
    for number, (start, stop) in enumerate(pairwise(bounds)):
        pq.write_table(table.slice(start, stop - start), folder / f"{number:03d}.parquet", group_rows)
    return str(folder)


def theta(data: str, way: dict[str, object]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        result = streamgd.train(data, run=f"{folder}/run", shuffle="full", **way)
    return result.model.theta_sha256


WAYS: dict[str, dict[str, object]] = {
    "to the optimum": {"target": "late", "exclude": ["y", "w"], "null_indicators": True},
    "squared with weights": {"target": "y", "exclude": ["late"], "weight": "w", "dtype": "float64", "epochs": 1},
    "a few rows": {
        "target": "y", "exclude": ["late", "w"], "where": "price >= 100 and level != 'd'", "method": "sgd", "epochs": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, ROWS - 1), max_size=4), group_rows=st.integers(30, ROWS), as_codes=st.booleans(),
    threads=st.sampled_from([1, 2]),
)  # fmt: skip
def test_the_same_rows_in_other_files_and_row_groups_give_the_same_theta(
    way: str, cuts: list[int], group_rows: int, as_codes: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "FIRST_ROWS", 100)
    monkeypatch.setattr(sample, "SAMPLE_ROWS", 500)
    options = WAYS[way] | {"threads": threads}
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        expected = theta(written(Path(one), [], ROWS, False), options)
        assert theta(written(Path(other), cuts, group_rows, as_codes), options) == expected


@pytest.mark.parametrize("method", ["sgd", "minibatch"])
def test_row_groups_of_a_few_rows_are_not_judged_by_these(method: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, z = random.normal(size=(2, 1_000))
    y = 1.5 * x - 0.7 * z + random.normal(size=1_000)
    pq.write_table(pa.table({"x": x, "z": z, "y": y}), tmp_path / "data.parquet", 5)
    options = {"shuffle": "none", "method": method, "epochs": 1, "optimizer": "plain"}

    assert streamgd.train(str(tmp_path), "y", run=tmp_path / "runs" / "a", **options).facts["rollbacks"] == 0
    found = streamgd.train(str(tmp_path), "y", run=tmp_path / "runs" / "b", learning_rate=10.0, **options).facts
    assert found["rollbacks"] > 0
    assert found["progressive_loss"] < 4.0 * y.var()


@pytest.mark.parametrize(("method", "learning_rate"), [("sgd", 3.0), ("minibatch", 10.0)])
def test_an_epoch_of_a_few_rows_is_judged_at_its_end(method: str, learning_rate: float, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, z = random.normal(size=(2, 200))
    pq.write_table(pa.table({"x": x, "z": z, "y": x + z + 0.1 * random.normal(size=200)}), tmp_path / "data.parquet")
    options = {"shuffle": "none", "method": method, "epochs": 8, "optimizer": "plain", "learning_rate": learning_rate}
    found = streamgd.train(str(tmp_path), "y", run=tmp_path / "runs" / "a", **options).facts
    assert found["rollbacks"] > 0
    assert found["learning_rate"] < learning_rate
    assert method == "minibatch" or found["progressive_loss"] < 1.0  # which takes one step an epoch
