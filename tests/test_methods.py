"""Every method and optimizer reaches the optimum untuned, stops for the reason it tells, recovers from a long step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Generated
from displays import Listener
from oracles import FLIGHT_FEATURES, Oracle, Rows

from streamgd.errors import DivergenceError
from streamgd.model import Model
from streamgd.optim.full_batch import FULL_BATCH_OPTIMIZERS
from streamgd.optim.stochastic import OPTIMIZERS
from streamgd.show import show
from streamgd.training.batch import BatchTrainer
from streamgd.training.checkpoint import CheckpointStore
from streamgd.training.train import train

FEATURES = [f"x{i}" for i in range(8)] + ["c0", "c1"]

#: Every optimizer with every method it is for.
METHODS_UNDER_TEST = [
    *(("minibatch", name) for name in OPTIMIZERS),
    *(("sgd", name) for name in OPTIMIZERS),
    *(("batch", name) for name in FULL_BATCH_OPTIMIZERS if name != "band"),  # it is for losses with a kink
]
LOSSES_UNDER_TEST = ["squared", "logistic"]
#: The normal equations are those of the squared loss.
COMBINATIONS_UNDER_TEST = [
    (*way, loss) for way in METHODS_UNDER_TEST for loss in LOSSES_UNDER_TEST if (way[1], loss) != ("normal", "logistic")
]


@pytest.fixture(scope="module")
def oracles(generated: Generated) -> dict[str, tuple[Path, Oracle]]:
    """100,000 rows with eight numbers and two columns of levels, in each loss."""
    made = {}
    for loss in ("squared", "logistic"):
        data = generated(
            rows=100_000,
            features=8,
            categorical=2,
            levels=12,
            loss=loss,
            correlation=0.3,
            row_group_rows=25_000,
            seed=3,
        )
        made[loss] = data, Oracle.of(Rows.read(data, "y", FEATURES))
        assert made[loss][1].base - made[loss][1].optimum > 0.1
    return made


@pytest.mark.parametrize(("method", "optimizer", "loss"), COMBINATIONS_UNDER_TEST)
def test_closes_99_percent_of_the_way_with_default_settings(
    method: str, optimizer: str, loss: str, oracles: dict[str, tuple[Path, Oracle]], tmp_path: Path
) -> None:
    data, oracle = oracles[loss]
    result = train(str(data), "y", run=str(tmp_path / "run"), method=method, optimizer=optimizer)
    assert result.facts["loss"] == loss
    assert result.facts["optimizer"] == optimizer
    assert result.facts["rollbacks"] == 0
    assert oracle.way_closed(result.model) >= 0.99


@pytest.mark.parametrize("schedule", ["inverse", "cosine"])
def test_closes_99_percent_of_the_way_with_each_schedule(
    schedule: str, oracles: dict[str, tuple[Path, Oracle]], tmp_path: Path
) -> None:
    data, oracle = oracles["logistic"]
    result = train(str(data), "y", run=str(tmp_path / "run"), schedule=schedule)
    assert oracle.way_closed(result.model) >= 0.99


# Stopping


@pytest.fixture
def small(generated: Generated) -> str:
    return str(generated(rows=6_000, features=5, row_group_rows=2_000, seed=4))


@pytest.mark.parametrize("method", ["minibatch", "sgd", "batch"])
def test_a_loss_that_hardly_falls_ends_the_run(method: str, small: str, tmp_path: Path) -> None:
    never = {"tol_gradient": 0} if method == "batch" else {}
    result = train(small, "y", run=str(tmp_path / "run"), method=method, tol_loss=0.01, epochs=100, **never)
    assert result.stopped_by == "tol_loss"
    assert 2 <= result.facts["epochs"] < 100


@pytest.mark.parametrize("method", ["minibatch", "sgd", "batch"])
def test_coefficients_that_hardly_move_end_the_run(method: str, small: str, tmp_path: Path) -> None:
    never = {"tol_gradient": 0} if method == "batch" else {}
    result = train(small, "y", run=str(tmp_path / "run"), method=method, tol_theta=0.01, epochs=100, **never)
    assert result.stopped_by == "tol_theta"
    assert 2 <= result.facts["epochs"] < 100


def noise(folder: Path) -> str:
    """60 columns of noise and 300 rows: later epochs only learn the training rows by heart."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(300, 60))
    columns: dict[str, Any] = {f"x{i}": x[:, i] for i in range(60)}
    columns["y"] = x[:, 0] + 3.0 * rng.normal(size=300)
    pq.write_table(pa.table(columns), folder / "data.parquet", row_group_size=100)
    return str(folder / "data.parquet")


def test_the_checkpoint_of_the_best_epoch_is_kept_though_epochs_are_shorter_than_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CheckpointStore, "busy", True)
    run = tmp_path / "run"
    result = train(noise(tmp_path), "y", run=str(run), loss="squared", holdout=0.3, epochs=30, batch_size=16, l2=0)
    losses = [line["holdout_loss"] for line in result.history if line["event"] == "epoch"]
    assert int(np.argmin(losses)) < 28
    kept = show(run)["checkpoints"]
    # In units of the target, as in the history.
    assert min(losses) in [each["holdout_loss"] for each in kept]
    assert kept[-1]["epoch"] == 30


@pytest.mark.parametrize("shuffle", ["full", "window"])
def test_a_holdout_loss_that_does_not_fall_ends_the_run_with_the_best_model(shuffle: str, tmp_path: Path) -> None:
    noise(tmp_path)
    result = train(
        str(tmp_path / "data.parquet"), "y", run=str(tmp_path / "run"), loss="squared", holdout=0.3, patience=3,
        epochs=200, batch_size=16, shuffle=shuffle, l2=0,
    )  # fmt: skip
    losses = [line["holdout_loss"] for line in result.history if line["event"] == "epoch"]
    best = int(np.argmin(losses))
    assert result.stopped_by == "patience"
    assert len(losses) == best + 1 + 3
    assert losses[-1] > losses[best]
    # That of the model, whatever came after.
    assert result.facts["holdout_loss"] == losses[best]
    same_run = {"loss": "squared", "holdout": 0.3, "batch_size": 16, "shuffle": shuffle, "l2": 0}
    straight = train(
        str(tmp_path / "data.parquet"), "y", run=str(tmp_path / "short"), epochs=best + 1, **same_run
    )  # fmt: skip
    assert Model.load(tmp_path / "run").theta_sha256 == straight.model.theta_sha256


@pytest.mark.parametrize("method", ["minibatch", pytest.param("sgd", marks=pytest.mark.slow), "batch"])
def test_max_time_ends_with_a_model_that_can_go_on(method: str, generated: Generated, tmp_path: Path) -> None:
    data = str(generated(rows=30_000, features=200, row_group_rows=5_000, seed=9))
    options = {"method": method, "epochs": 3} | ({"tol_gradient": 0} if method == "batch" else {})
    listener = Listener()
    result = train(data, "y", run=str(tmp_path / "run"), max_time=1e-3, display=listener, **options)
    assert result.stopped_by == "max_time"
    assert result.facts["hint"].startswith("--max-time was over before the first ")
    assert listener.warnings == [result.facts["hint"]]
    assert Model.load(tmp_path / "run").theta_sha256 == result.model.theta_sha256
    gone_on = train(data, "y", run=str(tmp_path / "run"), **options)
    straight = train(data, "y", run=str(tmp_path / "straight"), **options)
    assert "--max-time" not in str(gone_on.facts["hint"])
    assert gone_on.stopped_by == straight.stopped_by == "epochs"
    assert gone_on.model.theta_sha256 == straight.model.theta_sha256 != result.model.theta_sha256


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs", "backtracking", "plain"])
@pytest.mark.parametrize("errors", ["classical", "robust"])
def test_no_pass_is_made_once_max_time_is_over(
    errors: str, optimizer: str, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[bool] = []
    total = BatchTrainer.total

    def counted(trainer: BatchTrainer, *arguments: Any, **options: Any) -> Any:
        passes.append(True)
        return total(trainer, *arguments, **options)

    monkeypatch.setattr(BatchTrainer, "total", counted)
    options = {"run": str(tmp_path / "run"), "method": "batch", "optimizer": optimizer, "errors": errors}
    result = train(small, "y", max_time=1e-9, **options)
    assert len(passes) == result.facts["epochs"] == 1
    assert result.stopped_by == "max_time"
    assert (result.facts["certificate"] is None) == (optimizer != "newton")
    assert "--max-time was over" in str(result.model.no_errors) or (optimizer, errors) == ("newton", "classical")
    assert (result.facts["objective"] is None) == (optimizer == "plain")
    assert train(small, "y", **options).model.closing is not None


# Steps that are too long


def rollbacks(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in history if line["event"] == "rollback"]


@pytest.mark.parametrize("method", ["minibatch", "sgd"])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_a_learning_rate_that_is_far_too_large_is_halved_until_it_works(
    loss: str, method: str, oracles: dict[str, tuple[Path, Oracle]], tmp_path: Path
) -> None:
    data, oracle = oracles[loss]
    result = train(
        str(data), "y", run=str(tmp_path / "run"), method=method, optimizer="plain", learning_rate=1e4,
    )  # fmt: skip
    told = rollbacks(result.history)
    assert result.facts["rollbacks"] == len(told) > 5
    assert result.facts["learning_rate"] == 1e4 * 0.5 ** len(told)
    assert all("step" in line["text"] and "Back to step" in line["text"] for line in told)
    # A rate at which the loss beats a constant is left alone, though a smaller one would do better.
    assert oracle.way_closed(result.model) > 0.8


def test_the_flights_survive_a_learning_rate_that_is_far_too_large(flights: Path, tmp_path: Path) -> None:
    result = train(
        str(flights), "late", features=FLIGHT_FEATURES, run=str(tmp_path / "run"), optimizer="plain", learning_rate=1e4,
    )  # fmt: skip
    assert result.facts["rollbacks"] == len(rollbacks(result.history)) > 5
    way = (0.5046364660 - result.facts["train_loss"]) / (0.5046364660 - 0.4560156084)
    assert way > 0.9


def test_a_feature_that_was_not_scaled_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    metres = rng.normal(0, 1e5, 20_000)
    columns = {"metres": metres, "b": rng.normal(size=20_000), "y": metres / 1e5 + rng.normal(size=20_000)}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    try:
        result = train(
            str(tmp_path / "data.parquet"), "y", run=str(tmp_path / "run"), loss="squared", scale="none",
            optimizer="plain", learning_rate=0.1,
        )  # fmt: skip
        told = [line["text"] for line in rollbacks(result.history)]
    except DivergenceError as error:
        told = [str(error)]
    assert told
    assert all("'metres' is not scaled" in text for text in told)


@pytest.mark.parametrize(
    ("x", "options", "told"),
    [
        ((100.0, 1e-4), {"loss": "squared_hinge", "learning_rate": 1.0}, "is not scaled (its values reach 100)"),
        ((0.0, 1e300), {}, "is not scaled (its values reach 2."),
        ((0.0, 1e300), {"method": "batch"}, "--scale none leaves columns as large as they are: leave it out."),
    ],
    ids=["far from 0", "beyond floats", "in full batch"],
)
def test_a_column_that_is_not_scaled_is_blamed_for_what_it_does(
    x: tuple[float, float], options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    columns = {"x": x[0] + x[1] * random.normal(size=50), "y": (random.normal(size=50) > 0.4).astype(np.int8)}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    options = {"method": "minibatch", **({"optimizer": "plain"} if "method" not in options else {}), **options}
    with pytest.raises(DivergenceError, match=re.escape(told)):
        train(tmp_path / "data.parquet", "y", run=tmp_path / "run", scale="none", features="x", **options)


@pytest.mark.parametrize("way", [{}, {"shuffle": "window"}, {"method": "batch"}], ids=str)
def test_levels_of_rows_that_are_left_out_do_not_count_to_max_levels(way: dict[str, Any], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = 3_000
    kept = np.arange(rows) % 3 > 0
    level = np.where(kept, random.integers(0, 5, rows), 100 + np.arange(rows) % 300)
    columns = {"level": [f"level {each}" for each in level], "x": random.normal(size=rows), "kept": kept}
    table = pa.table(columns | {"y": random.normal(size=rows) + level % 5})
    pq.write_table(table, tmp_path / "all.parquet", row_group_size=700)
    pq.write_table(table.filter(pa.array(kept)), tmp_path / "kept.parquet", row_group_size=700)
    options: dict[str, Any] = {"exclude": "kept", "max_levels": 10, "epochs": 1, **way}
    some = train(tmp_path / "all.parquet", "y", where="kept", run=tmp_path / "some", **options).model
    only = train(tmp_path / "kept.parquet", "y", run=tmp_path / "only", **options).model
    assert [each.name for each in some.coefficients()] == [each.name for each in only.coefficients()]
    assert any(each.name.startswith("level=") for each in some.coefficients())
