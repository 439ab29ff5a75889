"""``show`` tells the truth of a run at any moment: before the first checkpoint, in the middle, and at the end."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from streamgd.data.columns import CategoricalColumn, Columns, NumericColumn, TargetColumn
from streamgd.data.encoding import Encoding
from streamgd.data.scaler import Scaling
from streamgd.data.vocabulary import CategoricalEncoding
from streamgd.errors import ConfigError, NoInputError
from streamgd.inference import ClosingSums
from streamgd.model import Model
from streamgd.show import MOST_COEFFICIENTS, format_csv, format_show, show
from streamgd.state import CorruptStateError
from streamgd.training.rundir import RunDirectory


def scaling(mean: list[float], deviation: list[float]) -> Scaling:
    n = len(mean)
    return Scaling(np.zeros(n), np.ones(n), np.array(mean), np.array(deviation), np.zeros(n))


def small_model() -> Model:
    """Distance with mean 100 and deviation 50; carriers UA (base), AA and an unknown one."""
    carrier = CategoricalColumn("carrier", "string")
    columns = Columns((NumericColumn("distance", "distance"),), (carrier,), TargetColumn("late", (0, 1)))
    categorical = (CategoricalEncoding(carrier, 1, pa.array(["UA", "AA", None]), False, 0),)
    encoding = Encoding(columns, scaling([100.0], [50.0]), categorical, "impute")
    theta = np.array([[0.5], [-2.0], [0.25], [1.0]])
    return Model("logistic", theta, encoding, {"steps": 30, "loss": 0.45, "key": "k", "epochs": 3, "rows_seen": 7680})


def wide_model(n_columns: int) -> Model:
    columns = Columns(tuple(NumericColumn(f"x{i}", f"x{i}") for i in range(n_columns)), (), TargetColumn("y"))
    encoding = Encoding(columns, scaling([0.0] * n_columns, [1.0] * n_columns), (), "impute")
    theta = np.arange(n_columns + 1, dtype=np.float64)[:, None] * (-1.0) ** np.arange(n_columns + 1)[:, None]
    return Model("squared", theta, encoding, {"key": "k", "epochs": 3, "rows_seen": 7680})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run that has begun and has no checkpoint."""
    path = tmp_path / "late"
    path.mkdir()
    config = {"data": ["flights"], "target": "late", "method": "minibatch"}
    rest = {"resolved": {"loss": "logistic", "order": "full", "epochs": 5}, "manifest": {"files": []}}
    (path / "config.json").write_text(json.dumps({"schema_version": 1, "config": config, **rest}))
    return path


def save_checkpoint(run_dir: Path, **values: Any) -> None:
    state = {"epoch": 3, "steps": 30, "rows_seen": 7680, "stopped_by": None, "key": "k"} | values
    RunDirectory(run_dir).checkpoints.save(state)


def finish(run_dir: Path, model: Model) -> None:
    save_checkpoint(run_dir, stopped_by="epochs")
    model.save(run_dir / "model.safetensors")


def write_history(run_dir: Path, lines: list[dict[str, Any]], rest: str = "") -> None:
    (run_dir / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + rest)


class TestState:
    def test_a_folder_without_a_run_is_no_input(self, tmp_path: Path) -> None:
        with pytest.raises(NoInputError, match="no run at"):
            show(tmp_path)

    def test_before_the_first_checkpoint_nothing_is_done(self, run_dir: Path) -> None:
        facts = show(run_dir)
        assert facts["state"] == "unfinished"
        assert [facts[name] for name in ("epochs", "steps", "rows_seen", "stopped_by", "theta_sha256")] == [
            0, 0, 0, None, None,
        ]  # fmt: skip
        assert f"no model yet. Go on with: streamgd resume {run_dir}" in format_show(facts)

    def test_in_the_middle_it_stands_where_the_newest_checkpoint_stands(self, run_dir: Path) -> None:
        save_checkpoint(run_dir, epoch=0, steps=10, rows_seen=2560)
        save_checkpoint(run_dir, epoch=1, steps=20, rows_seen=5120)
        facts = show(run_dir)
        assert (facts["state"], facts["epochs"], facts["steps"], facts["rows_seen"]) == ("unfinished", 1, 20, 5120)
        assert [each["file"] for each in facts["checkpoints"]] == ["00000001.safetensors", "00000002.safetensors"]

    def test_a_damaged_checkpoint_is_passed_over_and_named(self, run_dir: Path) -> None:
        save_checkpoint(run_dir, steps=10)
        save_checkpoint(run_dir, steps=20)
        newest = run_dir / "checkpoints" / "00000002.safetensors"
        newest.write_bytes(newest.read_bytes()[:-1])
        facts = show(run_dir)
        assert facts["steps"] == 10
        assert [each["valid"] for each in facts["checkpoints"]] == [True, False]
        assert "damaged" in format_show(facts)

    def test_checkpoints_are_listed_with_where_they_stand_and_their_size(self, run_dir: Path) -> None:
        save_checkpoint(run_dir, epoch=1, steps=1_234, best={"epoch": 1, "loss": 0.25})
        save_checkpoint(run_dir, epoch=2, steps=2_468, best={"epoch": 1, "loss": 0.25})
        facts = show(run_dir)
        assert [(each["epoch"], each["steps"]) for each in facts["checkpoints"]] == [(1, 1_234), (2, 2_468)]
        assert [each["holdout_loss"] for each in facts["checkpoints"]] == [0.25, None]
        sizes = [path.stat().st_size for path in sorted((run_dir / "checkpoints").iterdir())]
        assert [each["size_bytes"] for each in facts["checkpoints"]] == sizes
        assert re.search(rf"00000002.safetensors +2 +2,468 +{sizes[1]:,} +whole", format_show(facts))

    def test_a_finished_run_has_the_models_digest(self, run_dir: Path) -> None:
        model = small_model()
        finish(run_dir, model)
        facts = show(run_dir)
        numbers = np.concatenate([model.theta[:, 0], [100.0], [50.0]]).astype("<f8")
        assert facts["theta_sha256"] == hashlib.sha256(numbers.tobytes()).hexdigest()
        assert (facts["state"], facts["stopped_by"]) == ("finished", "epochs")

    def test_a_run_that_was_to_finish_but_has_no_model_is_unfinished(self, run_dir: Path) -> None:
        save_checkpoint(run_dir, stopped_by="epochs")
        assert show(run_dir)["state"] == "unfinished"

    def test_a_run_that_goes_on_says_that_its_model_is_from_before(self, run_dir: Path) -> None:
        finish(run_dir, small_model())
        save_checkpoint(run_dir, epoch=4, steps=40)
        facts = show(run_dir)
        assert (facts["state"], facts["steps"], facts["model"]["steps"]) == ("unfinished", 40, 30)
        assert "the model is from before the run went on" in format_show(facts)

    def test_max_time_ends_with_a_model_that_can_go_on(self, run_dir: Path) -> None:
        small_model().save(run_dir / "model.safetensors")
        save_checkpoint(run_dir, stopped_by="max_time")
        facts = show(run_dir)
        assert (facts["state"], facts["stopped_by"]) == ("unfinished", "max_time")
        assert "--max-time ended the run. Go on with: streamgd resume" in format_show(facts)

    def test_the_steps_of_full_batch_are_its_passes(self, run_dir: Path) -> None:
        RunDirectory(run_dir).checkpoints.save({"epoch": 7, "rows_seen": 700, "stopped_by": None})
        assert show(run_dir)["steps"] == 7


class TestCoefficients:
    def test_they_are_in_original_units_with_the_intercept_first(self, run_dir: Path) -> None:
        finish(run_dir, small_model())
        facts = show(run_dir)
        found = {each["name"]: (each["value"], each["standardised"]) for each in facts["coefficients"]}
        assert list(found) == ["(intercept)", "carrier=AA", "distance", "carrier=null"]
        assert found["distance"] == (0.01, 0.5)
        assert found["(intercept)"] == (0.0, 1.0)  # 1 - 0.01 * 100
        assert found["carrier=AA"] == (-2.0, -2.0)

    def test_base_levels_are_named(self, run_dir: Path) -> None:
        finish(run_dir, small_model())
        facts = show(run_dir)
        assert facts["base_levels"] == {"carrier": "UA"}
        assert "base levels, which have no coefficient\n  carrier  UA" in format_show(facts)

    def test_only_the_largest_are_shown_unless_all_are_asked_for(self, run_dir: Path) -> None:
        finish(run_dir, wide_model(100))
        facts = show(run_dir)
        expected = ["(intercept)"] + [f"x{i}" for i in range(99, 99 - MOST_COEFFICIENTS, -1)]
        assert [each["name"] for each in facts["coefficients"]] == expected
        assert "coefficients, the intercept and the 30 largest of 100 (--all)" in format_show(facts)
        assert len(show(run_dir, all_coefficients=True)["coefficients"]) == facts["n_coefficients"] == 101

    def test_few_are_shown_without_a_remark(self, run_dir: Path) -> None:
        finish(run_dir, small_model())
        assert "\ncoefficients\nname " in format_show(show(run_dir))


def with_errors(model: Model) -> Model:
    """Carrier AA without a row; the standard error of distance is 0.02 / 50, of the intercept sqrt(0.004 + 0.04^2)."""
    information = np.diag([2500.0, 0.0, 100.0, 250.0])
    sums = ClosingSums(information, None, np.zeros((4, 1)), 1_000.0, 450.0, 500.0)
    return replace(model, closing=sums)


class TestErrors:
    def test_a_table_has_errors_tests_and_intervals_of_the_coefficients(self, run_dir: Path) -> None:
        finish(run_dir, with_errors(small_model()))
        facts = show(run_dir)
        found = {each["name"]: each for each in facts["coefficients"]}
        distance = found["distance"]
        assert distance["standard_error"] == pytest.approx(0.0004)
        assert distance["z"] == pytest.approx(25.0)
        assert distance["p_value"] == pytest.approx(6.1e-138, rel=0.01)
        assert (distance["lower"], distance["upper"]) == pytest.approx((0.01 - 0.000784, 0.01 + 0.000784), rel=1e-4)
        assert found["(intercept)"]["standard_error"] == pytest.approx(0.0056**0.5)
        text = format_show(facts)
        assert re.search(r"name +original units +standardised +estimate +std error +z +p +2.5 % +97.5 %\n", text)
        assert re.search(r"distance +0.01 +0.5 +0.01 +0.0004 +25 +6\.\d+e-138 +0.009216\d* +0.010783\d*", text)

    def test_what_has_no_errors_has_a_reason(self, run_dir: Path) -> None:
        finish(run_dir, with_errors(small_model()))
        facts = show(run_dir)
        missing = next(each for each in facts["coefficients"] if each["level"] == "AA")
        assert missing["standard_error"] is missing["p_value"] is None
        assert "without errors\n  carrier=AA: no training row tells it" in format_show(facts)

    def test_the_fit_is_told_with_its_errors(self, run_dir: Path) -> None:
        finish(run_dir, with_errors(small_model()))
        facts = show(run_dir, level=0.9)
        assert facts["inference"] == {
            "errors": "classical", "level": 0.9, "observations": 1000.0, "rank": 3, "deviance": 900.0,
            "null_deviance": 1000.0, "least_deviance": 900.0, "dispersion": 1.0, "log_likelihood": -450.0,
            "aic": 906.0, "pearson": None,
        }  # fmt: skip
        text = format_show(facts)
        assert "fit, with classical errors\nobservations    1,000\n" in text
        assert re.search(r"5 % +95 %\n", text)

    @pytest.mark.parametrize(
        "change",
        [{"extra": 1.0}, {"gradient": "steep"}, {"gradient": None}, {"excess": [1.0]}, {"bound": True},
         {"estimated_by": "magic"}, {"estimated_by": []}],
        ids=str,
    )  # fmt: skip
    def test_a_certificate_that_was_tampered_with_is_told_as_damage(
        self, change: dict[str, Any], run_dir: Path
    ) -> None:
        certificate = {"gradient": 1e-9, "excess": None, "estimated_by": "none", "bound": None}
        model, base = small_model(), {"base_loss": 0.5}
        finish(run_dir, replace(model, facts=model.facts | base | {"certificate": certificate}))
        assert "certificate: the largest |grad J| is 1e-09" in format_show(show(run_dir))
        finish(run_dir, replace(model, facts=model.facts | base | {"certificate": certificate | change}))
        with pytest.raises(CorruptStateError, match="damaged: not a certificate: ValueError: a certificate"):
            format_show(show(run_dir))

    def test_without_errors_the_reason_is_told_once(self, run_dir: Path) -> None:
        model = small_model()
        finish(run_dir, replace(model, facts=model.facts | {"no_errors": "l1 is 0.1"}))
        facts = show(run_dir)
        assert facts["inference"] == {"refused": "l1 is 0.1"}
        assert facts["coefficients"][0]["standard_error"] is None
        text = format_show(facts)
        assert "no errors of the coefficients: l1 is 0.1" in text
        assert "std error" not in text
        with pytest.raises(ConfigError, match="the coefficients have no errors"):
            show(run_dir, errors="robust")

    def test_csv_has_all_coefficients_with_all_digits(self, run_dir: Path) -> None:
        coefficients = with_errors(small_model()).coefficient_rows()
        rows = list(csv.DictReader(io.StringIO(format_csv(coefficients))))
        assert [row["name"] for row in rows] == ["distance", "carrier=AA", "carrier=null", "(intercept)"]
        assert float(rows[0]["standard_error"]) == coefficients[0]["standard_error"]
        assert (rows[1]["standard_error"], rows[1]["lower"]) == ("", "")
        assert rows[1]["reason"].startswith("no training row")


class TestHistory:
    def test_the_last_epochs_are_a_table_and_events_are_lines(self, run_dir: Path) -> None:
        epochs = [
            {
                "event": "epoch",
                "epoch": k,
                "steps": 10 * k,
                "progressive_loss": 0.5 / k,
                "holdout_loss": None,
                "seconds": 0.1,
            }
            for k in range(1, 15)
        ]
        write_history(run_dir, [*epochs, {"event": "rollback", "text": "epoch 2: the loss rose"}], '{"event": "cut o')
        facts = show(run_dir)
        assert len(facts["history"]) == 15
        text = format_show(facts)
        assert "history, the last 10 of 14\nepoch  steps  progressive loss  seconds\n    5     50" in text
        assert "rollback: epoch 2: the loss rose" in text
        assert "holdout" not in text

    def test_passes_whose_step_was_too_long_are_marked(self, run_dir: Path) -> None:
        passes = [{"event": "pass", "epoch": k, "objective": 0.5, "accepted": k != 2} for k in (1, 2, 3)]
        write_history(run_dir, passes)
        text = format_show(show(run_dir))
        assert "epoch  objective  accepted\n    1        0.5       yes\n    2        0.5        no\n" in text
        write_history(run_dir, [each for each in passes if each["accepted"]])
        assert "accepted" not in format_show(show(run_dir))


def test_losses_of_the_model_are_told(run_dir: Path) -> None:
    model = small_model()
    model.facts.update(base_loss=0.6931472, train_loss=0.25, holdout_loss=None, objective=0.2500001)
    finish(run_dir, model)
    assert "base loss   0.6931472\ntrain loss  0.25\nobjective   0.2500001\n" in format_show(show(run_dir))


def test_everything_can_be_written_as_json(run_dir: Path) -> None:
    finish(run_dir, small_model())
    assert {"theta_sha256", "steps", "epochs", "rows_seen", "stopped_by", "state"} <= set(
        json.loads(json.dumps(show(run_dir)))
    )
