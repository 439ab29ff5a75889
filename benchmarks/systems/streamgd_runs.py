"""streamgd: `train()` in a warm process, its command line as a whole process, and the demo of the README."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.systems.base import DataFiles, Float64Array, System, WholeProcess


class Clock:
    """A display that notes when each epoch began: what lies between two epochs belongs to the first."""

    def __init__(self) -> None:
        self.epoch_began_s: dict[int, float] = {}

    def message(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def progress(self, phase: str, *about: object, **more: object) -> None:  # noqa: ARG002
        if phase.startswith("epoch "):
            epoch = int(phase.removeprefix("epoch ").partition("/")[0])
            self.epoch_began_s.setdefault(epoch, time.perf_counter())

    def close(self) -> None:
        pass


def _logit(model: Any, batch: pa.RecordBatch) -> Float64Array:
    """Raw predictions, by what a user has: the probabilities that the model predicts."""
    probability = model.predict_batch(batch)
    return np.asarray(np.log(probability) - np.log1p(-probability))


class Streamgd(System):
    """`streamgd.train(data, target, **options)`, all else at its default.

    Without `checkpoints`, which is no option of `train`, none is written before the end, not even after an epoch.
    """

    def __init__(self, scratch: Path, checkpoints: bool = True, **options: Any) -> None:
        super().__init__(scratch, **options)
        self._checkpoints = checkpoints

    @property
    def settings(self) -> str:
        call = "streamgd.train(" + ", ".join(f"{name}={value!r}" for name, value in self.options.items()) + ")"
        return call if self._checkpoints else f"{call}, no checkpoint"

    def prepare(self, data: DataFiles) -> None:
        import dask.threaded  # noqa: F401  that train imports it late is no part of its work

        import streamgd
        from streamgd.training.checkpoint import CheckpointStore

        if not self._checkpoints:
            # The process is that of this run alone.
            CheckpointStore.begin = lambda *_: None  # type: ignore[method-assign]
        self._data, self._train, self._clock = data, streamgd.train, Clock()

    def run(self) -> None:
        run_dir = str(self.scratch / "run")
        self._result = self._train(
            self._data.folder, self._data.target, run=run_dir, display=self._clock, **self.options
        )

    def measures(self) -> dict[str, float]:
        history = self._result.history
        found = {f"{line['event']}_s": line["seconds"] for line in history if line["event"] == "prepare"}
        began_s = [self._clock.epoch_began_s[epoch] for epoch in sorted(self._clock.epoch_began_s)]
        if len(began_s) > 2:
            # From the second epoch to the start of the last: with all that is done between epochs, but not what is
            # done once, at the end of the run.
            found["further_epoch_s"] = (began_s[-1] - began_s[1]) / (len(began_s) - 2)
        # They are numbered from 1.
        found["checkpoints"] = float(max((int(path.stem) for path in self._checkpoint_files()), default=0))
        passes = [line["seconds"] for line in history if line["event"] == "pass"]
        if passes:
            found["pass_s"] = float(np.mean(passes))
            found["feature_bytes_per_s"] = 4.0 * self._data.rows * len(self._data.numeric) / found["pass_s"]
        if self._data.lists:
            theta = self._result.model.theta
            found |= {"coefficients": float(theta.size), "zeros": float((theta == 0.0).sum())}
        return found

    def _checkpoint_files(self) -> list[Path]:
        return list((self._result.run_dir / "checkpoints").glob("*.safetensors"))

    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        return _logit(self._result.model, batch)


def _train_command(data: DataFiles, run_dir: Path, epochs: int | None) -> list[str]:
    command = [sys.executable, "-m", "streamgd", "train", data.folder, "--target", data.target, "--run", str(run_dir)]
    return command if epochs is None else [*command, "--epochs", str(epochs)]


class StreamgdProcess(WholeProcess):
    """`streamgd train` from the start of the process to its end; compiled loops are in their cache."""

    @property
    def settings(self) -> str:
        return f"streamgd train DATA --target y --epochs {self.options['epochs']}"

    def commands(self, data: DataFiles) -> dict[str, list[str]]:
        return {"train": _train_command(data, self.scratch / "run", self.options["epochs"])}

    def load(self, data: DataFiles) -> None:  # noqa: ARG002
        import streamgd

        self._model = streamgd.load(self.scratch / "run")

    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        return _logit(self._model, batch)


class StreamgdDemo(WholeProcess):
    """The demo of the README: `data_gen`, then `streamgd train`; `pip install` is left out."""

    @property
    def settings(self) -> str:
        return "python -m data_gen --out demo --rows N --features 20 && streamgd train demo --target y"

    def commands(self, data: DataFiles) -> dict[str, list[str]]:
        out, columns = str(self.scratch / "demo"), str(len(data.numeric))
        made = DataFiles(out, data.rows, data.numeric, ())
        generate = ["-m", "data_gen", "--out", out, "--rows", str(data.rows), "--features", columns]
        return {
            "data_gen": [sys.executable, *generate],
            "train": _train_command(made, self.scratch / "run", None),
        }

    def load(self, data: DataFiles) -> None:  # noqa: ARG002
        import streamgd

        self._model = streamgd.load(self.scratch / "run")

    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        return _logit(self._model, batch)
