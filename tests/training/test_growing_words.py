"""A stream that goes on learns new words of lists and maps; until then they count nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from displays import Listener

from streamgd.config import make_config
from streamgd.data import blocks
from streamgd.data.source import discover
from streamgd.errors import ConfigError, PausedError
from streamgd.estimators import GDRegressor
from streamgd.model import Model
from streamgd.objective.losses import LOSSES
from streamgd.objective.penalties import ElasticNet
from streamgd.training.increment import next_state, resolved_before
from streamgd.training.interrupt import Interrupt
from streamgd.training.progress import RunContext
from streamgd.training.rundir import RunDirectory
from streamgd.training.setup import make_task
from streamgd.training.train import Result, run
from streamgd.training.trainstate import TrainState

#: Of each file.
WORDS = {"a": ["p", "q", "r"], "b": ["p", "q", "zoo", "new"]}
EFFECTS = {"p": 1.0, "q": -1.0, "r": 0.5, "new": 3.0, "zoo": -3.0}


def table(name: str, rows: int = 1_200) -> pa.Table:
    """``tags`` of texts, ``amounts`` by text up to 10, a number, a level that file b alone has, and indices."""
    rng = np.random.default_rng(ord(name))
    tags = [list(rng.choice(WORDS[name], rng.integers(0, 4))) for _ in range(rows)]
    amounts = [[(word, 10.0 * rng.random()) for word in rng.choice(WORDS[name], rng.integers(0, 3))] for _ in tags]
    x, c = rng.normal(size=rows), rng.choice(["c0", f"only-{name}"], rows)
    y = x + 0.1 * rng.normal(size=rows)
    y += [sum(EFFECTS[word] for word in words) for words in tags]
    y += [sum(0.2 * EFFECTS[word] * value for word, value in pairs) for pairs in amounts]
    return pa.table({
        "x": x, "c": c, "tags": pa.array(tags, pa.list_(pa.string())),
        "ids": pa.array([rng.integers(0, 5, 2) for _ in tags], pa.list_(pa.int32())),
        "amounts": pa.array(amounts, pa.map_(pa.string(), pa.float64())), "y": y,
    })  # fmt: skip


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 200)
    (tmp_path / "data").mkdir()
    for name in WORDS:
        pq.write_table(table(name), tmp_path / "data" / f"{name}.parquet", row_group_size=400)
    return tmp_path / "data"


def fit(
    data: Path, name: str, before: dict[str, Any] | None = None, display: Listener | None = None, **options: Any
) -> Result:
    """A run on one file of the folder."""
    given = {"shuffle": "window", "epochs": 1, "batch_size": 20, "index_columns": {"ids": 5}, "loss": "squared"}
    config = make_config(
        data=[str(data)], target="y", only=[f"{name[0]}.parquet"], run=str(data.parent / name), **(given | options)
    )
    return run(config, display or Listener(), before=before)


def state_of(result: Result) -> dict[str, Any]:
    loaded = RunDirectory(result.run_dir).checkpoints.latest()
    assert loaded is not None
    state: dict[str, Any] = loaded.state
    return state


def began(data: Path, before: dict[str, Any], **options: Any) -> tuple[TrainState, Listener]:
    """The state from which a run on file b would begin, and what was told."""
    config = make_config(data=[str(data)], **{**before["options"], **options})
    manifest = discover([str(data)], only=["b.parquet"])
    task = make_task(config, manifest, None, resolved=resolved_before(before, config, manifest))
    listener = Listener()
    context = RunContext(RunDirectory(data.parent / "nowhere"), listener, Interrupt(), 60.0)
    return TrainState.from_state(next_state(before, task, context)), listener


WAYS: dict[str, dict[str, Any]] = {
    "adagrad": {}, "adam": {"optimizer": "adam"}, "l1": {"l1": 1e-3}, "ftrl": {"optimizer": "ftrl", "l1": 1e-3},
    "sgd": {"method": "sgd"}, "drop": {"nulls": "drop", "holdout": 0.2},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_new_words_are_learned_and_begin_where_they_change_no_prediction(way: str, data: Path) -> None:
    before = fit(data, "a", **WAYS[way])
    old, (state, listener) = state_of(before), began(data, state_of(before))
    assert {"tags: 2 new levels", "amounts: 2 new levels", "c: 1 new levels"} <= set(listener.told)
    tags, ids, amounts = state.encoding.sparse
    assert tags.levels.to_pylist() == amounts.levels.to_pylist() == ["p", "q", "r", "new", "zoo"]
    assert ids.n_rows == 5
    known = TrainState.from_state(old).encoding.sparse[2]
    assert amounts.scales[:3].tolist() == known.scales.tolist()
    assert (amounts.scales[3:] > 9.0).all()

    penalty = ElasticNet(before.facts["l1"] / state.encoding.target_scale, before.facts["l2"])
    result = state.result(way not in ("l1", "ftrl"), penalty, way == "ftrl")
    encoding, theta = state.encoding.without_base_rows(result)
    after = Model.of_training(LOSSES["squared"], theta, encoding, {})
    for name in WORDS:
        batch = table(name).combine_chunks().to_batches()[0]
        np.testing.assert_allclose(after.predict_batch(batch), before.model.predict_batch(batch), atol=1e-9)

    found = {each.name: each.value for each in fit(data, "b", old, **WAYS[way], epochs=3).model.coefficients()}
    tolerance = 1.0 if way in ("sgd", "adam") else 0.4  # these move on in small steps
    for word in ("new", "zoo", "p"):
        assert found[f"tags={word}"] == pytest.approx(EFFECTS[word], abs=tolerance)
        assert found[f"amounts={word}"] == pytest.approx(0.2 * EFFECTS[word], abs=0.5 * tolerance)


@pytest.mark.parametrize("way", ["adagrad", "ftrl"])
def test_neither_threads_nor_a_pause_change_a_bit(way: str, data: Path) -> None:
    before = state_of(fit(data, "a", **WAYS[way]))
    expected = fit(data, "b", before, **WAYS[way], epochs=2, threads=1).model.theta_sha256
    assert fit(data, "b-4", before, **WAYS[way], epochs=2, threads=4).model.theta_sha256 == expected

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(PausedError):
        fit(data, "b-stopped", before, **WAYS[way], epochs=2, display=Listener("epoch 2/2", stop))
    # There is a checkpoint: the run before need not be known any more.
    assert fit(data, "b-stopped", **WAYS[way], epochs=2).model.theta_sha256 == expected


def test_more_words_than_may_be_are_refused(data: Path) -> None:
    before = state_of(fit(data, "a", max_levels=4))
    with pytest.raises(
        ConfigError, match=r"column 'tags': with those of the new files it has more than --max-levels 4"
    ):
        fit(data, "b", before, max_levels=4)
    assert "tags=zoo" in {each.name for each in fit(data, "b", before, max_levels=5).model.coefficients()}


def test_estimators_learn_the_words_of_a_later_part() -> None:
    estimator = GDRegressor(batch_size=20)
    for name in WORDS:
        estimator.partial_fit(table(name).drop_columns(["ids", "amounts"]), target="y")
    found = {each.name: each.value for each in estimator.model_.coefficients()}
    assert found["tags=new"] > 1.0
    assert found["tags=zoo"] < -1.0
