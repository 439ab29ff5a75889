"""Two models side by side: the metrics are those of ``evaluate``, the paired difference that of numpy and scipy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from scipy import stats
from small_models import THETA, model, raw_predictions, table, with_nulls, write

from streamgd import evaluation
from streamgd.cli import main
from streamgd.comparison import Comparison, compare
from streamgd.data.columns import TargetColumn
from streamgd.errors import ConfigError, DataError, NoInputError, PausedError, SchemaError
from streamgd.evaluation import evaluate
from streamgd.model import Model
from streamgd.training.display import Silent

OTHER = model(theta=THETA * 0.7)


def losses(rows: pa.Table, factor: float) -> np.ndarray:
    """Logistic losses of the model and of one whose raw predictions are so many times those."""
    raw, late = raw_predictions(rows) * factor, rows["late"].to_numpy()
    return np.logaddexp(0.0, raw) - late * raw


def compared(folder: Path, rows: pa.Table, second: Model = OTHER, **options: Any) -> Comparison:
    return compare(model(**options.pop("first", {})), second, write(rows, folder / "data.parquet"), **options)


def test_metrics_are_those_of_evaluate(tmp_path: Path) -> None:
    path = write(table(900), tmp_path / "data.parquet")

    found = compare(model(), OTHER, path, where="distance < 700")

    for each, metrics in zip((model(), OTHER), found.metrics, strict=True):
        alone = evaluate(each, path, where="distance < 700")
        assert metrics == alone.metrics
        assert (found.rows, found.weight, found.dropped) == (alone.rows, alone.weight, alone.dropped)


def test_a_null_is_an_error_to_a_model_that_takes_none(tmp_path: Path) -> None:
    rows = with_nulls(table(100), "delay", 5)

    for first, second in (("impute", "error"), ("error", "impute")):
        with pytest.raises(DataError, match="'delay'"):
            compare(model(nulls=first), model(nulls=second), write(rows, tmp_path / "data.parquet"))


def test_the_difference_and_its_error_are_those_of_a_paired_test(tmp_path: Path) -> None:
    rows = table(2000)

    found = compared(tmp_path, rows)

    test = stats.ttest_rel(losses(rows, 0.7), losses(rows, 1.0))
    facts = found.to_json()["second_less_first"]
    assert found.difference == pytest.approx(np.mean(losses(rows, 0.7) - losses(rows, 1.0)), rel=1e-10)
    assert facts["z"] == pytest.approx(test.statistic, rel=1e-8)
    assert facts["upper"] - facts["lower"] == pytest.approx(2 * stats.norm.ppf(0.975) * found.standard_error)


def test_a_weight_of_two_is_the_row_twice(tmp_path: Path) -> None:
    rows, weight = table(600), np.random.default_rng(0).integers(0, 4, 600)
    weighted = rows.append_column("importance", pa.array(weight))
    repeated = rows.take(pa.array(np.repeat(np.arange(600), weight)))
    models: Any = {"first": {"weight": "importance"}, "second": model(theta=THETA * 0.7, weight="importance")}

    found = compared(tmp_path, weighted, **models)

    expected = compared(tmp_path, repeated)
    assert found.dropped == {"zero weight": int((weight == 0).sum())}
    assert found.weight == expected.weight
    assert found.difference == pytest.approx(expected.difference, rel=1e-12)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-12)


def test_rows_that_one_model_cannot_predict_are_compared_for_neither(tmp_path: Path) -> None:
    rows = with_nulls(table(700), "delay", 5)
    without = rows.filter(rows["delay"].is_valid())

    for first, second in (("impute", "drop"), ("drop", "impute")):
        found = compare(model(nulls=first), model(nulls=second), write(rows, tmp_path / "data.parquet"))
        assert found.rows == len(without)
        assert found.dropped == {"null feature": 140}
        alone = evaluate(model(), write(without, tmp_path / "without.parquet")).metrics
        assert found.metrics[0]["loss"] == pytest.approx(alone["loss"], rel=1e-12)
        assert (found.difference, found.standard_error) == (0.0, 0.0)
        assert found.to_json()["second_less_first"]["z"] is None


def test_a_notebook_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []

    class Bar(Silent):
        def progress(self, *facts: Any) -> None:
            told.append(facts)

    monkeypatch.setattr(evaluation, "notebook_display", Bar)

    compared(tmp_path, table(250))

    assert told[-1][:3] == ("compare", 250, 250)


def test_models_may_read_different_columns(tmp_path: Path) -> None:
    """The second knows no carrier."""
    encoding = model().encoding
    fewer = replace(encoding, columns=replace(encoding.columns, categorical=()), categorical=())
    second = Model("logistic", THETA[[0, 1, 5]][:, None], fewer)
    rows = table(800)

    found = compared(tmp_path, rows, second)

    (tmp_path / "other").mkdir()
    expected = evaluate(second, write(rows, tmp_path / "other" / "data.parquet")).metrics
    assert found.metrics[1] == expected
    assert found.difference == pytest.approx(expected["loss"] - (found.metrics[0]["loss"] or 0.0), rel=1e-9)


def test_the_result_does_not_depend_on_threads(tmp_path: Path) -> None:
    rows = table(3000)

    assert compared(tmp_path, rows, threads=1) == compared(tmp_path, rows, threads=4)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (model(target=TargetColumn("early", (0, 1))), "the target of the first is late, of the second early"),
        (model(target=TargetColumn("late", (1, 0))), r"the classes of the first is \(0, 1\)"),
        (model("squared"), "the classes of the first"),
        (model(weight="distance"), "the weight column of the first is None, of the second distance"),
    ],
)
def test_models_of_different_things_are_refused(second: Model, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        compared(tmp_path, table(10), second)


def test_a_condition_on_a_column_in_which_files_differ_is_refused(tmp_path: Path) -> None:
    write(table(10), tmp_path / "a.parquet")
    write(table(10).set_column(0, "id", pa.array(["x"] * 10)), tmp_path / "b.parquet")

    assert compare(model(), OTHER, str(tmp_path)).rows == 20
    with pytest.raises(SchemaError, match="schemas differ in column 'id'"):
        compare(model(), OTHER, str(tmp_path), where="id > 3")


def test_no_row_to_compare_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no row is left to compare on; passed over: 10 where"):
        compared(tmp_path, table(10), where="distance < 0")


def test_one_row_has_no_error(tmp_path: Path) -> None:
    found = compared(tmp_path, table(1))

    assert found.standard_error is None
    assert found.to_json()["second_less_first"]["lower"] is None


def test_it_can_be_ended_between_slices(tmp_path: Path) -> None:
    def stop() -> None:
        raise PausedError("now")

    with pytest.raises(PausedError):
        compared(tmp_path, table(500), check=stop)


def test_the_command_shows_both_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(table(400), tmp_path / "data.parquet")
    model().save("a.safetensors")
    OTHER.save("b.safetensors")
    command = ["compare", "a.safetensors", "b.safetensors", "--on", path]

    text = CliRunner().invoke(main, command)
    facts = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)

    assert text.exit_code == 0, text.stderr
    assert "a.safetensors  b.safetensors" in text.stdout
    assert "loss of b.safetensors less that of a.safetensors, row by row" in text.stdout
    assert facts["second_less_first"] == compare(model(), OTHER, path).to_json()["second_less_first"]
    assert facts["first"]["loss"] == evaluate(model(), path).metrics["loss"]
