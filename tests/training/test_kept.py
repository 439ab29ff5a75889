"""Blocks on disk: what the survey writes and the passes finish is what a pass makes anew, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_data import table, written

from streamgd import train
from streamgd.data.blocks import RecordLayout
from streamgd.data.mapped import PAGE_BYTES
from streamgd.stopwatch import Stopwatch
from streamgd.training.kept import Keep

ROWS = 3_000
NUMERIC = {"features": "x,k", "weight": "w"}
CASES: dict[str, dict[str, Any]] = {
    "target in other units, offset": NUMERIC | {"target": "y", "offset": "o"},
    "classes weighed": NUMERIC | {"target": "late", "class_weight": "balanced"},
    "rows left out": NUMERIC | {"target": "late", "where": "k >= 1200 and k < 2500", "holdout": 0.2},
    "levels": {"target": "y", "features": "x,k,c"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of 30 row groups, with nulls in a feature and in a target."""
    folder = tmp_path_factory.mktemp("kept")
    rows = table(ROWS)
    late = np.random.default_rng(1).random(ROWS) < 0.3
    y = pa.array([None if each is None else 1e3 + 50.0 * each for each in rows["y"].to_pylist()])
    rows = rows.set_column(rows.schema.get_field_index("y"), "y", y).append_column("late", pa.array(late))
    pq.write_table(rows, folder / "rows.parquet", row_group_size=100)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_theta_is_the_same_with_blocks_and_without(case: str, data: Path, tmp_path: Path) -> None:
    found = {}
    for blocks_max in ("200GB", "1B"):
        run = tmp_path / blocks_max
        result = train(str(data), run=str(run), method="batch", blocks_max=blocks_max, **CASES[case])
        found[blocks_max] = result.model.theta_sha256, result.facts["objective"], result.facts["holdout_loss"]
        assert not (run / "blocks").exists()
    assert found["1B"] == found["200GB"]


def test_as_many_row_groups_are_kept_as_fit(tmp_path: Path) -> None:
    manifest = written(tmp_path / "data", 200, 10)
    layout = RecordLayout(1, 0, "float32", False, False, False)
    kept = Keep(tmp_path / "blocks", 3 * PAGE_BYTES, partly=True).blocks(manifest, layout, leaves_out=False)
    assert kept is not None
    assert [kept.takes(row_group) for row_group in manifest.row_groups[:5]] == [True, True, True, False, False]
    assert Keep(tmp_path / "none", 3 * PAGE_BYTES, partly=False).blocks(manifest, layout, leaves_out=False) is None


def test_blocks_are_to_be_finished_once(tmp_path: Path) -> None:
    manifest = written(tmp_path / "data", 200, 10)
    layout = RecordLayout(1, 0, "float32", False, False, False)
    keep = Keep(tmp_path / "blocks", 10**9, partly=False)
    kept = keep.blocks(manifest, layout, leaves_out=False)
    assert kept is not None
    group, other = manifest.row_groups[:2]
    block = layout.views(np.zeros(layout.block_bytes(10), np.uint8), 10)
    block.target[:] = np.arange(10.0)
    assert kept.takes(group)
    kept.write(group, 0, block)
    assert not kept.holds(group)
    kept.complete_provisional(group, [10], has_null=True)

    assert keep.blocks(manifest, layout, leaves_out=False) is kept
    assert (kept.holds(group), kept.holds(other)) == (True, False)
    assert [kept.to_be_finished(group), kept.to_be_finished(group)] == [True, None]
    (read,) = kept.in_turn(group, Stopwatch())
    assert read.target.tolist() == np.arange(10.0).tolist()
    del read
    keep.close()
    assert not (tmp_path / "blocks").exists()
