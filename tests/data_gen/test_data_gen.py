"""Generated data are the same for the same seed, have the properties asked for, and the truth is their truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit, xlogy
from sklearn.linear_model import LogisticRegression

from data_gen import generate

# More than one chunk of 65,536 rows, and not a whole number of them.
ROWS = 70_001


def read(directory: Path) -> pa.Table:
    files = sorted(directory.glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files]).unify_dictionaries().combine_chunks()


def raw_of(truth: dict[str, Any], table: pa.Table) -> np.ndarray:
    raw = np.full(table.num_rows, truth["intercept"])
    for column, coefficient in truth["coefficients"].items():
        raw += coefficient * table[column].to_numpy()
    for column, effects in truth["level_effects"].items():
        raw += np.array([effects[level] for level in table[column].to_pylist()])
    return raw


def losses(truth: dict[str, Any], table: pa.Table) -> tuple[float, float]:
    """Mean loss at the truth and of the best constant, written out apart from the generator's own sums."""
    raw, y = raw_of(truth, table), table["y"].to_numpy().astype(float)
    if truth["loss"] == "squared":
        return 0.5 * np.mean((y - raw) ** 2), 0.5 * np.var(y)
    p, base = expit(raw), y.mean()
    return -np.mean(xlogy(y, p) + xlogy(1 - y, 1 - p)), -(xlogy(base, base) + xlogy(1 - base, 1 - base))


def test_files_and_row_groups_change_no_value(tmp_path: Path) -> None:
    options: dict[str, Any] = {"rows": ROWS, "features": 3, "categorical": 2, "levels": 7, "nulls": 0.1, "seed": 5}
    one = generate(tmp_path / "one", **options)
    many = generate(tmp_path / "many", **options, files=3, row_group_rows=10_000)
    assert read(tmp_path / "one").equals(read(tmp_path / "many"))
    assert {**one, "files": 0, "arguments": 0} == {**many, "files": 0, "arguments": 0}
    metadata = [pq.read_metadata(tmp_path / "many" / name) for name in many["files"]]
    assert [file.num_rows for file in metadata] == [23_333, 23_334, 23_334]
    assert [metadata[0].row_group(group).num_rows for group in range(3)] == [10_000, 10_000, 3_333]


def test_lists_name_columns_whose_effects_are_the_truth(tmp_path: Path) -> None:
    truth = generate(tmp_path, rows=ROWS, features=1, active=6, sparse_columns=1_000, nulls=0.0, seed=3)
    table, effects = read(tmp_path), np.load(tmp_path / "sparse_effects.npy")
    lists = table["s"].combine_chunks()
    assert truth["columns"] == ["x0", "s", "y"]
    assert (len(effects), truth["sparse_effects"]) == (1_000, 1_000)
    named = lists.flatten().to_numpy().reshape(ROWS, 6)
    raw = raw_of(truth, table) + effects[named].sum(axis=1)
    y = table["y"].to_numpy().astype(float)

    assert truth["loss_at_truth"] == pytest.approx(np.mean(np.logaddexp(0, raw) - y * raw), rel=1e-12)
    assert (np.sort(named, axis=1)[:, 1:] != np.sort(named, axis=1)[:, :-1]).all()
    # The share of the variance that is asked for, spread over columns that are common and rare.
    assert np.var(effects[named].sum(axis=1)) == pytest.approx(2.0, rel=0.05)
    counts = np.sort(np.bincount(named.ravel(), minlength=1_000))
    assert counts[-1] > 0.1 * ROWS
    assert counts[500] < 0.01 * ROWS
    generate(tmp_path / "nulls", rows=1_000, features=0, active=6, sparse_columns=6, nulls=0.3)
    assert 200 < read(tmp_path / "nulls")["s"].null_count < 400


def test_fewer_rows_are_the_first_of_more_rows(tmp_path: Path) -> None:
    options: dict[str, Any] = {"features": 2, "categorical": 1, "outliers": 0.2, "nulls": 0.1, "loss": "squared"}
    generate(tmp_path / "more", rows=ROWS, **options)
    generate(tmp_path / "fewer", rows=66_000, **options)
    assert read(tmp_path / "fewer").equals(read(tmp_path / "more").slice(0, 66_000).combine_chunks())


def test_another_seed_gives_other_values_and_another_truth(tmp_path: Path) -> None:
    first = generate(tmp_path / "first", rows=100, features=2, seed=1)
    second = generate(tmp_path / "second", rows=100, features=2, seed=2)
    assert not np.isin(read(tmp_path / "first")["x0"], read(tmp_path / "second")["x0"]).any()
    assert first["coefficients"] != second["coefficients"]


def test_chunks_and_columns_do_not_repeat_each_other(tmp_path: Path) -> None:
    generate(tmp_path / "data", rows=140_000, features=2)
    table = read(tmp_path / "data")
    values = np.concatenate([table["x0"].to_numpy(), table["x1"].to_numpy()])
    assert len(np.unique(values)) == len(values)


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_sorted_has_the_same_rows_ordered_by_the_target(tmp_path: Path, loss: str) -> None:
    options: dict[str, Any] = {"rows": 600_000, "features": 2, "categorical": 1, "loss": loss, "nulls": 0.01}
    plain = generate(tmp_path / "plain", **options)
    in_order = generate(tmp_path / "sorted", **options, sorted=True, files=2)
    expected, found = read(tmp_path / "plain"), read(tmp_path / "sorted")
    # A stable sort of the rows as drawn: the same rows, and the only order they can have.
    order = np.argsort(expected["y"].to_numpy(), kind="stable")
    assert not np.array_equal(order, np.arange(len(order)))
    assert found.equals(expected.take(pa.array(order)).combine_chunks())
    for key in ("loss_at_truth", "expected_loss", "base_loss", "coefficients", "rows"):
        assert in_order[key] == plain[key]
    assert sorted(file.name for file in (tmp_path / "sorted").iterdir()) == [*in_order["files"], "truth.json"]


@pytest.mark.parametrize("loss", ["logistic", "squared"])
@pytest.mark.parametrize("shape", [{}, {"badly_scaled": True}, {"drift": True, "correlation": 0.7, "sorted": True}])
def test_losses_of_the_truth_are_those_of_the_rows_written(tmp_path: Path, loss: str, shape: dict[str, Any]) -> None:
    truth = generate(tmp_path / "data", rows=ROWS, features=5, categorical=2, levels=4, loss=loss, seed=3, **shape)
    at_truth, base = losses(truth, read(tmp_path / "data"))
    assert truth["loss_at_truth"] == pytest.approx(at_truth, rel=1e-9)
    assert truth["base_loss"] == pytest.approx(base, rel=1e-9)
    assert truth["loss_at_truth"] == pytest.approx(truth["expected_loss"], rel=0.02)
    assert truth["base_loss"] - truth["loss_at_truth"] > 0.1
    assert json.loads((tmp_path / "data" / "truth.json").read_text()) == truth


@pytest.mark.parametrize("options", [{}, {"badly_scaled": True}, {"correlation": 0.5, "drift": True}])
def test_least_squares_recovers_the_coefficients_within_sampling_error(tmp_path: Path, options: dict[str, Any]) -> None:
    truth = generate(tmp_path / "data", rows=200_000, features=6, categorical=1, levels=4, loss="squared", **options)
    table = read(tmp_path / "data")
    X = np.column_stack([table[column].to_numpy() for column in truth["coefficients"]])
    mean, sd = X.mean(axis=0), X.std(axis=0)
    levels = np.array(table["c0"].to_pylist())
    design = np.column_stack([(X - mean) / sd, *(levels == f"l{level}" for level in range(4))])
    found = np.linalg.lstsq(design, table["y"].to_numpy())[0]
    error = np.sqrt(np.diag(np.linalg.inv(design.T @ design))) * truth["noise_sd"]
    coefficients = np.array(list(truth["coefficients"].values()))
    # Without an intercept of its own, the design gives each level the intercept plus its effect.
    level_values = np.array(list(truth["level_effects"]["c0"].values())) + truth["intercept"] + coefficients @ mean
    z = (found - np.concatenate([coefficients * sd, level_values])) / error
    assert np.abs(z).max() < 4.5
    assert np.abs(found / error).max() > 100


def test_logistic_regression_recovers_the_coefficients_within_sampling_error(tmp_path: Path) -> None:
    truth = generate(tmp_path / "data", rows=200_000, features=5, imbalance=0.2)
    table = read(tmp_path / "data")
    X, y = np.column_stack([table[f"x{column}"].to_numpy() for column in range(5)]), table["y"].to_numpy()
    fit = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8).fit(X, y)
    design = np.column_stack([X, np.ones(len(X))])
    p = fit.predict_proba(X)[:, 1]
    error = np.sqrt(np.diag(np.linalg.inv(design.T @ (design * (p * (1 - p))[:, None]))))
    found = np.append(fit.coef_, fit.intercept_)
    z = (found - [*truth["coefficients"].values(), truth["intercept"]]) / error
    assert np.abs(z).max() < 4.5
    assert np.abs(found / error).max() > 100


@pytest.mark.parametrize("rate", [0.002, 0.3, 0.9])
def test_imbalance_is_the_share_of_positives(tmp_path: Path, rate: float) -> None:
    truth = generate(tmp_path / "data", rows=300_000, features=4, categorical=1, imbalance=rate, drift=True)
    positives = read(tmp_path / "data")["y"].to_numpy().mean()
    assert truth["positive_rate"] == pytest.approx(positives, rel=1e-12)
    assert positives == pytest.approx(rate, rel=0.02, abs=5 * np.sqrt(rate * (1 - rate) / 300_000))


def test_nulls_are_that_share_of_every_feature_and_of_no_target(tmp_path: Path) -> None:
    with_nulls = generate(tmp_path / "nulls", rows=ROWS, features=2, categorical=2, nulls=0.25)
    without = generate(tmp_path / "none", rows=ROWS, features=2, categorical=2)
    table, whole = read(tmp_path / "nulls"), read(tmp_path / "none")
    for column in ("x0", "x1", "c0", "c1"):
        assert table[column].null_count / ROWS == pytest.approx(0.25, abs=0.01)
        assert table[column].drop_null().equals(whole[column].filter(table[column].is_valid()))
    assert table["y"].equals(whole["y"])
    assert with_nulls["loss_at_truth"] == without["loss_at_truth"]


def test_outliers_multiply_one_value_in_that_share_of_rows_and_leave_the_target(tmp_path: Path) -> None:
    generate(tmp_path / "outliers", rows=ROWS, features=3, outliers=0.05)
    generate(tmp_path / "none", rows=ROWS, features=3)
    table, whole = read(tmp_path / "outliers"), read(tmp_path / "none")
    ratio = np.column_stack([table[f"x{column}"].to_numpy() / whole[f"x{column}"].to_numpy() for column in range(3)])
    outlying = ratio > 999
    assert ratio[~outlying] == pytest.approx(1, rel=1e-15)
    assert ratio[outlying] == pytest.approx(1000)
    assert outlying.sum(axis=1).max() == 1
    assert outlying.mean(axis=0) == pytest.approx(0.05 / 3, rel=0.1)
    assert table["y"].equals(whole["y"])


def test_correlation_is_between_every_two_columns(tmp_path: Path) -> None:
    generate(tmp_path / "data", rows=ROWS, features=4, correlation=0.6)
    table = read(tmp_path / "data")
    X = np.column_stack([table[f"x{column}"].to_numpy() for column in range(4)])
    assert np.cov(X.T) == pytest.approx(np.where(np.eye(4) == 1, 1.0, 0.6), abs=0.02)


@pytest.mark.parametrize("options", [{}, {"correlation": 0.9}, {"categorical": 3}])
def test_the_signal_is_as_strong_whatever_the_columns(tmp_path: Path, options: dict[str, Any]) -> None:
    for seed in range(4):
        truth = generate(tmp_path / str(seed), rows=20_000, features=4, loss="squared", seed=seed, **options)
        assert truth["base_loss"] - truth["loss_at_truth"] == pytest.approx(0.5 * 2.0**2, rel=0.1)


def test_drift_moves_every_mean_by_two_standard_deviations(tmp_path: Path) -> None:
    generate(tmp_path / "data", rows=ROWS, features=4, drift=True)
    table = read(tmp_path / "data")
    for column in range(4):
        slope, middle = np.polyfit(np.linspace(-1, 1, ROWS), table[f"x{column}"].to_numpy(), 1)
        assert abs(slope) == pytest.approx(1, abs=0.05)
        assert middle == pytest.approx(0, abs=0.05)


def test_badly_scaled_columns_span_twelve_powers_of_ten_and_have_offsets(tmp_path: Path) -> None:
    generate(tmp_path / "data", rows=1_000, features=13, badly_scaled=True)
    table = read(tmp_path / "data")
    X = np.column_stack([table[f"x{column}"].to_numpy() for column in range(13)])
    sd, mean = X.std(axis=0), X.mean(axis=0)
    assert sorted(np.log10(sd).round()) == list(range(-6, 7))
    assert np.sum(np.abs(mean / sd) > 5) == 7


def test_levels_follow_the_law_of_zipf(tmp_path: Path) -> None:
    generate(tmp_path / "data", rows=ROWS, features=0, categorical=1, levels=5)
    column = read(tmp_path / "data")["c0"].combine_chunks()
    assert column.type == pa.dictionary(pa.int32(), pa.string())
    assert column.dictionary.to_pylist() == ["l0", "l1", "l2", "l3", "l4"]
    shares = np.bincount(column.indices.to_numpy(), minlength=5) / ROWS
    law = 1 / np.arange(1, 6)
    assert shares == pytest.approx(law / law.sum(), abs=0.01)


def test_a_single_row_of_a_single_level_is_a_data_set(tmp_path: Path) -> None:
    truth = generate(tmp_path / "data", rows=1, features=1, categorical=1, levels=1)
    assert read(tmp_path / "data").num_rows == truth["rows"] == 1
    assert truth["level_effects"] == {"c0": {"l0": pytest.approx(0)}}


def test_a_data_set_is_replaced_only_when_asked(tmp_path: Path) -> None:
    generate(tmp_path, rows=100, features=1, files=4)
    for left_over in ("_sorting.arrow", "_part-00003.parquet", "_truth.json"):
        (tmp_path / left_over).touch()
    (tmp_path / "notes.txt").touch()
    before = (tmp_path / "truth.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"not empty.*--overwrite"):
        generate(tmp_path, rows=50, features=1)
    assert (tmp_path / "truth.json").read_bytes() == before
    generate(tmp_path, rows=50, features=1, overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["notes.txt", "part-00000.parquet", "truth.json"]
    assert read(tmp_path).num_rows == 50


def test_a_failure_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    with pytest.raises(OSError, match="No space left"):
        generate(tmp_path, rows=100, features=1, sorted=True, loss="squared")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": 0}, "rows must be at least 1"),
        ({"features": 0}, "no feature columns"),
        ({"levels": 0}, "levels must be at least 1"),
        ({"loss": "hinge"}, "loss must be logistic or squared, found 'hinge'"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**32}, "seed must be below"),
        ({"nulls": float("nan")}, "nulls must be a fraction"),
        ({"outliers": 1.5}, "outliers must be a fraction"),
        ({"outliers": 0.1, "features": 0, "categorical": 1}, "outliers need a numeric column"),
        ({"correlation": 1.0}, "correlation must be from 0 to below 1"),
        ({"imbalance": 0.0}, "imbalance must be a probability"),
        ({"imbalance": 0.1, "loss": "squared"}, "imbalance is for the logistic loss"),
        ({"files": 0}, "files must be from 1"),
        ({"files": 101}, "files must be from 1 to the number of rows"),
        ({"row_group_rows": 0}, "row_group_rows must be at least 1"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generate(tmp_path / "data", **{"rows": 100, "features": 2, **wrong})
    assert not (tmp_path / "data").exists()
