"""scikit-learn: the `partial_fit` loop, with FeatureHasher, as a whole process, and in memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.systems.base import L2, DataFiles, Float64Array, System, WholeProcess, cores, matrix

PACKAGES = ("sklearn", "scipy")


class ScikitLearnLoop(System):
    """`StandardScaler.partial_fit` and `SGDClassifier.partial_fit`: see `benchmarks.systems.scikit_learn_loop`.

    Options: `epochs`; `access`, `iter_batches` (of `ParquetFile`) or `to_batches` (of `Dataset`).
    """

    packages: ClassVar[tuple[str, ...]] = PACKAGES

    @property
    def settings(self) -> str:
        from benchmarks.systems.scikit_learn_loop import SETTINGS

        return f"{SETTINGS}, {self.options['access']}"

    def prepare(self, data: DataFiles) -> None:
        import benchmarks.systems.scikit_learn_loop  # noqa: F401 - imported before the clock runs

        self._data = data

    def run(self) -> None:
        from benchmarks.systems import scikit_learn_loop as loop

        scaler, classifier, self._seconds = loop.train(self._data, self.options["epochs"], self.options["access"])
        self._coef, self._intercept = loop.in_original_units(scaler, classifier)

    def measures(self) -> dict[str, float]:
        further = self._seconds[1:]
        return {"further_epoch_s": sum(further) / len(further)} if further else {}

    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        return np.asarray(matrix(batch, self._data.numeric) @ self._coef + self._intercept)


class ScikitLearnProcess(WholeProcess):
    """The same loop from the start of the process to its end."""

    packages: ClassVar[tuple[str, ...]] = PACKAGES

    @property
    def settings(self) -> str:
        from benchmarks.systems.scikit_learn_loop import SETTINGS

        return f"{SETTINGS}, {self.options['access']}"

    def commands(self, data: DataFiles) -> dict[str, list[str]]:
        arguments = [data.folder, str(data.rows), ",".join(data.numeric), str(self.options["epochs"])]
        module = "benchmarks.systems.scikit_learn_loop"
        return {"train": [sys.executable, "-m", module, *arguments, self.options["access"], str(self._model_path)]}

    @property
    def _model_path(self) -> Path:
        return self.scratch / "model.npz"

    def load(self, data: DataFiles) -> None:
        self._data, model = data, np.load(self._model_path)
        self._coef, self._intercept = model["coef"], float(model["intercept"])

    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        return np.asarray(matrix(batch, self._data.numeric) @ self._coef + self._intercept)


class ScikitLearnHashing(System):
    """Numeric columns scaled, text columns through `FeatureHasher`, both into `SGDClassifier.partial_fit`.

    The hasher wants strings `column=level`; they are made once a level and batch, and taken by code. One epoch.
    """

    packages: ClassVar[tuple[str, ...]] = PACKAGES
    batch_rows: ClassVar[int] = 65_536
    buckets: ClassVar[int] = 2**20

    @property
    def settings(self) -> str:
        return (
            f"FeatureHasher(n_features={self.buckets:,}, input_type='string'), StandardScaler, SGDClassifier(alpha="
            f"{L2:g}, learning_rate='constant', eta0=0.01, average=True), batches of {self.batch_rows:,} rows"
        )

    def prepare(self, data: DataFiles) -> None:
        from sklearn.feature_extraction import FeatureHasher
        from sklearn.preprocessing import StandardScaler

        from benchmarks.systems.scikit_learn_loop import new_classifier

        self._data = data
        self._hasher = FeatureHasher(n_features=self.buckets, input_type="string")
        self._scaler, self._classifier = StandardScaler(), new_classifier()

    def run(self) -> None:
        for batch in self._data.batches(self.batch_rows):
            self._scaler.partial_fit(matrix(batch, self._data.numeric))
            y = batch.column(self._data.target).to_numpy()
            self._classifier.partial_fit(self._features(batch), y, classes=[0, 1])

    def _features(self, batch: pa.RecordBatch) -> Any:
        from scipy import sparse

        columns = []
        for name in self._data.categorical:
            column = batch.column(name)
            levels = np.array([f"{name}={level}" for level in column.dictionary.to_pylist()], object)
            columns.append(levels[column.indices.to_numpy()])
        hashed = self._hasher.transform(np.column_stack(columns).tolist())
        numbers = self._scaler.transform(matrix(batch, self._data.numeric), copy=False)
        return sparse.hstack([sparse.csr_matrix(numbers), hashed], format="csr")

    def measures(self) -> dict[str, float]:
        return {}

    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        return np.asarray(self._classifier.decision_function(self._features(batch)))


class ScikitLearnInMemory(System):
    """`LogisticRegression` (L-BFGS) over all rows, read into memory; to its default tolerance."""

    packages: ClassVar[tuple[str, ...]] = PACKAGES

    @property
    def settings(self) -> str:
        return f"all rows in memory, StandardScaler, LogisticRegression(C=1/({L2:g} rows)), L-BFGS, {cores()} threads"

    def prepare(self, data: DataFiles) -> None:
        import sklearn.linear_model  # noqa: F401 - imported before the clock runs

        self._data = data

    def run(self) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        X = np.empty((self._data.rows, len(self._data.numeric)))
        table = pq.read_table(self._data.paths, columns=self._data.columns)
        for position, name in enumerate(self._data.numeric):
            X[:, position] = table[name].to_numpy()
        y = table[self._data.target].to_numpy()
        del table
        scaler = StandardScaler()
        scaler.fit(X)
        model = LogisticRegression(C=1.0 / (L2 * self._data.rows))
        model.fit(scaler.transform(X, copy=False), y)
        self._coef = model.coef_[0] / scaler.scale_
        self._intercept = float(model.intercept_[0] - self._coef @ scaler.mean_)

    def measures(self) -> dict[str, float]:
        return {}

    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        return np.asarray(matrix(batch, self._data.numeric) @ self._coef + self._intercept)
