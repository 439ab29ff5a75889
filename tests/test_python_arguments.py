"""What functions take in Python: a model in each of its forms; and what they say of anything else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import fs
from small_models import model, table, write

import streamgd
from streamgd.errors import ConfigError
from streamgd.estimators import GDClassifier
from streamgd.exports.export import export
from streamgd.model import Model
from streamgd.report.plots import plot_calibration, plot_coefficients, plot_features, plot_loss


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(table(2_000), tmp_path_factory.mktemp("arguments") / "data.parquet")


@pytest.fixture(scope="module")
def result(data: str) -> streamgd.Result:
    run = Path(data).parent / "run"
    return streamgd.train(data, "late", exclude="id", run=run, method="batch", holdout=0.2)


@pytest.fixture(scope="module")
def estimator(data: str) -> GDClassifier:
    return GDClassifier(features=["distance", "delay", "carrier"]).fit(data, target="late")


def test_a_model_is_taken_in_each_of_its_forms(data: str, result: streamgd.Result, estimator: GDClassifier) -> None:
    auc = streamgd.evaluate(result.model, data).metrics["auc"]
    for form in (result, result.run_dir, str(result.run_dir)):
        assert streamgd.evaluate(form, data).metrics["auc"] == auc
    assert streamgd.compare(result, estimator, data).metrics[0]["auc"] == auc
    assert streamgd.diagnose(result, data).evaluation.metrics["auc"] == auc
    assert export(estimator, "json") == export(estimator.model_, "json")
    assert plot_coefficients(estimator).axes
    assert plot_coefficients(result.model).axes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda data: streamgd.evaluate(3, data), "expected a Model, .* found int."),
        (lambda data: streamgd.evaluate(GDClassifier(), data), "found GDClassifier, which is not fitted."),
        (lambda _: plot_calibration("runs/late"), r"expected what streamgd.diagnose\(model, data\) gives, found str."),
        (lambda _: plot_loss(model()), "expected what train gave, or the path of a run, found Model."),
        (lambda _: streamgd.write_report(model()), "expected what train gave, or the path of a run, found Model."),
        (lambda data: streamgd.compare(model(), model(), data, part="test"), "--part: expected all, train or holdout"),
        (lambda data: streamgd.train(data, "late", from_=model()), "--from: found a Model, .* Save it with model.save"),
        (lambda _: streamgd.train(pd.DataFrame({"late": [0, 1]}), "late"), "found DataFrame. Learn a frame with GDCl"),
        (lambda _: streamgd.inspect("-"), "DATA -: a stream on standard input is for train alone"),
    ],
)
def test_anything_else_is_told_in_one_line(call: Callable[[str], Any], message: str, data: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(data)


def test_a_report_is_written_of_what_train_gave(data: str, result: streamgd.Result) -> None:
    found = streamgd.write_report(result, data=data)
    assert found["out"] == str(result.run_dir / "report.html")
    assert found == streamgd.write_report(result.run_dir, data=data) | {"size_bytes": found["size_bytes"]}


def test_a_run_starts_from_what_train_gave(data: str, result: streamgd.Result) -> None:
    run = Path(data).parent / "from"
    started = streamgd.train(data, "late", exclude="id", run=run, epochs=1, from_=result)
    assert started.facts["epochs"] == 1


def test_one_feature_is_named_by_its_name(data: str) -> None:
    found = streamgd.diagnose(model(), data)
    assert len(plot_features(found, "distance").axes) == 1


def test_models_are_compared_on_the_part_that_both_held_out(data: str, result: streamgd.Result) -> None:
    held_out = streamgd.evaluate(result, data, part="holdout")
    found = streamgd.compare(result, result, data, part="holdout")
    assert found.rows == held_out.rows < 1_000
    assert found.metrics[0]["loss"] == held_out.metrics["loss"]
    other = streamgd.train(
        data, "late", exclude="id", run=Path(data).parent / "other", method="batch", holdout=0.2, seed=1
    )
    both = {part: streamgd.compare(result, other, data, part=part).rows for part in ("all", "train", "holdout")}
    assert both["holdout"] < 0.1 * both["all"] < 0.5 * both["all"] < both["train"]
    with pytest.raises(ConfigError, match="--part holdout: the second run held out no rows"):
        streamgd.compare(result, model(), data, part="holdout")


def test_data_of_a_file_system_are_compared_and_diagnosed(data: str, result: streamgd.Result) -> None:
    store = fs.SubTreeFileSystem(str(Path(data).parent), fs.LocalFileSystem())
    assert streamgd.compare(result, result, "data.parquet", filesystem=store).rows == 2_000
    assert streamgd.diagnose(result, "data.parquet", filesystem=store).evaluation.rows == 2_000
    assert streamgd.write_report(result.run_dir, data="data.parquet", filesystem=store)["rows"] == 2_000


def test_evaluations_and_comparisons_show_in_notebooks(data: str, result: streamgd.Result) -> None:
    by_carrier = streamgd.evaluate(result, data, by="carrier")._repr_html_()
    assert "<th>2,000 rows</th>" in by_carrier
    assert ">UA</td>" in by_carrier
    assert ">standard error</td>" in streamgd.compare(result, model(), data)._repr_html_()


def with_labels(labels: list[str]) -> Model:
    by_model = model()
    (carrier,) = by_model.encoding.categorical
    renamed = replace(carrier, levels=pa.array(labels))
    return replace(by_model, encoding=replace(by_model.encoding, categorical=(renamed,)))


@pytest.mark.parametrize("labels", [["2026-01-05", "1999-12-31", "2000-01-01"], ["1.50", "-2.25", "3.00"]])
@pytest.mark.parametrize("to", ["onnx", "sklearn"])
def test_labels_that_may_be_dates_or_decimals_are_warned_of(labels: list[str], to: str) -> None:
    with pytest.warns(UserWarning, match=f"--to {to}: column 'carrier' has the labels '{labels[0]}' and the like"):
        export(with_labels(labels), to)


def test_a_model_is_written_to_standard_output(data: str, result: streamgd.Result) -> None:
    command = [sys.executable, "-m", "streamgd", "export", str(result.run_dir), "--to", "json", "--out", "-"]
    told = subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert json.loads(told.stdout) == export(result, "json")
    assert told.stderr == b""


@pytest.mark.parametrize(
    ("options", "way"),
    [
        ({"class_weight": "balanced"}, "choose --class-weight none."),
        ({"class_weight": "balanced", "method": "batch"}, "choose --class-weight none."),
        ({"l1": 0.1, "method": "sgd"}, "choose --method batch and --l1 0."),
        ({"l2": 0.1}, "choose --l2 1e-06."),
    ],
)
def test_the_way_to_robust_errors_leads_there(options: dict[str, Any], way: str, data: str) -> None:
    with pytest.raises(ConfigError, match=way):
        streamgd.train(data, "late", errors="robust", **options)
