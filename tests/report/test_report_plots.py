"""The figures in matplotlib show the numbers of the charts; names are no mathematics."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_models import model, table, write

import streamgd
from streamgd.data.columns import TargetColumn
from streamgd.errors import ConfigError
from streamgd.report import figures
from streamgd.report.chart import Axis, Chart, Series
from streamgd.report.diagnosis import Diagnosis, diagnose
from streamgd.report.facts import RunFacts
from streamgd.report.plots import _draw, _new_figure


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    return diagnose(model(), [write(table(2000), tmp_path_factory.mktemp("plots") / "data.parquet")])


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> streamgd.Result:
    folder = tmp_path_factory.mktemp("plots")
    data = write(table(2000).rename_columns(["id", r"$\bad", "delay", "carrier", "late"]), folder / "data.parquet")
    return streamgd.train(data, "late", exclude="id", run=str(folder / "run"), method="batch", shuffle="none")


def test_the_loss_is_that_of_the_history(result: streamgd.Result) -> None:
    figure = streamgd.plot_loss(result)
    (line,) = figure.axes[0].lines
    passes = [each for each in result.history if each["event"] == "pass"]
    np.testing.assert_array_equal(line.get_ydata(), [each["train_loss"] for each in passes])
    assert figure.axes[0].get_yscale() == "log"


def test_a_run_may_be_given_by_its_path(result: streamgd.Result) -> None:
    assert streamgd.plot_loss(str(result.run_dir)).axes[0].get_title(loc="left") == "Loss"


def test_coefficients_have_their_intervals_in_standard_deviations(result: streamgd.Result) -> None:
    figure = streamgd.plot_coefficients(result, most=2)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    facts = RunFacts.of(result.run_dir)
    rows = facts.coefficients[1:3]
    assert names == [row["name"] for row in rows]
    (intervals,) = figure.axes[0].collections
    for row, segment in zip(rows, intervals.get_segments(), strict=True):
        unit = row["standardised"] / row["value"]
        assert facts.unit_of(row) == pytest.approx(unit)
        np.testing.assert_allclose(segment[:, 0], [row["lower"] * unit, row["upper"] * unit])
    figure.canvas.draw()


def test_a_name_with_dollars_is_drawn_as_it_is(result: streamgd.Result) -> None:
    figure = streamgd.plot_coefficients(result)
    assert r"$\bad" in [label.get_text() for label in figure.axes[0].get_yticklabels()]
    figure.canvas.draw()


def test_calibration_and_roc_show_the_diagnosis(diagnosis: Diagnosis) -> None:
    points = streamgd.plot_calibration(diagnosis).axes[0].lines[0]
    np.testing.assert_array_equal(points.get_xdata(), diagnosis.along_prediction.prediction)
    np.testing.assert_array_equal(points.get_ydata(), diagnosis.along_prediction.target)
    assert diagnosis.roc is not None
    np.testing.assert_array_equal(streamgd.plot_roc(diagnosis).axes[0].lines[0].get_xydata(), diagnosis.roc)


def test_features_are_drawn_by_name(diagnosis: Diagnosis) -> None:
    figure = streamgd.plot_features(diagnosis, ["delay", "carrier"])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["delay", "carrier"]
    assert len(streamgd.plot_features(diagnosis).axes) == 3
    with pytest.raises(ConfigError, match=r"no feature 'dela'\. It has: carrier, distance, delay"):
        streamgd.plot_features(diagnosis, ["dela"])


def test_what_a_model_has_not_is_said(diagnosis: Diagnosis) -> None:
    with pytest.raises(ConfigError, match="residuals are of a regression"):
        streamgd.plot_residuals(diagnosis)


def test_residuals_of_a_regression_are_drawn(tmp_path: Path) -> None:
    rows = table(500)
    rows = rows.append_column("cost", pa.array(np.random.default_rng(0).normal(size=500)))
    found = diagnose(model("squared", TargetColumn("cost")), [write(rows, tmp_path / "data.parquet")])
    assert found.residuals is not None
    assert len(streamgd.plot_residuals(found).axes[0].patches) == len(found.residuals[0])
    with pytest.raises(ConfigError, match="needs a classifier"):
        streamgd.plot_roc(found)


def test_axes_of_others_are_drawn_on(diagnosis: Diagnosis) -> None:
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    assert streamgd.plot_roc(diagnosis, ax=ax) is ax.figure
    assert ax.lines


def test_every_kind_of_series_and_mark_is_drawn() -> None:
    thick = Series("a", "spans", (0.0,), (0.0,), (0.0,), (2.0,), thick=True)
    dots = Series("b", "spans", (1.0,), (0.0,), colour=1)
    chart = Chart("$", Axis("x"), Axis("", categories=("one",)), (thick, dots), ((1.0, "went back"),), zero=True)
    ax = _new_figure(3.0, 3.0).add_subplot()
    _draw(chart, ax)
    ax.figure.canvas.draw()
    assert len(ax.patches) == 1
    assert len(ax.lines) == 3


def test_without_matplotlib_it_says_how_to_get_it(diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="needs the package 'matplotlib'"):
        streamgd.plot_calibration(diagnosis)


def test_a_run_without_an_epoch_has_no_curve() -> None:
    assert figures.loss_chart([{"event": "prepare", "seconds": 1.0}]) is None
    assert figures.distance_chart([]) is None
    assert figures.rate_chart([]) is None
    assert figures.throughput_chart([]) is None
    assert figures.stages_chart([]) is None


def test_stages_of_many_epochs_are_summed() -> None:
    history = [
        {"event": "epoch", "epoch": k, "steps": k, "seconds": 1.0, "thread_s": {"decode": 0.5, "compute": 1.0}}
        for k in range(1, 41)
    ]
    chart = figures.stages_chart(history)
    assert chart is not None
    assert chart.y.categories == ("all epochs",)
    decode, compute = chart.series
    assert (decode.low, decode.high) == ((0.0,), (20.0,))
    assert (compute.low, compute.high) == ((20.0,), (60.0,))


def test_rollbacks_of_one_place_are_one_mark() -> None:
    epochs = [{"event": "epoch", "epoch": k, "steps": 100 * k, "progressive_loss": 1.0 / k, "learning_rate": 0.1}
              for k in (1, 2)]  # fmt: skip
    back = {"event": "rollback", "steps": 150, "epoch": 1, "learning_rate": 0.1, "text": "the loss rose"}
    chart = figures.loss_chart([epochs[0], back, back, epochs[1]])
    assert chart is not None
    assert chart.marks == ((1.5, "the loss rose\nthe loss rose"),)
