"""The first steps of Newton's method on a sample of the chunks: fewer passes over all rows, the same optimum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Generated

from streamgd import train
from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet
from streamgd.training import reduce
from streamgd.training.sample_start import optimum_of_sample

HESSIAN = np.diag([2.0, 1.0])


@pytest.fixture(scope="module")
def data(generated: Generated) -> Path:
    return generated(rows=40_000, features=5, row_group_rows=1_000, seed=2)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk for each row group; otherwise such small data are one chunk."""
    monkeypatch.setattr(reduce, "SMALLEST_CHUNK_VALUES", 1_000)


def passes(data: Path, run: Path, **options: Any) -> tuple[Any, list[dict[str, Any]]]:
    result = train(str(data), "y", run=str(run), method="batch", **options)
    return result, [line for line in result.history if line["event"] == "pass"]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("options", [{}, {"l1": 0.001}, {"dtype": "float64", "init": "best"}], ids=str)
def test_fewer_passes_to_the_same_optimum(options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    sampled, few = passes(data, tmp_path / "sampled", **options)
    plain, many = passes(data, tmp_path / "plain", **{**options, "init": "zeros"})
    assert len(few) <= len(many) - 2
    assert all(line["accepted"] for line in few)
    assert sampled.facts["objective"] == pytest.approx(plain.facts["objective"], rel=1e-13)
    assert sampled.facts["base_loss"] == pytest.approx(plain.facts["base_loss"], rel=1e-13)
    found = [np.array([each.standardised for each in one.model.coefficients()]) for one in (sampled, plain)]
    np.testing.assert_allclose(*found, rtol=0.0, atol=1e-8)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("other", [{"threads": 3}, {"blocks_max": "1B"}], ids=str)
def test_threads_and_blocks_change_no_bit(other: dict[str, Any], data: Path, tmp_path: Path) -> None:
    one, _ = passes(data, tmp_path / "one", threads=1)
    also, _ = passes(data, tmp_path / "also", **other)
    assert also.model.theta_sha256 == one.model.theta_sha256


@pytest.mark.usefixtures("small_chunks")
def test_a_sample_unlike_all_rows_costs_one_pass_and_decides_nothing(tmp_path: Path) -> None:
    """In the chunks of the sample, 0 and 8, the slope is the other way round."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=16_000)
    slope = np.where(np.arange(16) % 8 == 0, 0.5, -1.0).repeat(1_000)
    y = rng.random(16_000) < 1.0 / (1.0 + np.exp(-slope * x))
    pq.write_table(pa.table({"x": x, "y": y}), tmp_path / "data.parquet", row_group_size=1_000)
    sampled, made = passes(tmp_path / "data.parquet", tmp_path / "sampled", tol_gradient=0.02)
    plain, _ = passes(tmp_path / "data.parquet", tmp_path / "plain", init="zeros")

    assert [line["accepted"] for line in made] == [False, *[True] * (len(made) - 1)]
    assert made[0]["gradient"] is None
    assert sampled.facts["objective"] == pytest.approx(plain.facts["objective"], rel=5e-3)
    (one, _), (other, _) = (
        passes(tmp_path / "data.parquet", tmp_path / f"ended {epochs}", epochs=epochs) for epochs in (1, 2)
    )
    assert one.facts["certificate"] == other.facts["certificate"]
    assert one.facts["objective"] == pytest.approx(one.facts["base_loss"], rel=1e-12)


def of_all_rows(theta: np.ndarray, optimum: np.ndarray) -> Evaluation:
    """A quadratic J with its minimum at ``optimum``."""
    away = theta - optimum
    return Evaluation(1.0 + float((away.T @ HESSIAN @ away).item()) / 2.0, 0.0, HESSIAN @ away, HESSIAN)


def test_the_optimum_of_the_sample_is_found() -> None:
    optimum, base = np.array([[-3.0], [-3.0]]), np.zeros((2, 1))
    found = optimum_of_sample(lambda theta: of_all_rows(theta, optimum), base, 10.0, ElasticNet())
    np.testing.assert_allclose(found, optimum)


def test_a_j_that_is_not_finite_leaves_the_best_constant_as_the_first_trial() -> None:
    base = np.zeros((2, 1))
    nothing = Evaluation(np.inf, np.inf, HESSIAN @ base, HESSIAN)
    assert optimum_of_sample(lambda _: nothing, base, 1.0, ElasticNet()) is base
