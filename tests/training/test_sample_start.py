"""The first steps of Newton's method on a sample of the chunks: fewer passes over all rows, the same optimum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Generated

from streamgd import train
from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.newton import Newton
from streamgd.training import reduce
from streamgd.training.sample_start import begun_on_sample

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
def test_a_sample_unlike_all_rows_leads_to_the_same_optimum(generated: Generated, tmp_path: Path) -> None:
    data = generated(rows=40_000, features=5, row_group_rows=1_000, seed=2, sorted=True)
    sampled, _ = passes(data, tmp_path / "sampled")
    plain, _ = passes(data, tmp_path / "plain", init="zeros")
    assert sampled.facts["objective"] == pytest.approx(plain.facts["objective"], rel=1e-13)


def of_all_rows(theta: np.ndarray, optimum: np.ndarray) -> Evaluation:
    """A quadratic J with its minimum at ``optimum``."""
    away = theta - optimum
    return Evaluation(1.0 + float((away.T @ HESSIAN @ away).item()) / 2.0, 0.0, HESSIAN @ away, HESSIAN)


def test_a_trial_after_which_j_is_higher_is_shortened() -> None:
    """The optimum of the sample lies on the other side of the best constant."""
    optimum, other = np.array([[1.0], [1.0]]), np.array([[-3.0], [-3.0]])
    base, penalty, newton = np.zeros((2, 1)), ElasticNet(), Newton()
    state = begun_on_sample(lambda theta: of_all_rows(theta, other), base, of_all_rows(base, optimum).value, penalty)
    np.testing.assert_allclose(state["trial"], other)

    states = [state]
    for _ in range(40):
        states.append(newton.update(states[-1], of_all_rows(states[-1]["trial"], optimum), penalty))
    assert states[1]["theta"] is base
    assert 0.0 < states[1]["alpha"] < 1.0
    np.testing.assert_allclose(states[-1]["theta"], optimum, atol=1e-9)


def test_a_j_that_is_not_finite_leaves_the_best_constant_as_the_first_trial() -> None:
    base = np.zeros((2, 1))
    nothing = Evaluation(np.inf, np.inf, HESSIAN @ base, HESSIAN)
    state = begun_on_sample(lambda _: nothing, base, 1.0, ElasticNet())
    assert state["value"] is None
    assert (state["trial"] == base).all()
