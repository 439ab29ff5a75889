"""PyTorch on the processor: a linear layer over record batches."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa

from benchmarks.systems.base import L2, DataFiles, Float64Array, System, matrix

READ_ROWS, BATCH_ROWS = 131_072, 1024


class TorchLinear(System):
    """One epoch of Adagrad; the columns are scaled by the moments of the first record batch.

    Mini-batches of 1,024 rows, since each step costs some 50 us whatever its size; one thread, since more are slower at
    this size. The step is the best of 0.03, 0.1 and 0.3.
    """

    packages: ClassVar[tuple[str, ...]] = ("torch",)

    @property
    def settings(self) -> str:
        return f"Linear layer, Adagrad(lr=0.1, weight_decay={L2:g}), mini-batches of {BATCH_ROWS:,}, float32, CPU"

    def prepare(self, data: DataFiles) -> None:
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self._data = data

    def run(self) -> None:
        import torch

        layer = torch.nn.Linear(len(self._data.numeric), 1)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        optimizer = torch.optim.Adagrad(layer.parameters(), lr=0.1, weight_decay=L2)
        loss_of = torch.nn.BCEWithLogitsLoss()
        mean = deviation = np.empty(0)
        for batch in self._data.batches(READ_ROWS):
            rows = matrix(batch, self._data.numeric, "float32")
            if not len(mean):
                mean, deviation = rows.mean(0, np.float64), rows.std(0, dtype=np.float64)
            X = torch.from_numpy((rows - mean.astype(np.float32)) / deviation.astype(np.float32))
            y = torch.from_numpy(batch.column(self._data.target).to_numpy().astype(np.float32))
            for start in range(0, len(y), BATCH_ROWS):
                optimizer.zero_grad()
                raw = layer(X[start : start + BATCH_ROWS])[:, 0]
                loss_of(raw, y[start : start + BATCH_ROWS]).backward()
                optimizer.step()
        self._coef = layer.weight.detach().numpy()[0].astype(np.float64) / deviation
        self._intercept = float(layer.bias.detach()[0]) - float(self._coef @ mean)

    def measures(self) -> dict[str, float]:
        return {}

    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        return np.asarray(matrix(batch, self._data.numeric) @ self._coef + self._intercept)
