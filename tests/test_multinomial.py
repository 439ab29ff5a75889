"""More than two classes, from data to predictions: held against scikit-learn's multinomial logistic regression."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from displays import Listener
from oracles import FLIGHT_FEATURES
from sklearn.linear_model import LogisticRegression

from streamgd import compare, evaluate, export, predict, train
from streamgd.errors import ConfigError, RunMismatchError, TargetError
from streamgd.jobs.config import load_job
from streamgd.jobs.job import run_job
from streamgd.model import Model
from streamgd.report.page import write_report
from streamgd.show import format_show, show

LABELS = np.array(["b", "a", "d", "c"])
LEVELS = ["k", "l", "m", "n"]


def made(rows: int, seed: int = 0) -> pa.Table:
    """Two correlated numbers, one of them badly scaled, four levels, and four classes drawn from a softmax."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 2))
    x[:, 1] = 0.8 * x[:, 0] + 0.5 * x[:, 1]
    level = rng.choice(4, rows, p=[0.4, 0.3, 0.2, 0.1])
    truth = np.random.default_rng(99)
    raw = x @ truth.normal(size=(2, 4)) + truth.normal(size=(4, 4))[level] + [0.5, 0.0, -1.0, 0.3]
    y = (raw + rng.gumbel(size=(rows, 4))).argmax(axis=1)
    return pa.table({
        "x0": 1e4 + 100.0 * x[:, 0], "x1": x[:, 1], "c": np.array(LEVELS)[level], "y": LABELS[y],
        "w": rng.choice([1.0, 2.0, 3.0], rows),
    })  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("multinomial") / "data"
    folder.mkdir()
    for number in range(2):
        pq.write_table(made(3_000, number), folder / f"{number}.parquet", row_group_size=700)
    return folder


def design(table: pa.Table, weight: np.ndarray | None = None) -> tuple[list[str], np.ndarray]:
    """Standardised numbers and one-hot levels but the most frequent, with their names."""
    names, columns = [], []
    for name in ("x0", "x1"):
        values = table[name].to_numpy()
        mean = np.average(values, weights=weight)
        columns.append((values - mean) / np.sqrt(np.average((values - mean) ** 2, weights=weight)))
        names.append(name)
    levels = np.array(table["c"].to_pylist())
    count = {level: ((levels == level) * (1.0 if weight is None else weight)).sum() for level in LEVELS}
    for level in sorted(LEVELS, key=lambda each: -count[each])[1:]:
        columns.append((levels == level).astype(float))
        names.append(f"c={level}")
    return names, np.stack(columns, axis=1)


def optimum(table: pa.Table, l2: float, weight: np.ndarray | None = None) -> tuple[list[str], np.ndarray]:
    """Names and theta (n_dof, n_classes) of scikit-learn's, the intercept last, centred over the classes."""
    names, X = design(table, weight)
    total = len(X) if weight is None else weight.sum()
    oracle = LogisticRegression(C=1.0 / (total * l2), solver="newton-cg", tol=1e-12, max_iter=1_000)
    oracle.fit(X, table["y"].to_pylist(), sample_weight=weight)
    theta = np.vstack([oracle.coef_.T, oracle.intercept_])
    return [*names, "(intercept)"], theta - theta.mean(axis=1, keepdims=True)


def standardised(model: Model, names: list[str]) -> np.ndarray:
    """The standardised coefficients in the order of ``names`` and of the classes."""
    found = {(each.name, each.label): each.standardised for each in model.coefficients()}
    assert model.classes is not None
    return np.array([[found[name, label] for label in model.classes] for name in names])


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


# The optimum


@pytest.mark.parametrize(
    "options",
    [
        {"method": "batch"},
        {"method": "batch", "optimizer": "lbfgs", "tol_gradient": 1e-9},
        {"method": "batch", "optimizer": "backtracking", "tol_gradient": 1e-8, "epochs": 3_000, "l2": 1e-2},
        {"method": "batch", "optimizer": "plain", "tol_gradient": 1e-8, "epochs": 3_000, "l2": 1e-2},
        {},
    ],
    ids=["newton", "lbfgs", "backtracking", "plain", "auto"],
)
def test_the_coefficients_of_scikit_learn(options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    table = ds.dataset(data).to_table()
    result = train(str(data), "y", run=tmp_path / "run", features="x0,x1,c", dtype="float64", **options)
    names, expected = optimum(table, options.get("l2", 1e-6))

    assert result.facts["loss"] == "multinomial"  # text of more than two values
    assert result.model.classes == ("a", "b", "c", "d")
    assert_close(standardised(result.model, names), expected, 1e-6)
    assert result.facts["certificate"]["excess"] < 1e-12
    assert result.facts["warnings"] == []


def test_whole_numbers_without_a_penalty_have_the_same_predictions(data: Path, tmp_path: Path) -> None:
    table = ds.dataset(data).to_table()
    numbers = np.searchsorted(sorted(LABELS), np.array(table["y"].to_pylist())) * 10
    path = tmp_path / "numbers.parquet"
    pq.write_table(table.set_column(table.column_names.index("y"), "y", pa.array(numbers)), path)
    with pytest.raises(TargetError, match=r"--loss squared\|.*\|multinomial\|logistic"):
        train(str(path), "y", run=tmp_path / "run", features="x0,x1,c")
    options: dict[str, Any] = {"features": "x0,x1,c", "method": "batch", "dtype": "float64", "l2": 0}
    result = train(str(path), "y", run=tmp_path / "run", loss="multinomial", **options)
    names, expected = optimum(table, 1e-12)

    assert result.model.classes == (0, 10, 20, 30)
    assert_close(standardised(result.model, names), expected, 1e-5)
    assert result.facts["warnings"] == []  # that one intercept too many is told apart from collinear columns


def test_columns_that_repeat_others_are_told(data: Path, tmp_path: Path) -> None:
    table = ds.dataset(data).to_table()
    path = tmp_path / "twice.parquet"
    pq.write_table(table.append_column("x2", table["x1"]), path)
    result = train(str(path), "y", run=tmp_path / "run", features="x1,x2", method="batch")
    assert any("x2 repeats x1" in text for text in result.facts["warnings"])


def test_a_level_without_rows_of_a_class_is_told(data: Path, tmp_path: Path) -> None:
    for method in ({"method": "batch"}, {}):
        where = "y != 'a' or c != 'n'"
        result = train(str(data), "y", run=tmp_path / str(len(method)), features="x0,c", where=where, **method)
        assert any("without rows of some class: c=n." in text for text in result.facts["warnings"])


def test_with_l1_the_certificate_holds_and_some_coefficients_are_zero(data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"features": "x0,x1,c", "method": "batch", "dtype": "float64", "l1": 0.02, "l2": 0}
    newton = train(str(data), "y", run=tmp_path / "newton", **options)
    slow = train(
        str(data), "y", run=tmp_path / "slow", optimizer="backtracking", tol_gradient=1e-9, epochs=3_000, **options
    )

    assert newton.facts["certificate"]["excess"] < 1e-12
    assert_close(slow.model.theta, newton.model.theta, 1e-5)
    assert (newton.model.theta[:-1] == 0.0).any()
    assert ((slow.model.theta[:-1] == 0.0) == (newton.model.theta[:-1] == 0.0)).all()


def test_weights_are_repeated_rows(data: Path, tmp_path: Path) -> None:
    table = ds.dataset(data).to_table()
    weight = table["w"].to_numpy()
    path = tmp_path / "repeated.parquet"
    pq.write_table(table.take(np.repeat(np.arange(len(table)), weight.astype(int))), path)
    options: dict[str, Any] = {"features": "x0,x1,c", "method": "batch", "dtype": "float64"}
    weighted = train(str(data), "y", run=tmp_path / "weighted", weight="w", **options)
    repeated = train(str(path), "y", run=tmp_path / "repeated", **options)
    names, expected = optimum(table, 1e-6, weight)

    assert_close(weighted.model.theta, repeated.model.theta, 1e-10)
    assert_close(standardised(weighted.model, names), expected, 1e-6)


@pytest.mark.parametrize("method", [{"method": "batch"}, {}], ids=["batch", "auto"])
def test_balanced_classes_are_those_of_scikit_learn(method: dict[str, str], data: Path, tmp_path: Path) -> None:
    table = ds.dataset(data).to_table()
    labels = np.array(table["y"].to_pylist())
    classes, count = np.unique(labels, return_counts=True)
    names, X = design(table)
    oracle = LogisticRegression(
        C=1.0 / (len(X) * 1e-6), class_weight="balanced", solver="newton-cg", tol=1e-12, max_iter=1_000
    ).fit(X, labels)
    expected = np.vstack([oracle.coef_.T, oracle.intercept_])
    result = train(
        str(data), "y", run=tmp_path / "run", features="x0,x1,c", dtype="float64", class_weight="balanced", **method
    )

    assert_close(standardised(result.model, [*names, "(intercept)"]), expected - expected.mean(1, keepdims=True), 1e-6)
    assert result.facts["class_weights"] == pytest.approx(
        {str(label): len(labels) / (4 * n) for label, n in zip(classes, count, strict=True)}
    )
    assert result.facts["warnings"] == []


# Stochastic


def way_closed(result: Any, best: float) -> float:
    base = result.facts["base_loss"]
    return float((base - result.facts["train_loss"]) / (base - best))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """100,000 rows sorted by class, and the least mean loss."""
    folder = tmp_path_factory.mktemp("many")
    pq.write_table(made(100_000, 5).sort_by("y"), folder / "data.parquet", row_group_size=10_000)
    best = train(str(folder), "y", run=folder / "run", features="x0,x1,c", method="batch")
    return folder / "data.parquet", best.facts["train_loss"]


@pytest.mark.parametrize("options", [{"method": "minibatch"}, {"method": "sgd"}], ids=["minibatch", "sgd"])
def test_defaults_close_most_of_the_way(options: dict[str, Any], many: tuple[Path, float], tmp_path: Path) -> None:
    path, best = many
    for epochs, share in ((1, 0.97), (5, 0.995)):
        run = tmp_path / str(epochs)
        result = train(str(path), "y", run=run, features="x0,x1,c", epochs=epochs, **options)
        assert way_closed(result, best) >= share
        np.testing.assert_allclose(result.model.theta.mean(axis=1), 0.0, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["plain", "momentum", "adagrad", "rmsprop", "adam"])
def test_every_optimizer_learns(optimizer: str, many: tuple[Path, float], tmp_path: Path) -> None:
    path, best = many
    options: dict[str, Any] = {"optimizer": optimizer, "shuffle": "window", "epochs": 1, "sample": 0.5}
    model = train(str(path), "y", run=tmp_path / "run", features="x0,x1,c", **options).model
    metrics = evaluate(model, str(path)).metrics
    assert metrics["base_loss"] is not None
    assert metrics["loss"] is not None
    assert (metrics["base_loss"] - metrics["loss"]) > 0.9 * (metrics["base_loss"] - best)


def test_with_l1_mini_batches_leave_exact_zeros(data: Path, tmp_path: Path) -> None:
    model = train(str(data), "y", run=tmp_path / "run", features="x0,x1,c", method="minibatch", l1=0.05).model
    assert (model.theta[:-1] == 0.0).any()
    assert (model.theta[:-1] != 0.0).any()


def test_holdout_and_patience(data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"features": "x0,x1,c", "holdout": 0.2, "patience": 2, "epochs": 8}
    result = train(str(data), "y", run=tmp_path / "run", method="minibatch", **options)
    held_out = evaluate(result.model, str(data), part="holdout")

    assert held_out.rows == result.facts["holdout_rows"]
    best = min(line["holdout_loss"] for line in result.history if line["event"] == "epoch")
    assert held_out.metrics["loss"] == pytest.approx(best, rel=1e-5)


@pytest.mark.slow
def test_five_classes_of_arrival_delays_equal_scikit_learn(flights: Path, tmp_path: Path) -> None:
    names = FLIGHT_FEATURES.split(",")
    table = ds.dataset(flights).to_table(columns=[*names, "arr_delay"])
    table = table.filter(pc.is_valid(table["arr_delay"]))
    delay = table["arr_delay"].to_numpy()
    quintile = np.searchsorted(np.quantile(delay, [0.2, 0.4, 0.6, 0.8]), delay)
    path = tmp_path / "flights.parquet"
    pq.write_table(table.append_column("quintile", pa.array(quintile)), path, row_group_size=100_000)
    result = train(
        str(path), "quintile", run=tmp_path / "run", features=names[:5], loss="multinomial", method="batch",
        dtype="float64",
    )  # fmt: skip

    numbers = [pc.fill_null(table[name].cast(pa.float64()), pc.mean(table[name])).to_numpy() for name in names[:5]]
    X = np.stack([(x - x.mean()) / x.std() for x in numbers], axis=1)
    oracle = LogisticRegression(C=1.0 / (len(X) * 1e-6), solver="newton-cg", tol=1e-8, max_iter=200).fit(X, quintile)
    own = oracle.predict_proba(X)[np.arange(len(X)), quintile]
    assert result.facts["train_loss"] == pytest.approx(-np.log(own).mean(), abs=1e-7)


# Faces


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    run = tmp_path_factory.mktemp("trained") / "run"
    return train(str(data), "y", run=run, features="x0,x1,c").model, run


def by_hand(model: Model, table: pa.Table) -> np.ndarray:
    """Probabilities from the JSON export, as its description says."""
    told = json.loads(json.dumps(model.to_json()))
    raw = np.tile(np.array(told["intercept"]), (len(table), 1))
    for column in told["numeric"]:
        raw += table[column["name"]].to_numpy()[:, None] * np.array(column["coefficient"])
    for column in told["categorical"]:
        of_level = {each["level"]: each["coefficient"] for each in column["levels"]}
        raw += np.array([of_level.get(level, column["unseen"]) for level in table[column["name"]].to_pylist()])
    power = np.exp(raw - raw.max(axis=1, keepdims=True))
    return np.asarray(power / power.sum(axis=1, keepdims=True))


def test_predictions_are_a_probability_of_each_class_and_the_most_probable(
    trained: tuple[Model, Path], data: Path, tmp_path: Path
) -> None:
    model, run = trained
    predict(run, str(data / "0.parquet"), str(tmp_path), keep=["y"])
    found, table = pq.read_table(tmp_path / "0.parquet"), pq.read_table(data / "0.parquet")
    names = [f"probability_{label}" for label in "abcd"]
    probabilities = np.stack([found[name].to_numpy() for name in names], axis=1)

    assert found.column_names == ["y", *names, "prediction"]
    np.testing.assert_allclose(probabilities, by_hand(model, table), rtol=1e-9)
    assert found["prediction"].to_pylist() == [model.classes[k] for k in probabilities.argmax(axis=1)]  # type: ignore[index]
    clash = tmp_path / "clash.parquet"
    pq.write_table(table.append_column("probability_a", table["x0"]), clash)
    with pytest.raises(ConfigError, match="--keep probability_a"):
        predict(run, str(clash), str(tmp_path / "out"), keep=["probability_a"])


def test_a_null_feature_has_no_prediction_where_nulls_are_dropped(data: Path, tmp_path: Path) -> None:
    model = train(str(data), "y", run=tmp_path / "run", features="x0,x1", nulls="drop", epochs=1).model
    table = pa.table({"x0": [1e4, None], "x1": [0.0, 0.0]})
    pq.write_table(table, tmp_path / "nulls.parquet")
    predict(model, str(tmp_path / "nulls.parquet"), str(tmp_path / "out"))
    found = pq.read_table(tmp_path / "out" / "nulls.parquet")
    assert [found[name].null_count for name in found.column_names] == [1] * 5


def test_evaluate_tells_of_each_class(trained: tuple[Model, Path], data: Path) -> None:
    model, run = trained
    found = evaluate(run, str(data))
    told = found.to_json()

    assert found.metrics["loss"] == pytest.approx(model.facts["train_loss"], rel=1e-6)
    assert [each["class"] for each in told["classes"]] == ["a", "b", "c", "d"]
    assert sum(map(sum, told["confusion"])) == found.weight == 6_000
    assert np.trace(told["confusion"]) / 6_000 == pytest.approx(found.metrics["accuracy"])
    with pytest.raises(ConfigError, match="--by c"):
        evaluate(run, str(data), by="c")


def test_compare_takes_two_models_of_the_same_classes(trained: tuple[Model, Path], data: Path, tmp_path: Path) -> None:
    other = train(str(data), "y", run=tmp_path / "run", features="x1", epochs=1).model
    found = compare(trained[0], other, str(data))
    assert found.difference == pytest.approx(found.metrics[1]["loss"] - found.metrics[0]["loss"], rel=1e-9)  # type: ignore[operator]


def test_show_names_the_class_of_each_coefficient(trained: tuple[Model, Path]) -> None:
    model, run = trained
    facts = show(run)
    text = format_show(facts)

    assert facts["n_coefficients"] == model.theta.size == 24
    assert [row["class"] for row in facts["coefficients"][:4]] == ["a", "b", "c", "d"]
    assert {row["name"] for row in facts["coefficients"][:4]} == {"(intercept)"}
    assert model.coefficient_table().column_names[:2] == ["name", "class"]
    assert "std error" in text
    assert "(intercept), a" in model._repr_html_()


def test_exports_predict_the_same(trained: tuple[Model, Path], data: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, table = trained[0], pq.read_table(data / "1.parquet").slice(0, 300)
    unseen = pa.array(["zz"] * 5 + table["c"].to_pylist()[5:])
    table = table.set_column(table.column_names.index("c"), "c", unseen)
    expected = by_hand(model, table)

    graph = export(model, "onnx", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = {"x0": table["x0"].to_numpy(), "x1": table["x1"].to_numpy(), "c": np.array(table["c"].to_pylist(), object)}
    np.testing.assert_allclose(session.run(None, inputs)[0], expected, rtol=1e-9)
    pipeline = export(model, "sklearn", tmp_path / "model.joblib")
    np.testing.assert_allclose(pipeline.predict_proba(table.to_pandas()), expected, rtol=1e-9)
    assert pipeline.classes_.tolist() == list(model.classes or ())


def test_the_report_has_the_coefficients_and_refuses_curves(
    trained: tuple[Model, Path], data: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    write_report(trained[1], str(page))
    assert "4 classes" in page.read_text()
    with pytest.raises(ConfigError, match=r"--data: .* 4 classes"):
        write_report(trained[1], str(page), data=[str(data)])


def test_a_model_is_saved_and_read_again(trained: tuple[Model, Path], tmp_path: Path) -> None:
    model = trained[0]
    model.save(tmp_path / "model.safetensors")
    again = Model.load(tmp_path / "model.safetensors")
    assert (again.theta == model.theta).all()
    assert again.classes == model.classes


def test_a_run_starts_from_another_one_of_the_same_classes(
    trained: tuple[Model, Path], data: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"features": "x0,x1,c", "from_": str(trained[1])}
    result = train(str(data), "y", run=tmp_path / "run", method="batch", **options)
    assert result.facts["epochs"] <= 4
    assert_close(result.model.theta, trained[0].theta, 1e-6)
    with pytest.raises(ConfigError, match="its classes"):
        train(str(data), "y", run=tmp_path / "other", where="y != 'd'", **options)


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"offset": "w"}, ConfigError, "--offset w: .*changes no probability"),
        ({"max_classes": 3}, TargetError, "at least 4 classes .*--max-classes is 3"),
        ({"positive": "a", "loss": "multinomial"}, ConfigError, "--positive"),
        ({"loss": "logistic"}, TargetError, "logistic loss needs two.*--loss multinomial"),
        ({"loss": "squared"}, TargetError, "is text"),
        ({"where": "y in ('a', 'b')", "loss": "multinomial"}, TargetError, "needs three or more"),
        ({"optimizer": "normal", "method": "batch"}, ConfigError, "--optimizer normal"),
    ],
)
def test_mistakes_end_in_one_line(
    options: dict[str, Any], error: type[Exception], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        train(str(data), "y", run=tmp_path / "run", features="x0,c", **options)
    assert "\n" not in str(caught.value)


def test_a_class_of_which_no_row_is_left_is_refused(data: Path, tmp_path: Path) -> None:
    table = pa.concat_tables([ds.dataset(data).to_table(), pa.table({
        "x0": [1e4], "x1": [0.0], "c": ["k"], "y": ["rare"], "w": [0.0],
    })])  # fmt: skip
    pq.write_table(table, tmp_path / "rare.parquet")
    with pytest.raises(TargetError, match="of class 'rare' no row is left to train on"):
        train(str(tmp_path / "rare.parquet"), "y", run=tmp_path / "run", features="x0,c", weight="w")


def test_a_class_that_the_model_does_not_know_is_named_with_its_place(
    trained: tuple[Model, Path], data: Path, tmp_path: Path
) -> None:
    table = pq.read_table(data / "0.parquet").slice(0, 100)
    labels = [*table["y"].to_pylist()[:60], "new", *table["y"].to_pylist()[61:]]
    path = tmp_path / "later.parquet"
    pq.write_table(table.set_column(3, "y", pa.array(labels)), path, row_group_size=50)

    with pytest.raises(TargetError, match=r"later.parquet, row group 1, row 10, target 'y': found 'new', expected one"):
        evaluate(trained[1], str(path))
    predict(trained[1], str(path), str(tmp_path / "out"))
    assert pq.read_table(tmp_path / "out" / "later.parquet").num_rows == 100


def test_dry_run_and_messages_tell_the_loss_and_the_classes(data: Path, tmp_path: Path) -> None:
    listener = Listener()
    train(str(data), "y", run=tmp_path / "run", features="x0,c", epochs=1, display=listener)
    told = "\n".join(listener.told)
    assert "target of the multinomial loss: 'a', 'b', 'c', 'd'" in told
    assert "log(sum_k exp(raw_k)) - raw_y" in told


# Errors of coefficients


@pytest.mark.parametrize("errors", ["classical", "robust"])
def test_errors_of_contrasts_are_those_of_statsmodels(errors: Any, data: Path, tmp_path: Path) -> None:
    statsmodels = pytest.importorskip("statsmodels.api")
    table = ds.dataset(data).to_table()
    result = train(
        str(data), "y", run=tmp_path / "run", features="x1,c", method="batch", dtype="float64", errors=errors, l2=0
    )
    found = result.model.inference()
    levels = np.array(table["c"].to_pylist())
    X = np.column_stack([table["x1"].to_numpy(), *(levels == level for level in "lmn"), np.ones(len(table))])
    codes = np.searchsorted(sorted(LABELS), np.array(table["y"].to_pylist()))
    oracle = statsmodels.MNLogit(codes, X.astype(float)).fit(
        disp=0, tol=1e-14, maxiter=100, cov_type="nonrobust" if errors == "classical" else "HC0"
    )
    # MNLogit tells the classes against the first one, class after class.
    n_dof = X.shape[1]
    against = np.zeros((3 * n_dof, 4 * n_dof))
    for k in range(1, 4):
        for j in range(n_dof):
            against[(k - 1) * n_dof + j, [4 * j + k, 4 * j]] = 1.0, -1.0

    np.testing.assert_allclose(against @ found.estimate, np.asarray(oracle.params).T.ravel(), rtol=1e-6, atol=1e-8)
    deviation = np.sqrt(np.diag(against @ found.covariance @ against.T))
    np.testing.assert_allclose(deviation, np.asarray(oracle.bse).T.ravel(), rtol=1e-6)
    np.testing.assert_allclose(found.estimate.reshape(n_dof, 4).sum(axis=1), 0.0, atol=1e-8)
    assert found.fit.log_likelihood == pytest.approx(oracle.llf, rel=1e-10)
    assert found.fit.rank == 3 * n_dof
    assert found.fit.null_deviance == pytest.approx(-2.0 * oracle.llnull, rel=1e-10)
    rows = result.model.coefficient_rows()
    assert all(row["standard_error"] > 0.0 and row["reason"] is None for row in rows)


def test_collinear_columns_have_no_errors(data: Path, tmp_path: Path) -> None:
    table = ds.dataset(data).to_table()
    path = tmp_path / "twice.parquet"
    pq.write_table(table.append_column("x2", table["x1"]), path)
    model = train(str(path), "y", run=tmp_path / "run", features="x0,x1,x2", method="batch").model
    reasons = {(row["name"], row["class"]): row["reason"] for row in model.coefficient_rows()}
    assert reasons["x0", "a"] is None
    assert "collinear with x2 (a)" in reasons["x1", "a"]


# Jobs


@pytest.mark.parametrize("mode", ["continue", "retrain"])
def test_a_job_learns_more_than_two_classes_night_after_night(mode: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "job.toml"
    file.write_text(
        f'source = "in"\nstate = "state"\nmode = "{mode}"\n[train]\ntarget = "y"\nfeatures = ["x0", "x1", "c"]\n'
        "[gate]\nmax_log_loss = 1.3\n[drift]\nwarn_mean = 3.0\n"
    )
    first = made(2_000, 1)
    known = pc.equal(first["c"], "n")
    pq.write_table(first.filter(pc.invert(known)), tmp_path / "in" / "1.parquet", row_group_size=500)
    assert run_job(load_job(file), Listener())["outcome"] == "published"
    pq.write_table(made(2_000, 2), tmp_path / "in" / "2.parquet", row_group_size=500)  # with a level that is new
    told = run_job(load_job(file), Listener())
    model = Model.load(tmp_path / "state" / "published" / "current")

    assert told["outcome"] == "published"
    assert {each.level for each in model.coefficients() if each.column == "c"} >= {"n"}
    metrics = evaluate(model, str(tmp_path / "in")).metrics
    assert metrics["accuracy"] is not None
    assert metrics["base_accuracy"] is not None
    assert metrics["accuracy"] > metrics["base_accuracy"] + 0.05
    file.write_text(file.read_text() + "fail_target = 1.0\n")
    pq.write_table(made(500, 3), tmp_path / "in" / "3.parquet")
    with pytest.raises(ConfigError, match="4 classes have none"):
        run_job(load_job(file), Listener())


@pytest.mark.parametrize("method", [{"method": "batch", "epochs": 2}, {"epochs": 1}], ids=str)
def test_other_classes_in_changed_data_are_refused(method: dict[str, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()

    def add(name: str, classes: str) -> None:
        rows = pa.table({"x": rng.normal(size=600), "y": rng.choice(list(classes), 600)})
        pq.write_table(rows, tmp_path / "data" / f"{name}.parquet")

    add("first", "abd")
    train(str(tmp_path / "data"), "y", run=str(tmp_path / "run"), **method)
    add("second", "abcd")
    more = method | {"accept_data_change": True, "epochs": method["epochs"] + 1}
    with pytest.raises(RunMismatchError, match=r"classes of the target were 'a', 'b', 'd', .* 'c', 'd'.*--restart"):
        train(str(tmp_path / "data"), "y", run=str(tmp_path / "run"), **more)
    assert Model.load(tmp_path / "run").classes == ("a", "b", "d")
