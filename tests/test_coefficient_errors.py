"""The errors that a run of ``--method batch`` ends with are those of statsmodels, and every face tells them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import statsmodels.api as sm
from click.testing import CliRunner
from scipy.special import expit

from streamgd.cli import main
from streamgd.errors import ConfigError, PausedError
from streamgd.training.batch import BatchTrainer
from streamgd.training.certificate import MOST_HESSIAN_COLUMNS
from streamgd.training.train import Result, train

ROWS = 5_000
EXACT = {"method": "batch", "dtype": "float64", "l2": 0}
LEVELS = {"kind": ["x", "y", "z"], "place": ["p", "q"]}  # the most frequent first


def draw(loss: str, seed: int = 7) -> dict[str, Any]:
    """Columns ``a``, ``b``, ``kind``, ``place``, ``exposure`` (an offset), ``times`` (a weight) and ``y``."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(3.0, 2.0, ROWS), rng.exponential(100.0, ROWS)
    kind, place = rng.choice(LEVELS["kind"], ROWS, p=[0.6, 0.3, 0.1]), rng.choice(LEVELS["place"], ROWS, p=[0.7, 0.3])
    exposure = rng.normal(0.5, 1.0, ROWS)
    raw = 0.7 * a - 0.01 * b + 0.5 * (kind == "y") - 0.6 * (kind == "z") + 0.3 * (place == "q") - 1.0 + exposure
    noise = rng.normal(size=ROWS) * np.hypot(1.0, a)  # of another size in every row
    y = (rng.random(ROWS) < expit(raw)).astype(np.float64) if loss == "logistic" else 40.0 * (raw + noise)
    return {"a": a, "b": b, "kind": kind, "place": place, "exposure": exposure, "times": rng.integers(1, 4, ROWS),
            "y": y}  # fmt: skip


def design(columns: dict[str, Any]) -> np.ndarray:
    """Numbers, ones for all levels but the most frequent one, and the intercept."""
    dummies = [columns[name] == level for name, levels in LEVELS.items() for level in levels[1:]]
    return np.column_stack([columns["a"], columns["b"], *dummies, np.ones(ROWS)]).astype(np.float64)


def write(columns: dict[str, Any], folder: Path) -> str:
    pq.write_table(pa.table(columns), folder / "data.parquet", row_group_size=700)
    return str(folder / "data.parquet")


def fitted(columns: dict[str, Any], loss: str, cov_type: str = "nonrobust", **options: Any) -> Any:
    """What statsmodels finds."""
    family = sm.families.Binomial() if loss == "logistic" else sm.families.Gaussian()
    return sm.GLM(columns["y"], design(columns), family=family, **options).fit(
        cov_type=cov_type, tol=1e-14, maxiter=100
    )


def run(columns: dict[str, Any], folder: Path, **options: Any) -> Result:
    return train(write(columns, folder), "y", run=folder / "run", **{"features": "a,b,kind,place", **EXACT, **options})


def assert_as_expected(result: Result, expected: Any) -> None:
    table, fit = result.model.coefficient_table(), result.model.inference().fit
    np.testing.assert_allclose(table["standard_error"], expected.bse, rtol=1e-6)
    np.testing.assert_allclose(table["estimate"], expected.params, rtol=1e-6)
    np.testing.assert_allclose(table["value"], expected.params, rtol=1e-6)
    np.testing.assert_allclose(table["z"], expected.tvalues, rtol=1e-6)
    assert fit.deviance == pytest.approx(expected.deviance, rel=1e-9)
    assert fit.null_deviance == pytest.approx(expected.null_deviance, rel=1e-9)
    assert fit.dispersion == pytest.approx(expected.scale, rel=1e-9)
    assert fit.aic == pytest.approx(expected.aic, rel=1e-9)


class TestAgainstStatsmodels:
    @pytest.mark.parametrize("loss", ["squared", "logistic"])
    @pytest.mark.parametrize(("errors", "cov_type"), [("classical", "nonrobust"), ("robust", "HC0")])
    def test_a_generalised_linear_model(self, loss: str, errors: str, cov_type: str, tmp_path: Path) -> None:
        columns = draw(loss)
        result = run(columns, tmp_path, errors=errors)
        assert_as_expected(result, fitted(columns, loss, cov_type))
        assert result.model.inference().errors == errors

    @pytest.mark.parametrize("cov_type", ["nonrobust", "HC0"])
    def test_logit_and_ordinary_least_squares(self, cov_type: str, tmp_path: Path) -> None:
        errors = "robust" if cov_type == "HC0" else "classical"
        for loss, model in (("logistic", sm.Logit), ("squared", sm.OLS)):
            columns, options = draw(loss), {"disp": 0, "tol": 1e-12} if loss == "logistic" else {}
            folder = tmp_path / loss
            folder.mkdir()
            result = run(columns, folder, errors=errors)
            expected = model(columns["y"], design(columns)).fit(cov_type=cov_type, **options)
            np.testing.assert_allclose(result.model.inference().standard_error, expected.bse, rtol=1e-6)
            assert result.model.inference().fit.aic == pytest.approx(expected.aic, rel=1e-9)

    @pytest.mark.parametrize("loss", ["squared", "logistic"])
    @pytest.mark.parametrize(("errors", "cov_type"), [("classical", "nonrobust"), ("robust", "HC0")])
    def test_weights_are_frequencies_and_an_offset_has_no_coefficient(
        self, loss: str, errors: str, cov_type: str, tmp_path: Path
    ) -> None:
        columns = draw(loss)
        expected = fitted(columns, loss, cov_type, freq_weights=columns["times"], offset=columns["exposure"])
        result = run(columns, tmp_path, errors=errors, weight="times", offset="exposure")
        np.testing.assert_allclose(result.model.inference().standard_error, expected.bse, rtol=1e-6)
        fit = result.model.inference().fit
        assert fit.observations == columns["times"].sum()
        assert fit.deviance == pytest.approx(expected.deviance, rel=1e-9)
        assert fit.null_deviance == pytest.approx(expected.null_deviance, rel=1e-8)
        assert fit.aic == pytest.approx(expected.aic, rel=1e-9)

    @pytest.mark.parametrize(
        ("loss", "optimizer"),
        [("squared", "normal"), ("squared", "lbfgs"), ("logistic", "lbfgs"), ("logistic", "backtracking")],
    )
    def test_whichever_optimizer_came_there(self, loss: str, optimizer: str, tmp_path: Path) -> None:
        columns = draw(loss)
        tolerance = {} if optimizer == "normal" else {"tol_gradient": 1e-9, "epochs": 2_000}
        result = run(columns, tmp_path, optimizer=optimizer, **tolerance)
        assert_as_expected(result, fitted(columns, loss))

    @pytest.mark.parametrize("loss", ["squared", "logistic"])
    def test_the_default_penalty_and_float32_change_next_to_nothing(self, loss: str, tmp_path: Path) -> None:
        columns = draw(loss)
        result, expected = run(columns, tmp_path, l2=1e-6, dtype="float32"), fitted(columns, loss)
        found = result.model.inference()
        np.testing.assert_allclose(found.standard_error, expected.bse, rtol=1e-5)
        np.testing.assert_allclose(found.estimate, expected.params, atol=1e-4 * np.abs(expected.bse).min())


class TestRuns:
    def test_a_run_that_was_cut_short_tells_the_optimum_of_a_squared_loss(self, tmp_path: Path) -> None:
        columns = draw("squared")
        result = run(columns, tmp_path, optimizer="backtracking", epochs=2)
        expected = fitted(columns, "squared")
        np.testing.assert_allclose(result.model.inference().estimate, expected.params, rtol=1e-9)
        np.testing.assert_allclose(result.model.inference().standard_error, expected.bse, rtol=1e-9)

    def test_robust_errors_can_be_asked_for_when_the_run_has_finished(self, tmp_path: Path) -> None:
        columns = draw("logistic")
        first = run(columns, tmp_path)
        with pytest.raises(ConfigError, match="Run it again with --errors robust"):
            first.model.inference("robust")
        again = run(columns, tmp_path, errors="robust")
        assert again.model.theta_sha256 == first.model.theta_sha256
        assert (again.facts["epochs"], again.history) == (first.facts["epochs"], first.history)
        np.testing.assert_allclose(
            again.model.inference("robust").standard_error, fitted(columns, "logistic", "HC0").bse, rtol=1e-6
        )
        np.testing.assert_allclose(
            again.model.inference("classical").standard_error, first.model.inference().standard_error, rtol=1e-12
        )
        for errors in ("robust", "classical"):  # both are there now
            assert run(columns, tmp_path, errors=errors).facts["already_finished"]

    def test_a_run_that_is_stopped_in_its_closing_pass_makes_it_when_it_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stopped(*_: Any) -> None:
            raise PausedError("stopped")

        columns = draw("logistic")
        with monkeypatch.context() as patch:
            patch.setattr(BatchTrainer, "closing_sums", stopped)
            with pytest.raises(PausedError):
                run(columns, tmp_path)
        result = run(columns, tmp_path)
        np.testing.assert_allclose(result.model.inference().standard_error, fitted(columns, "logistic").bse, rtol=1e-6)

    def test_with_patience_they_are_those_of_the_theta_that_predicts(self, tmp_path: Path) -> None:
        result = run(
            draw("logistic"), tmp_path, optimizer="lbfgs", holdout=0.3, patience=1, epochs=50, tol_gradient=1e-13
        )
        closing = result.model.closing
        assert closing is not None
        assert closing.loss / closing.weight == pytest.approx(result.facts["train_loss"], rel=1e-12)
        assert closing.weight == result.facts["train_rows"]

    @pytest.mark.parametrize("optimizer", ["normal", "newton"])
    def test_a_target_next_to_a_plane_has_the_errors_of_its_residuals(self, optimizer: str, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        a, noise = rng.normal(size=ROWS), 1e-9 * rng.normal(size=ROWS)
        columns = {"a": a, "y": 3.0 * a + 1.0 + noise}
        options = {"features": "a", "loss": "squared", "optimizer": optimizer}
        found = run(columns, tmp_path, **options).model.inference()
        assert found.fit.dispersion == pytest.approx(noise.var(), rel=0.05)
        assert found.standard_error[0] == pytest.approx(noise.std() / (a.std() * np.sqrt(ROWS)), rel=0.05)

    @pytest.mark.parametrize("optimizer", ["normal", "newton", "lbfgs"])
    def test_the_closing_sums_are_the_same_bits_after_a_stop(
        self, optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stopped(*_: Any) -> None:
            raise PausedError("stopped")

        columns, folder = draw("squared"), tmp_path / "stopped"
        folder.mkdir()
        straight = run(columns, tmp_path, optimizer=optimizer).model.closing
        with monkeypatch.context() as patch:
            patch.setattr(BatchTrainer, "closing_sums", stopped)
            with pytest.raises(PausedError):
                run(columns, folder, optimizer=optimizer)
        gone_on = run(columns, folder, optimizer=optimizer).model.closing
        assert straight is not None
        assert gone_on is not None
        assert (gone_on.loss, gone_on.base_loss) == (straight.loss, straight.base_loss)
        np.testing.assert_array_equal(gone_on.gradient, straight.gradient)
        np.testing.assert_array_equal(gone_on.information, straight.information)

    def test_collinear_columns_have_a_reason_instead(self, tmp_path: Path) -> None:
        columns = draw("squared")
        columns["twice"] = 2.0 * columns["a"] + 1.0
        result = run(columns, tmp_path, features="a,b,kind,place,twice")
        table = {row["name"]: row for row in result.model.coefficient_table().to_pylist()}
        expected = dict(zip(["b", "kind=y", "kind=z", "place=q"], fitted(columns, "squared").bse[1:5], strict=True))
        for name, error in expected.items():
            assert table[name]["standard_error"] == pytest.approx(error, rel=1e-6)
        assert (table["a"]["standard_error"], table["a"]["reason"]) == (None, "collinear with twice, (intercept)")
        assert table["twice"]["p_value"] is None


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"l1": 0.01}, r"with --l1 0\.01 coefficients are shrunk"),
            ({"l2": 0.01}, r"--l2 0\.01 is above 1e-06"),
            ({"method": "minibatch", "epochs": 1}, "the closing pass of --method batch"),
        ],
    )  # fmt: skip
    def test_without_a_meaning_there_are_none(self, options: dict[str, Any], reason: str, tmp_path: Path) -> None:
        columns = draw("logistic")
        result = run(columns, tmp_path, **options)
        assert result.model.closing is None
        with pytest.raises(ConfigError, match=reason):
            result.model.inference()
        assert result.model.coefficient_table()["standard_error"].null_count == 6
        with pytest.raises(ConfigError, match=f"--errors robust: .*{reason}"):
            run(columns, tmp_path, errors="robust", **options)

    def test_too_many_coefficients_for_a_hessian_have_none(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        levels = [f"l{number}" for number in rng.permutation(np.tile(np.arange(MOST_HESSIAN_COLUMNS + 1), 5))]
        table = {"level": levels, "y": rng.normal(size=len(levels))}
        options = {"features": None, "loss": "squared", "tol_gradient": 1e-6}
        result = run(table, tmp_path, errors="robust", **options)
        assert result.model.no_errors == "they are told of up to 1,024 coefficients, these are 1,025"
        assert any("the coefficients have no errors" in warning for warning in result.facts["warnings"])


class TestCommandLine:
    @pytest.fixture
    def run_dir(self, tmp_path: Path) -> str:
        columns = draw("logistic")
        columns["constant"] = np.full(ROWS, 3.0)
        run(columns, tmp_path, features="a,b,kind,place,constant", errors="robust")
        return str(tmp_path / "run")

    @staticmethod
    def show(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["show", *arguments])

    def test_json_has_numbers_or_nulls(self, run_dir: str) -> None:
        facts = json.loads(self.show(run_dir, "--json").stdout)
        rows = {row["name"]: row for row in facts["coefficients"]}
        expected = fitted(draw("logistic"), "logistic", "HC0")
        assert rows["a"]["standard_error"] == pytest.approx(expected.bse[0], rel=1e-6)
        assert rows["constant"]["standard_error"] is None
        assert rows["constant"]["reason"].startswith("no training row tells it")
        assert (facts["inference"]["errors"], facts["inference"]["level"]) == ("robust", 0.95)
        assert facts["inference"]["aic"] == pytest.approx(expected.aic)

    def test_the_table_is_for_people(self, run_dir: str) -> None:
        text = self.show(run_dir, "--level", "90%", "--errors", "classical").stdout
        header = next(line for line in text.splitlines() if line.startswith("name"))
        assert header.split("  ")[-1].strip() == "95 %"
        assert "fit, with classical errors" in text

    def test_csv_has_every_coefficient(self, run_dir: str) -> None:
        rows = list(csv.DictReader(io.StringIO(self.show(run_dir, "--csv").stdout)))
        assert [row["name"] for row in rows] == ["a", "b", "constant", "kind=y", "kind=z", "place=q", "(intercept)"]
        expected = fitted(draw("logistic"), "logistic", "HC0")
        found = [float(row["standard_error"]) for row in rows if row["name"] != "constant"]
        np.testing.assert_allclose(found, expected.bse, rtol=1e-6)

    def test_what_cannot_be_is_refused_in_one_line(self, run_dir: str) -> None:
        for arguments, exit_code, text in (
            (("--csv", "--json"), 2, "--csv and --json both given"),
            (("--level", "1.5"), 78, "--level: expected a number between 0 and 1"),
            (("--level", "95"), 78, "found 95. Did you mean 0.95 or 95%?"),
            (("--level", "much"), 78, "--level: expected a fraction"),
            (("--errors", "HC3"), 78, "--errors: expected classical or robust, found 'HC3'"),
        ):
            result = self.show(run_dir, *arguments)
            assert result.exit_code == exit_code
            assert text in result.stderr
            assert result.stderr.count("\n") == 1
