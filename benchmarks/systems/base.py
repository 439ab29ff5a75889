"""What a system is to the benchmark: work inside a warm process, or whole processes."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from streamgd.limits import usable_cores

Float64Array = npt.NDArray[np.float64]

L2 = 1e-6
"""The penalty that every system is given."""


def cores() -> int:
    """Cores that this process may use; streamgd takes as many threads, so its floors do too."""
    return usable_cores()


@dataclass(frozen=True)
class DataFiles:
    """A data set on the disk: all its files lie in `folder`; the target is `y`, 0 or 1."""

    folder: str
    rows: int
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    lists: tuple[str, ...] = ()
    target: str = "y"

    @property
    def columns(self) -> list[str]:
        return [*self.numeric, *self.categorical, *self.lists, self.target]

    @property
    def paths(self) -> list[str]:
        return sorted(str(path) for path in Path(self.folder).glob("*.parquet"))

    def batches(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """All rows in order; categorical columns stay dictionary codes."""
        for path in self.paths:
            with pq.ParquetFile(path, read_dictionary=list(self.categorical)) as file:
                yield from file.iter_batches(batch_rows, columns=self.columns)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        return cls(**{**values, **{name: tuple(values[name]) for name in ("numeric", "categorical", "lists")}})


def matrix(batch: pa.RecordBatch, columns: tuple[str, ...], dtype: str = "float64") -> npt.NDArray[Any]:
    """The numeric columns of a batch, row-major: what every peer wants; filled by columns, with no copy between."""
    rows = np.empty((batch.num_rows, len(columns)), dtype)
    for position, name in enumerate(columns):
        rows[:, position] = batch.column(name).to_numpy(zero_copy_only=False)
    return rows


class Participant(ABC):
    """A system with its settings.

    Parameters
    ----------
    scratch : path
        Folder that this run may write to; it is empty at the start and removed at the end.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    """What must be importable."""
    trains: ClassVar[bool] = True
    """Whether there is a model at the end, whose quality stands beside the time."""

    def __init__(self, scratch: Path, **options: Any) -> None:
        self.scratch = scratch
        self.options = options

    @property
    @abstractmethod
    def settings(self) -> str:
        """What the table says of the settings."""

    @abstractmethod
    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        """Logits of the trained model; NotImplementedError where nothing is trained."""

    @classmethod
    def skip_reason(cls) -> str | None:
        """Why the system cannot run here, or None."""
        missing = [package for package in cls.packages if importlib.util.find_spec(package) is None]
        return f"not installed: {', '.join(missing)} (see the extra bench)" if missing else None


class System(Participant):
    """Work inside a process that is warm: imports and compiled loops are not timed."""

    @abstractmethod
    def prepare(self, data: DataFiles) -> None:
        """What is not timed."""

    @abstractmethod
    def run(self) -> None:
        """The work, timed as a whole."""

    @abstractmethod
    def measures(self) -> dict[str, float]:
        """Seconds and rates of parts of the last run, by name."""


class WholeProcess(Participant):
    """Processes, one after another, timed from start to end from the outside."""

    @abstractmethod
    def commands(self, data: DataFiles) -> dict[str, list[str]]:
        """Command lines by name, in order."""

    @abstractmethod
    def load(self, data: DataFiles) -> None:
        """Read the model that the processes left in `scratch`."""
