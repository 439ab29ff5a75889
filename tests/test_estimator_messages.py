"""What estimators tell is about what they were given: rows of the user's data, and their own arguments."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from sklearn.exceptions import ConvergenceWarning

from streamgd.config import TrainConfig
from streamgd.errors import ConfigError, DataError, SchemaError, StreamgdError
from streamgd.estimators import GDClassifier, GDRegressor
from streamgd.wording import ARGUMENTS, with_arguments

ROWS, BAD = 5_000, 3_234
TWO_ROWS = pa.table({"x": [1.0, 2.0], "late": [0, 1]})


def frame() -> pd.DataFrame:
    random = np.random.default_rng(0)
    x = random.normal(size=ROWS)
    return pd.DataFrame({"x": x, "z": random.normal(size=ROWS), "late": (x + random.normal(size=ROWS) > 0).astype(int)})


def with_infinity() -> pd.DataFrame:
    return frame().assign(x=lambda data: data.x.where(data.index != BAD, np.inf))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = pa.Table.from_pandas(with_infinity())
    pq.write_table(data.slice(0, 2_000), tmp_path / "a.parquet", 500)
    pq.write_table(data.slice(2_000), tmp_path / "b.parquet", 500)
    return tmp_path


def in_batches() -> Any:
    return iter([with_infinity().iloc[:2_500], with_infinity().iloc[2_500:]])


@pytest.mark.parametrize(
    ("fit", "row"),
    [
        (lambda _: GDClassifier().fit(with_infinity().drop(columns="late"), with_infinity().late), "X, row 3234"),
        (lambda _: GDClassifier().fit(with_infinity(), target="late"), "X, row 3234"),
        (lambda _: GDClassifier().partial_fit(frame(), target="late").partial_fit(with_infinity(), target="late"),
         "X, row 3234"),
        (lambda _: GDClassifier().fit(in_batches(), target="late"), "the stream, row 3234"),
        (lambda folder: GDClassifier().fit(folder, target="late"), "b.parquet, row group 2, row 234"),
        (lambda folder: GDClassifier().partial_fit(folder, target="late"), "b.parquet, row group 2, row 234"),
    ],
    ids=["arrays", "frame", "partial_fit", "stream", "path", "partial_fit of a path"],
)  # fmt: skip
def test_a_row_is_told_as_the_user_has_it(fit: Callable[[Path], Any], row: str, folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        fit(folder)
    assert str(caught.value).startswith(f"{row}, column 'x': found inf")


def test_a_row_of_a_later_part_of_a_stream_is_counted_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamgd.data.frames.PART_GROUP_ROWS", 256)
    monkeypatch.setattr("streamgd.data.frames.PART_GROUPS", 3)
    with pytest.raises(DataError, match=r"^the stream, row 3234, "):
        GDClassifier().fit(in_batches(), target="late")


@pytest.mark.parametrize(
    ("arguments", "fitted", "message"),
    [
        ({"l1": 0.1, "method": "batch", "optimizer": "lbfgs"}, {}, "optimizer='lbfgs' knows no l1."),
        ({"features": ["nope"]}, {}, "features: the data have no column 'nope'. Known: x, z."),
        ({}, {"sample_weight": "nope", "target": "late"}, "sample_weight: the data have no column 'nope'."),
        ({}, {"target": "lat"}, "target: the data have no column 'lat'. Did you mean 'late'?"),
        ({"epochs": 0}, {}, "epochs: input should be greater than or equal to 1, found 0."),
    ],
)
def test_options_are_told_as_arguments(arguments: dict[str, Any], fitted: dict[str, Any], message: str) -> None:
    X, y = frame().drop(columns="late"), frame().late
    with pytest.raises(ConfigError) as caught:
        GDClassifier(**arguments).fit(frame(), **fitted) if fitted else GDClassifier(**arguments).fit(X, y)
    assert message in str(caught.value)


def test_what_no_estimator_has_is_told_of_train() -> None:
    with pytest.raises(SchemaError) as caught:
        GDClassifier().fit(frame().assign(day=pd.Timestamp("2026-01-05")), target="late")
    assert "timestamps='epoch,hour,weekday' of streamgd.train, or leave out day." in str(caught.value)


def test_warnings_speak_of_arguments() -> None:
    with pytest.warns(UserWarning, match="'leak' alone predicts the target 'late'.* leave it out.$"):
        GDClassifier().fit(frame().assign(leak=lambda data: data.late * 2.0), target="late")


@pytest.mark.parametrize(
    ("option", "argument"),
    [
        ("Raise --epochs, or take --method minibatch", "Raise epochs, or take method='minibatch'"),
        ("--l2 1e-06 is above 0", "l2=1e-06 is above 0"),
        ("choose --nulls impute or drop", "choose nulls='impute' of streamgd.train or drop"),
        ("leave out with --exclude a,b.", "leave out a,b."),
        ("take a out of --features.", "take a out of features."),
        ("add --validation DATA.", "add validation of streamgd.train."),
    ],
)  # fmt: skip
def test_an_option_becomes_an_argument(option: str, argument: str) -> None:
    assert with_arguments(option) == argument


def test_arguments_are_options_of_the_estimators() -> None:
    assert set(ARGUMENTS) <= set(TrainConfig.model_fields)
    parameters = GDClassifier().get_params() | GDRegressor().get_params()
    assert set(ARGUMENTS) - {"target", "weight"} == set(parameters)


@pytest.mark.parametrize("rows", [500, 12_000])
def test_a_stream_of_few_steps_is_warned_of(rows: int) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=rows)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = GDRegressor().partial_fit(x[:, None], 3.0 * x + random.normal(size=rows))
    assert (abs(model.coef_[0] - 3.0) < 0.05) == (not told)
    assert [each.category for each in told] == ([] if rows > 40 * 256 else [ConvergenceWarning])


@pytest.mark.parametrize("kind", ["path", "arrow", "polars", "pandas", "stream"])
def test_an_index_without_a_name_is_no_feature(kind: str, tmp_path: Path) -> None:
    data = frame().set_index(np.repeat(np.arange(ROWS // 2), 2))
    pq.write_table(pa.Table.from_pandas(data), tmp_path / "data.parquet")
    written = pq.read_table(tmp_path / "data.parquet")
    X = {
        "path": tmp_path, "arrow": written, "polars": pl.DataFrame(written), "pandas": data,
        "stream": written.to_reader(),
    }[kind]  # fmt: skip
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = GDClassifier().fit(X, target="late")
        assert model.feature_names_in_.tolist() == ["x", "z"]
    assert any("'__index_level_0__' is left out, an index" in str(each.message) for each in told) == (kind != "pandas")
    if kind in ("arrow", "polars"):
        of_arrays = pl.DataFrame(written).drop("late")
        with pytest.warns(UserWarning, match="__index_level_0__: left out"):
            same = GDClassifier().fit(of_arrays, data.late)
        assert same.feature_names_in_.tolist() == ["x", "z"]
        assert len(same.predict(of_arrays)) == len(same.predict(data.drop(columns="late"))) == ROWS
    if kind != "pandas":
        X = written.to_reader() if kind == "stream" else X
        named = GDClassifier(features=["__index_level_0__", "x"]).fit(X, target="late")
        assert named.feature_names_in_.tolist() == ["__index_level_0__", "x"]


def test_an_id_that_is_left_out_is_warned_of() -> None:
    data = frame().assign(id=np.arange(ROWS))
    with pytest.warns(UserWarning, match="column 'id' is left out, .* Name it in features to use it.$"):
        assert "id" not in GDClassifier().fit(data, target="late").coef_names_
    assert "id" in GDClassifier().fit(data.drop(columns="late"), data.late).coef_names_


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"X": np.zeros((4, 2)), "target": "late"}, "target= needs a frame, a path or a stream .*; found ndarray."),
        ({"X": [[0.0], [1.0]], "target": "late"}, "target= needs a frame, a path or a stream .*; found list."),
        ({"X": iter([np.zeros((4, 2))]), "target": "late"}, "expected a frame .*, found ndarray."),
        ({"X": ds.dataset(TWO_ROWS), "target": "late"},
         r"InMemoryDataset is to be read first. Give its files, or .scanner\(\).to_reader\(\)."),
        ({"X": pd.DataFrame([[1.0, 2.0, 0]], columns=["x", "x", "late"]), "target": "late"}, "than one column 'x'"),
        ({"X": pl.DataFrame(TWO_ROWS).lazy(), "target": "late"}, r"a LazyFrame .* Call .collect\(\) first."),
        ({"X": pl.DataFrame(TWO_ROWS).lazy(), "y": [0, 1]}, r"a LazyFrame .* Call .collect\(\) first."),
        ({"X": pl.DataFrame(TWO_ROWS), "y": [0, 1], "target": "late"}, "give y or target=, not both."),
        ({"X": pd.DataFrame({"x": []}), "y": []}, "X has no rows."),
        ({"X": [[0.0], [1.0]], "y": [1, 1]}, "y has one class, 1, expected two"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_from_is_told_with_what_can(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GDClassifier().fit(**given)


def test_a_negative_weight_of_a_class_is_told() -> None:
    with pytest.raises(ValueError, match=r"class_weight of 0: expected a finite factor from 0 on, found -1."):
        GDClassifier(class_weight={0: -1}).fit([[0.0], [1.0]], [0, 1])


def test_mistakes_in_arguments_and_columns_are_value_errors() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(DataError, ValueError)
    assert not issubclass(StreamgdError, ValueError)


@pytest.mark.parametrize(
    ("estimator", "found", "expected"),
    [
        (GDClassifier(loss="squared"), "numbers", "classes. Choose one of 'logistic',"),
        (GDClassifier(loss="quantile"), "numbers", "classes"),
        (GDRegressor(loss="logistic"), "classes", "numbers. Choose one of 'squared',"),
    ],
    ids=str,
)
def test_a_loss_of_the_other_kind_is_refused(estimator: GDClassifier | GDRegressor, found: str, expected: str) -> None:
    message = f"loss='{estimator.loss}' is one of {found}, this learns {expected}"
    with pytest.raises(ValueError, match=message):
        estimator.fit(frame()[["x"]], frame()["late"])
    with pytest.raises(ValueError, match=message):
        estimator.fit(frame(), target="late")


def test_categories_that_are_neither_text_nor_numbers_are_refused_by_name() -> None:
    data = frame()
    with pytest.raises(DataError, match=r"column .cut.: categories are pandas\.interval\. Make them text"):
        GDClassifier().fit(data.drop(columns="late").assign(cut=pd.cut(data.x, 3)), data.late)
