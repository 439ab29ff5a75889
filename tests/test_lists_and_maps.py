"""Lists and maps as features: the optimum of scikit-learn, predictions by hand, exact resume, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from displays import Listener
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from streamgd import evaluate, export, predict, train
from streamgd.errors import ConfigError, DataError, PausedError, SchemaError
from streamgd.estimators import GDRegressor
from streamgd.model import Model
from streamgd.training.carry import carried_theta

ROWS = 3_000
#: Names of the features of each column, from the number of one.
NAMES = {"tags": "tags[{}]", "pairs": "pairs[{}]", "words": "words=w{}", "counts": "counts=w{}"}
WIDTHS = {"tags": 80, "pairs": 30, "words": 50, "counts": 20}
#: What a stream wants to know of indices.
DECLARED = {"tags": 100, "pairs": 30}


@dataclass(frozen=True)
class Rows:
    """A table, and what stands in its columns as matrices of the columns' features."""

    table: pa.Table
    matrices: dict[str, sparse.csr_array]
    x: NDArray[np.float64]
    y: NDArray[np.float64]

    def by_hand(self, model: Model) -> NDArray[np.float64]:
        """Predictions by the names and values of coefficients."""
        value = {each.name: each.value for each in model.coefficients()}
        total = value["(intercept)"] + value["x"] * self.x
        for column, matrix in self.matrices.items():
            names = map(NAMES[column].format, range(matrix.shape[1]))
            total = total + matrix @ np.array([value.get(name, 0.0) for name in names])
        return np.asarray(total)


def rows_of(n_rows: int = ROWS, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {}
    matrices = {}
    for name, width in WIDTHS.items():
        starts = np.concatenate([[0], np.cumsum(rng.integers(0, 5, n_rows))]).astype(np.int32)
        keys = rng.integers(0, width, starts[-1]).astype(np.int32)
        values = rng.normal(size=len(keys)) * 10.0 if name in ("pairs", "counts") else np.ones(len(keys))
        matrices[name] = sparse.csr_array((values, keys, starts), (n_rows, width))
        texts = pa.array([f"w{key}" for key in range(width)]).take(pa.array(keys))
        if name == "tags":
            columns[name] = pa.ListArray.from_arrays(starts, pa.array(keys))
        elif name == "pairs":
            columns[name] = pa.ListArray.from_arrays(starts, pa.StructArray.from_arrays([keys, values], ["i", "v"]))
        elif name == "words":
            columns[name] = pa.ListArray.from_arrays(starts, texts)
        else:
            columns[name] = pa.MapArray.from_arrays(starts, texts, pa.array(values))
    x = 5.0 + rng.normal(size=n_rows)
    weights = {name: np.random.default_rng(7).normal(size=width) for name, width in WIDTHS.items()}
    y = x + sum(matrix @ weights[name] for name, matrix in matrices.items()) + rng.normal(size=n_rows)
    return Rows(pa.table({"x": x, **columns, "y": y}), matrices, x, y)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return rows_of()


@pytest.fixture(scope="module")
def data(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("lists") / "rows.parquet"
    pq.write_table(rows.table, path, row_group_size=800)
    return str(path)


def fit(data: str, run: Path, **options: Any) -> Any:
    return train(data, target="y", run=run, **{"batch_size": 64, "loss": "squared", **options})


def test_full_batch_reaches_the_optimum_of_ridge(rows: Rows, data: str, tmp_path: Path) -> None:
    model = fit(data, tmp_path / "run", method="batch", dtype="float64", l2=0.01).model
    features = [StandardScaler().fit_transform(rows.x[:, None])]
    for matrix in rows.matrices.values():
        # An entry that a row has twice counts twice; the unit is the largest single one.
        largest = np.zeros(matrix.shape[1])
        np.maximum.at(largest, matrix.indices, np.abs(matrix.data))
        features.append(matrix.toarray() / largest)
    ridge = Ridge(alpha=0.01 * ROWS).fit(np.hstack(features), rows.y)
    np.testing.assert_allclose(rows.by_hand(model), ridge.predict(np.hstack(features)), atol=1e-7)


@pytest.mark.parametrize("method", ["minibatch", "sgd"])
@pytest.mark.parametrize("shuffle", ["full", "window"])
def test_predictions_are_those_by_hand_and_near_the_optimum(
    rows: Rows, data: str, tmp_path: Path, method: str, shuffle: str
) -> None:
    result = fit(data, tmp_path / "run", method=method, shuffle=shuffle, index_columns=DECLARED, epochs=5)
    assert result.model.encoding.n_dof == 2 + sum(WIDTHS.values()) + (20 if shuffle == "window" else 0)
    out = tmp_path / "out"
    predict(result.model, data, str(out))
    predicted = pq.read_table(out)["prediction"].to_numpy()
    np.testing.assert_allclose(predicted, rows.by_hand(result.model), atol=1e-9)
    share = np.mean((predicted - rows.y) ** 2) / rows.y.var()
    assert share < (0.05 if method == "minibatch" else 0.5)
    metrics = evaluate(result.model, data).metrics
    assert metrics["rmse"] == pytest.approx(np.sqrt(np.mean((predicted - rows.y) ** 2)))
    loaded = Model.load(tmp_path / "run")
    assert loaded.theta_sha256 == result.model.theta_sha256
    np.testing.assert_array_equal(rows.by_hand(loaded), rows.by_hand(result.model))


@pytest.mark.parametrize("encode", ["onehot", "hash"])
def test_files_and_threads_change_no_bit(rows: Rows, tmp_path: Path, encode: str) -> None:
    found = set()
    for number, (size, threads) in enumerate(((3_000, 1), (700, 3), (333, 2))):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(rows.table, path, row_group_size=size)
        options = {"encode": encode, "hash_buckets": 512, "threads": threads, "epochs": 2}
        found.add(fit(str(path), tmp_path / f"run{number}", **options).model.theta_sha256)
    assert len(found) == 1


RESUMED: dict[str, dict[str, Any]] = {
    "full": {"shuffle": "full"},
    "window": {"shuffle": "window", "index_columns": DECLARED},
    "ftrl": {"shuffle": "full", "optimizer": "ftrl", "l1": 1e-3},
}


@pytest.mark.parametrize("variant", RESUMED)
def test_a_run_that_was_stopped_ends_in_the_same_bits(data: str, tmp_path: Path, variant: str) -> None:
    options = {**RESUMED[variant], "epochs": 3}
    expected = fit(data, tmp_path / "run", **options).model.theta_sha256

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    for phase in ("epoch 1/3", "epoch 2/3"):
        stopped = tmp_path / phase.replace("/", "-")
        with pytest.raises(PausedError):
            fit(data, stopped, **options, display=Listener(phase, stop))
        shutil.rmtree(stopped / "blocks", ignore_errors=True)
        assert fit(data, stopped, **options).model.theta_sha256 == expected


def test_the_scale_of_a_value_is_that_of_the_first_window_that_has_it(tmp_path: Path) -> None:
    values = [[(0, 2.0)], [(0, 8.0)], [(1, 3.0)], [(1, -5.0)]] * 3
    element = pa.struct([("i", pa.int32()), ("v", pa.float64())])
    pairs = pa.array([[{"i": i, "v": v} for i, v in row] for row in values], pa.list_(element))
    pq.write_table(pa.table({"pairs": pairs, "y": np.arange(12.0)}), tmp_path / "a.parquet")
    model = train(
        str(tmp_path / "a.parquet"), "y", run=tmp_path / "run", shuffle="none", index_columns={"pairs": 3}, epochs=1,
        batch_size=2, loss="squared",
    ).model  # fmt: skip
    assert model.encoding.sparse[0].scales.tolist() == [8.0, 5.0, 0.0]
    assert model.coefficients()[2].value == 0.0


# Nulls and mistakes


def nulls(tmp_path: Path) -> tuple[str, pa.Table]:
    tags = pa.array([[0, 1], None, [2, None], [], [1, 1]] * 8, pa.list_(pa.int32()))
    maps = [[("a", 1.0)], [("b", None)], [], [("b", float("nan"))], [("a", 2.0)]] * 8
    table = pa.table({"tags": tags, "counts": pa.array(maps, pa.map_(pa.string(), pa.float64())), "y": np.arange(40.0)})
    pq.write_table(table, tmp_path / "nulls.parquet")
    return str(tmp_path / "nulls.parquet"), table


def test_nulls_are_passed_over_counted_dropped_or_refused(tmp_path: Path) -> None:
    data, _ = nulls(tmp_path)
    kept = fit(data, tmp_path / "impute", batch_size=8, epochs=1)
    assert kept.facts["nulls"] == {"tags": 16, "counts": 16}
    assert kept.model.encoding.row_names() == ["tags[0]", "tags[1]", "tags[2]", "counts=a", "(intercept)"]
    dropped = fit(data, tmp_path / "drop", batch_size=8, epochs=1, nulls="drop")
    assert dropped.facts["dropped"] == {"null feature": 24}
    assert dropped.model.encoding.row_names() == ["tags[0]", "tags[1]", "counts=a", "(intercept)"]
    predict(dropped.model, data, str(tmp_path / "out"))
    found = pq.read_table(tmp_path / "out")["prediction"].is_valid().to_pylist()
    assert found == [True, False, False, False, True] * 8
    with pytest.raises(DataError, match=r"nulls\.parquet, row group 0, row 1, column 'tags': null"):
        fit(data, tmp_path / "error", nulls="error")


@pytest.mark.parametrize("bad", [-1, 100])
@pytest.mark.parametrize("method", ["minibatch", "batch"])
def test_an_index_beyond_the_declared_columns_names_its_row(tmp_path: Path, bad: int, method: str) -> None:
    tags = [[1, 2]] * 50
    tags[33] = [5, bad]
    table = pa.table({"tags": pa.array(tags, pa.list_(pa.int32())), "k": np.arange(50), "y": np.arange(50.0)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=20)
    message = rf"a\.parquet, row group 1, row 13, column 'tags': found index {bad}, expected 0 to 99\."
    options = {"method": method, "index_columns": "tags=100", "epochs": 1, "features": "tags"}
    with pytest.raises(DataError, match=message) as caught:
        fit(str(tmp_path / "a.parquet"), tmp_path / "run", **options)
    assert caught.value.exit_code == 65
    fit(str(tmp_path / "a.parquet"), tmp_path / "hashed", epochs=1, encode="hash", hash_buckets=64, features="tags")
    fit(str(tmp_path / "a.parquet"), tmp_path / "where", where="k != 33", **options)


def test_an_infinite_value_names_its_row(tmp_path: Path) -> None:
    values = [{"a": 1.0}] * 30
    values[7] = {"a": float("-inf")}
    column = pa.array([list(each.items()) for each in values], pa.map_(pa.string(), pa.float64()))
    pq.write_table(pa.table({"m": column, "y": np.arange(30.0)}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row group 0, row 7, column 'm': found an infinite value"):
        fit(str(tmp_path / "a.parquet"), tmp_path / "run")


def test_declarations_that_mean_nothing_are_refused(data: str, tmp_path: Path) -> None:
    for given, message in (
        ("nope=5", "the data have no column 'nope'"),
        ("words=5", "'words' is no column of indices"),
        ("x=5", "'x' is no column of indices"),
        ("tags=0", "expected 1 to 16,777,216"),
        ("tags=2.5", "expected 1 to 16,777,216"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit(data, tmp_path / "run", index_columns=given)
    with pytest.raises(ConfigError, match="'tags' is hashed"):
        fit(data, tmp_path / "run", index_columns="tags=500", encode="hash")
    with pytest.raises(ConfigError, match=r"columns of lists and maps; --index-columns tags=N makes them fewer"):
        fit(data, tmp_path / "run", shuffle="window")
    with pytest.raises(SchemaError, match="take it out of --categorical"):
        fit(data, tmp_path / "run", categorical="tags")


NUMBERS, INDICES, TEXTS = [0.5, 1.0, 2.0, 4.0], [[0, 1], [2], [3], [1]], [["u", "v"], ["u"], ["b=x"], ["b[3]", "c"]]


@pytest.mark.parametrize(
    ("columns", "repeated"),
    [
        ({"a": INDICES, "a[1]": NUMBERS}, "a[1]"),
        ({"a": INDICES, "a[01]": NUMBERS, "a[9]": NUMBERS, "a[x]": NUMBERS, "ab": NUMBERS}, ""),
        ({"w": TEXTS, "w=v": NUMBERS}, "w=v"),
        ({"w": TEXTS, "w=u=v": NUMBERS, "w=": TEXTS}, ""),
        ({"w": TEXTS, "w=b": ["y", "y", "x", "z"]}, "w=b=x"),
        ({"w": ["c", "c", "b=x", "d"], "w=b": [["x"], ["y"], ["x"], []]}, "w=b=x"),
        ({"w": TEXTS, "w=b": INDICES}, "w=b[3]"),
    ],
)
def test_two_coefficients_of_one_name_are_refused(tmp_path: Path, columns: dict[str, list[Any]], repeated: str) -> None:
    pq.write_table(pa.table(columns | {"y": [1.0, 2.0, 3.0, 5.0]}), tmp_path / "a.parquet")
    given = {"method": "minibatch", "features": [*columns]}
    if not repeated:
        assert fit(str(tmp_path / "a.parquet"), tmp_path / "run", **given).model.encoding.n_dof > len(columns)
        return
    with pytest.raises(
        SchemaError, match=re.escape(f"would both have a coefficient called '{repeated}'. Leave one out")
    ):
        fit(str(tmp_path / "a.parquet"), tmp_path / "run", **given)


def test_new_data_of_another_type_are_refused(data: str, rows: Rows, tmp_path: Path) -> None:
    model = fit(data, tmp_path / "run", epochs=1).model
    other = rows.table.set_column(1, "tags", rows.table["words"])
    pq.write_table(other, tmp_path / "other.parquet")
    with pytest.raises(SchemaError, match=r"column 'tags': found list, the model was trained on lists of integers"):
        predict(model, str(tmp_path / "other.parquet"), str(tmp_path / "out"))


# Beyond training


def test_json_is_enough_to_predict_by_hand_and_other_formats_refuse(rows: Rows, data: str, tmp_path: Path) -> None:
    model = fit(data, tmp_path / "run", epochs=1).model
    told = json.loads(json.dumps(model.to_json()))
    assert told["format_version"] == 2
    total = np.full(ROWS, told["intercept"]) + told["numeric"][0]["coefficient"] * rows.x
    for each in told["sparse"]:
        value = {entry.get("level", entry.get("index")): entry["coefficient"] for entry in each["coefficients"]}
        keys = [key if each["keys"] == "index" else f"w{key}" for key in range(WIDTHS[each["name"]])]
        total += rows.matrices[each["name"]] @ np.array([value.get(key, 0.0) for key in keys])
    np.testing.assert_allclose(total, rows.by_hand(model), atol=1e-9)
    for form in ("onnx", "sklearn"):
        with pytest.raises(ConfigError, match=rf"--to {form}: column 'tags' holds lists or maps"):
            export(model, form)


def test_coefficients_are_carried_to_other_data_by_their_names(rows: Rows, data: str, tmp_path: Path) -> None:
    before = fit(data, tmp_path / "run", epochs=1).model
    fewer = rows.table.slice(0, 12)
    pq.write_table(fewer, tmp_path / "fewer.parquet")
    after = fit(str(tmp_path / "fewer.parquet"), tmp_path / "other", epochs=1).model.encoding
    assert after.n_dof < before.encoding.n_dof
    moved = Model("squared", carried_theta(before.encoding, before.theta, after), after)
    value = {each.name: each.value for each in before.coefficients()}
    for each in moved.coefficients()[:-1]:
        assert each.value == pytest.approx(value[each.name], rel=1e-9)
    started = train(
        str(tmp_path / "fewer.parquet"),
        "y",
        run=tmp_path / "from",
        from_=str(tmp_path / "run"),
        epochs=1,
        loss="squared",
    )
    assert started.model.encoding.n_dof == after.n_dof


def test_estimators_learn_lists_at_once_and_part_by_part(rows: Rows) -> None:
    whole = GDRegressor(epochs=3, batch_size=64).fit(rows.table, target="y")
    np.testing.assert_allclose(whole.predict(rows.table), rows.by_hand(whole.model_), atol=1e-9)
    words = rows.table.select(["x", "words", "counts", "y"])
    parts = GDRegressor(batch_size=64)
    for start in range(0, ROWS, 1_000):
        parts.partial_fit(words.slice(start, 1_000), target="y")
    value = {each.name for each in parts.model_.coefficients()}
    assert {"words=w0", "counts=w0", "x"} <= value


def test_estimators_say_how_many_columns_a_list_of_indices_names(rows: Rows) -> None:
    indices = rows.table.select(["x", "tags", "y"])
    parts = GDRegressor(batch_size=64, index_columns={"tags": 100})
    for start in range(0, ROWS, 1_000):
        parts.partial_fit(indices.slice(start, 1_000), target="y")
    assert parts.model_.encoding.n_dof == 102
    with pytest.raises(ConfigError, match=r"index_columns=\{'tags': N\} makes them fewer"):
        GDRegressor().partial_fit(indices, target="y")
    with pytest.raises(
        DataError, match=r"expected 0 to 9\. Mend the data; before training, index_columns=\{'tags': N\} says"
    ):
        GDRegressor(index_columns={"tags": 10}).fit(indices, target="y")


def test_blocks_that_are_kept_are_used_again(data: str, tmp_path: Path) -> None:
    options = {"epochs": 2, "blocks_dir": tmp_path / "blocks", "keep_blocks": True}
    first = fit(data, tmp_path / "first", **options)
    listener = Listener()
    second = fit(data, tmp_path / "second", **options, display=listener)
    assert second.model.theta_sha256 == first.model.theta_sha256
    assert any("nothing is decoded" in text for text in listener.told)
    (folder,) = (tmp_path / "blocks").iterdir()
    (folder / "sparse.bin").unlink()
    assert fit(data, tmp_path / "third", **options).model.theta_sha256 == first.model.theta_sha256
