"""Evaluation: what scikit-learn says of the predictions that are written, rows passed over, and levels of a column."""

import datetime
import html
import importlib
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit
from sklearn import metrics as oracle
from small_models import model, raw_predictions, table, with_nulls, write

from streamgd.cli import _evaluation_text
from streamgd.data.columns import TargetColumn
from streamgd.errors import ConfigError, DataError, NoInputError, PausedError, SchemaError, TargetError
from streamgd.evaluation import Evaluation, evaluate
from streamgd.prediction import predict
from streamgd.training.train import train

module = importlib.import_module("streamgd.evaluation")  # streamgd.evaluation may be the function


def evaluated(folder: Path, rows: pa.Table, by_model: Any = None, **options: Any) -> Evaluation:
    return evaluate(by_model or model(), write(rows, folder / "data.parquet"), **options)


def with_column(rows: pa.Table, name: str, values: Any) -> pa.Table:
    if name in rows.schema.names:
        return rows.set_column(rows.schema.get_field_index(name), name, pa.array(values))
    return rows.append_column(name, pa.array(values))


# Metrics -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_the_written_probabilities_have_the_log_loss_that_evaluate_tells(tmp_path: Path, scale: float) -> None:
    by_model = model(theta=model().theta[:, 0] * scale)  # of the large one, many are 0 or 1
    for name, seed in (("a", 1), ("b", 2)):
        write(table(700, seed), tmp_path / "data" / f"{name}.parquet")

    predict(by_model, str(tmp_path / "data"), str(tmp_path / "out"), ["late"])
    found: dict[str, Any] = evaluate(by_model, str(tmp_path / "data")).metrics

    out = pq.read_table(tmp_path / "out")
    late, probability = out["late"].to_numpy(), out["probability"].to_numpy()
    assert found["log_loss"] == pytest.approx(oracle.log_loss(late, probability), abs=1e-9, rel=1e-12)
    assert found["brier"] == pytest.approx(oracle.brier_score_loss(late, probability), abs=1e-12)
    assert found["accuracy"] == oracle.accuracy_score(late, out["prediction"].to_numpy())
    raw = raw_predictions(pq.read_table(tmp_path / "data"))
    assert abs(found["auc"] - oracle.roc_auc_score(late, raw)) <= found["auc_error_bound"] + 1e-12
    assert found["auc_error_bound"] < 0.01


def test_weights_of_the_model_are_used(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).integers(0, 4, 900)
    rows = with_column(table(900), "importance", weight)

    found = evaluated(tmp_path, rows, model(weight="importance"))

    probability = expit(raw_predictions(rows))
    assert found.rows == (weight > 0).sum()
    assert found.weight == weight.sum()
    assert found.dropped == {"zero weight": (weight == 0).sum()}
    expected = oracle.log_loss(rows["late"].to_numpy(), probability, sample_weight=weight)
    assert found.metrics["log_loss"] == pytest.approx(expected, rel=1e-10)


def test_a_model_of_a_number_is_judged_as_one(tmp_path: Path) -> None:
    rows = table(800)
    raw = raw_predictions(rows)
    target = raw + np.random.default_rng(1).normal(size=800)
    rows = with_column(rows, "late", target)

    found = evaluated(tmp_path, rows, model("squared"))

    assert found.metrics["rmse"] == pytest.approx(np.sqrt(oracle.mean_squared_error(target, raw)), rel=1e-10)
    assert found.metrics["r2"] == pytest.approx(oracle.r2_score(target, raw), rel=1e-9)
    assert found.metrics["base_rmse"] == pytest.approx(target.std(), rel=1e-10)


def test_the_offset_counts(tmp_path: Path) -> None:
    rows = with_column(table(800), "exposure", np.linspace(-3, 3, 800))

    found = evaluated(tmp_path, rows, model(offset="exposure"))

    probability = expit(raw_predictions(rows) + np.linspace(-3, 3, 800))
    assert found.metrics["log_loss"] == pytest.approx(oracle.log_loss(rows["late"], probability), rel=1e-10)


def test_texts_as_classes(tmp_path: Path) -> None:
    rows = table(300)
    late = rows["late"].to_numpy()
    rows = with_column(rows, "late", np.where(late == 1, "yes", "no"))

    found = evaluated(tmp_path, rows, model(target=TargetColumn("late", ("no", "yes"))))

    assert found.metrics["log_loss"] == pytest.approx(oracle.log_loss(late, expit(raw_predictions(rows))), rel=1e-10)


def test_the_result_does_not_depend_on_threads(tmp_path: Path) -> None:
    for k in range(3):
        write(table(1000, seed=k), tmp_path / "data" / f"{k}.parquet", 150)

    found = [
        evaluate(model(), str(tmp_path / "data"), by="carrier", threads=threads).to_json() for threads in (1, 2, 5, 2)
    ]

    assert found[0]["rows"] == 3000
    assert all(each == found[0] for each in found)


# Rows passed over ----------------------------------------------------------------------------------------------------


def test_only_the_chosen_files_are_compared(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        write(table(300, seed), tmp_path / "data" / f"{name}.parquet")
    chosen = evaluate(model(), str(tmp_path / "data"), only=["b.parquet"])
    assert chosen.metrics == evaluate(model(), str(tmp_path / "data" / "b.parquet")).metrics
    with pytest.raises(NoInputError, match=r"no file 'c\.parquet'"):
        evaluate(model(), str(tmp_path / "data"), only=["c.parquet"])


def test_rows_without_target_are_passed_over_and_counted(tmp_path: Path) -> None:
    rows = with_nulls(table(500), "late", 10)

    found = evaluated(tmp_path, rows)

    assert found.rows == 450
    assert found.dropped == {"null target": 50}
    known = np.arange(500) % 10 != 0
    expected = oracle.log_loss(table(500)["late"].to_numpy()[known], expit(raw_predictions(rows))[known])
    assert found.metrics["log_loss"] == pytest.approx(expected, rel=1e-10)


def test_rows_that_cannot_be_predicted_are_passed_over(tmp_path: Path) -> None:
    rows = with_nulls(table(500), "delay", 5)

    assert evaluated(tmp_path, rows).rows == 500
    dropping = evaluated(tmp_path, rows, model(nulls="drop"))
    assert dropping.rows == 400
    assert dropping.dropped == {"null feature": 100}


def test_where_counts_rows_of_row_groups_that_were_not_read(tmp_path: Path) -> None:
    rows = table(500)

    found = evaluated(tmp_path, rows, where="id >= 1250 and id < 1300")

    assert found.rows == 50
    assert found.dropped == {"where": 450}
    part = rows.slice(250, 50)
    assert found.metrics["log_loss"] == pytest.approx(oracle.log_loss(part["late"], expit(raw_predictions(part))))


def test_no_row_left_is_told_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="500 where"):
        evaluated(tmp_path, table(500), where="id < 0")


# Levels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["carrier", "late", "distance"])
def test_levels_have_mean_target_and_mean_prediction(tmp_path: Path, name: str) -> None:
    rows = with_column(table(2000), "importance", np.random.default_rng(3).exponential(size=2000))

    found = evaluated(tmp_path, rows, model(weight="importance"), by=name)

    values, weight = np.array(rows[name].to_pylist()), rows["importance"].to_numpy()
    late, probability = rows["late"].to_numpy(), expit(raw_predictions(rows))
    assert [row.level for row in found.levels] == sorted(set(values.tolist()))
    for row in found.levels:
        here = values == row.level
        assert row.rows == here.sum()
        assert row.weight == pytest.approx(weight[here].sum(), rel=1e-12)
        assert row.actual == pytest.approx(np.average(late[here], weights=weight[here]), rel=1e-10)
        assert row.predicted == pytest.approx(np.average(probability[here], weights=weight[here]), rel=1e-10)
        assert row.ratio == pytest.approx(row.actual / row.predicted, rel=1e-12)


def test_null_and_nan_are_one_level_and_the_last(tmp_path: Path) -> None:
    values = pa.array([[2.5, None, float("nan"), -1.0][k % 4] for k in range(400)])

    found = evaluated(tmp_path, table(400).append_column("z", values), by="z")

    assert [(row.level, row.rows) for row in found.levels] == [(-1.0, 100), (2.5, 100), (None, 200)]


def test_the_text_null_is_told_apart_from_null(tmp_path: Path) -> None:
    rows = table(400).append_column("z", pa.array(["null", None, "AA", None] * 100))
    found = evaluated(tmp_path, rows, by="z")
    assert [(each["level"], each["rows"]) for each in found.to_json()["levels"]] == [
        ("AA", 100), ("null", 100), (None, 200),
    ]  # fmt: skip
    shown = _evaluation_text(found.to_json())
    for level, rows_of_level in (("AA", 100), ("'null'", 100), ("null", 200)):
        assert re.search(rf"^{level} +{rows_of_level} ", shown, re.M)
        assert f">{html.escape(level)}</td>" in found._repr_html_()


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([True, None, False], [False, True, None]),
        ([datetime.date(2026, 2, 1), datetime.date(2025, 3, 1)], ["2025-03-01", "2026-02-01"]),
        ([Decimal("10.50"), Decimal("9.25")], ["9.25", "10.50"]),
        (pa.array([1, None, 3], pa.timestamp("ns")), ["1970-01-01 00:00:00.000000001", None]),
        (pa.array([5, 30], pa.duration("s")), [5, 30]),
        (pa.array([np.float16(1.5), None], pa.float16()), [1.5, None]),
        (pa.array(["b", None, "a"], pa.large_string()).dictionary_encode(), ["a", "b", None]),
        ([float("inf"), 1.0], [1.0, "inf"]),
    ],
)
def test_levels_of_any_plain_type(tmp_path: Path, values: Any, levels: list[Any]) -> None:
    values = values if isinstance(values, pa.Array) else pa.array(values)
    cycled = values.take(pa.array([k % len(values) for k in range(300)]))

    found = evaluated(tmp_path, table(300).append_column("z", cycled), by="z")

    json.dumps(found.to_json(), allow_nan=False)
    shown = [row.level for row in found.levels]
    assert [level for level in shown if level in levels] == levels
    assert sum(row.rows for row in found.levels) == 300


def test_a_partition_column_has_levels(tmp_path: Path) -> None:
    for k in (3, 11):
        write(table(20 * k), tmp_path / "data" / f"month={k}" / "a.parquet")

    found = evaluate(model(), str(tmp_path / "data"), by="month")

    assert [(row.level, row.rows) for row in found.levels] == [(3, 60), (11, 220)]


def test_levels_of_rows_passed_over_do_not_appear(tmp_path: Path) -> None:
    found = evaluated(tmp_path, table(500), by="carrier", where="carrier != 'AA'")

    assert [row.level for row in found.levels] == ["UA", "WN", "ZZ"]


@pytest.mark.parametrize("row_group_rows", [100, 5000])
def test_too_many_levels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_group_rows: int) -> None:
    monkeypatch.setattr(module, "MOST_LEVELS", 1000)
    path = write(table(1001), tmp_path / "new.parquet", row_group_rows)

    with pytest.raises(ConfigError, match="--by id: it has more than 1,000 levels"):
        evaluate(model(), path, by="id")
    monkeypatch.setattr(module, "MOST_LEVELS", 1001)
    assert len(evaluate(model(), path, by="id").levels) == 1001


def test_a_prediction_of_zero_has_no_ratio(tmp_path: Path) -> None:
    found = evaluated(tmp_path, table(50), model("squared", theta=np.zeros(6)), by="late")

    assert [row.ratio for row in found.levels] == [None, None]


# The result as JSON --------------------------------------------------------------------------------------------------


def test_the_result_can_be_written_as_json(tmp_path: Path) -> None:
    found = json.loads(json.dumps(evaluated(tmp_path, table(300), by="carrier").to_json(), allow_nan=False))

    assert found["rows"] == found["weight"] == 300
    assert found["dropped"] == {}
    assert 0 < found["log_loss"] < found["base_log_loss"]
    assert found["by"] == "carrier"
    assert set(found["levels"][0]) == {"level", "rows", "weight", "actual", "predicted", "ratio"}
    assert "by" not in evaluated(tmp_path, table(300)).to_json()


def test_a_model_that_is_no_number_gives_nulls(tmp_path: Path) -> None:
    found = evaluated(tmp_path, table(300), model(theta=np.full(6, np.nan))).to_json()

    json.dumps(found, allow_nan=False)
    assert found["loss"] is None
    assert found["auc"] is None
    assert found["base_log_loss"] > 0


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["late", "importance", "exposure", "distance"])
def test_every_column_of_the_model_must_be_there(tmp_path: Path, missing: str) -> None:
    rows = with_column(with_column(table(30), "importance", np.ones(30)), "exposure", np.zeros(30))
    by_model = model(weight="importance", offset="exposure")
    assert evaluated(tmp_path, rows, by_model).rows == 30

    with pytest.raises(SchemaError, match=rf"data\.parquet lacks a column that the model needs: '{missing}'"):
        evaluated(tmp_path, rows.drop_columns([missing]), by_model)


def test_rows_that_were_trained_on_are_told_apart_without_a_holdout_too(tmp_path: Path) -> None:
    data = write(table(1_000), tmp_path / "data.parquet")
    for sample in (1.0, 0.5):
        options = {"sample": sample, "epochs": 1, "features": "distance"}
        trained = train(data, "late", run=tmp_path / str(sample), **options)
        assert evaluate(trained.model, data, part="train").rows == trained.facts["train_rows"]
        with pytest.raises(ConfigError, match="the run held out no rows"):
            evaluate(trained.model, data, part="holdout")


def test_a_third_class_is_refused_with_its_place(tmp_path: Path) -> None:
    late = table(300)["late"].to_numpy().copy()
    late[207] = 2

    with pytest.raises(TargetError, match=r"data\.parquet, row group 2, row 7, target 'late': found 2"):
        evaluated(tmp_path, with_column(table(300), "late", late))


def test_a_text_for_a_number_is_refused(tmp_path: Path) -> None:
    rows = with_column(table(30), "late", ["0", "1"] * 15)

    with pytest.raises(SchemaError, match="'late': found string, the model was trained on a number"):
        evaluated(tmp_path, rows)


def test_infinity_is_refused_with_its_place(tmp_path: Path) -> None:
    delay = table(300)["delay"].to_numpy().copy()
    delay[123] = -np.inf

    with pytest.raises(DataError, match=r"row group 1, row 23, column 'delay': found -inf"):
        evaluated(tmp_path, with_column(table(300), "delay", delay), threads=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "carier"}, "--by: the data have no column 'carier'. Did you mean 'carrier'"),
        ({"by": "nested"}, "--by nested: a column of type struct has no levels"),
        ({"where": "idd > 1"}, "idd"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    rows = with_column(table(30), "nested", [{"a": 1}] * 30)

    with pytest.raises(ConfigError, match=message):
        evaluated(tmp_path, rows, **options)


def test_an_interruption_ends_it(tmp_path: Path) -> None:
    def check() -> None:
        raise PausedError("stopped")

    with pytest.raises(PausedError):
        evaluated(tmp_path, table(1000), check=check, threads=2)
