"""A model knows a partition column as text; the folders that it meets later may all be named by integers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgd import compare, evaluate, predict, train
from streamgd.estimators import GDClassifier

STORES = {"07": 2.0, "40": -2.0, "A1": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores whose classes differ, all of them and only those that are named by integers."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for store, centre in STORES.items():
        x = rng.normal(size=2_000)
        rows = pa.table({"x": x, "y": (x + centre + rng.normal(size=2_000) > 0).astype(int)})
        for root in ("all", "numbered") if store.isdigit() else ("all",):
            (folder / root / f"store={store}").mkdir(parents=True)
            pq.write_table(rows, folder / root / f"store={store}" / "part.parquet")
    return folder


def test_a_model_finds_its_levels_in_folders_that_are_all_named_by_integers(data: Path, tmp_path: Path) -> None:
    result = train(str(data / "all"), "y", run=tmp_path / "run", validation=str(data / "numbered"), epochs=2)
    assert result.facts["holdout_loss"] is not None

    predict(result.model, str(data / "numbered"), str(tmp_path / "out"))
    probabilities = [pq.read_table(path)["probability"].to_numpy().mean() for path in sorted(tmp_path.glob("out/*/*"))]
    assert probabilities[0] > 0.7 > 0.3 > probabilities[1]
    assert evaluate(result.model, str(data / "numbered")).metrics["auc"] > 0.9
    assert compare(result.model, result.model, str(data / "numbered")).difference == 0.0


def test_so_does_an_estimator(data: Path) -> None:
    model = GDClassifier().fit(str(data / "all"), target="y")
    found = model.predict_proba(str(data / "numbered"))[:, 1]
    assert found[:2_000].mean() > 0.7 > 0.3 > found[2_000:].mean()
