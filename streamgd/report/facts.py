"""What is known of a run, finished or not, as the report and the plots take it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamgd.errors import ConfigError
from streamgd.inference import Errors
from streamgd.model import Model, model_of
from streamgd.show import model_facts, show
from streamgd.training.rundir import RunDirectory
from streamgd.training.train import Result


@dataclass(frozen=True)
class RunFacts:
    """A run.

    Attributes
    ----------
    shown : dict
        As :func:`streamgd.show.show` gives it, with every coefficient.
    stored : dict
        The run's configuration: ``config``, ``resolved``, ``manifest``.
    model : Model or None
    """

    shown: dict[str, Any]
    stored: dict[str, Any]
    model: Model | None = field(default=None, repr=False)

    @classmethod
    def of(cls, run: str | Path, errors: Errors | None = None, level: float = 0.95) -> RunFacts:
        """Read a run directory; errors as for :func:`streamgd.show.show`."""
        directory = RunDirectory(Path(run))
        stored = directory.require_config()
        model = Model.load(directory.model_path) if directory.model_path.exists() else None
        return cls(show(run, True, errors, level), stored, model)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of the history, oldest first."""
        history: list[dict[str, Any]] = self.shown["history"]
        return history

    @property
    def coefficients(self) -> list[dict[str, Any]]:
        """As ``Model.coefficient_rows``, the intercept first, then by the size of the standardised coefficient."""
        rows: list[dict[str, Any]] = self.shown["coefficients"]
        return rows

    @property
    def has_intervals(self) -> bool:
        return any(row["lower"] is not None for row in self.coefficients)

    def unit_of(self, row: dict[str, Any]) -> float:
        """What a coefficient in original units is multiplied by to be the standardised one; 1 for levels."""
        return float(row["standardised"] / row["value"]) if row["value"] else 1.0


def facts_of(run: Any) -> RunFacts:
    """The facts of a run: of its path, or of what ``train`` gave.

    Raises
    ------
    ConfigError
        It is something else.
    """
    if isinstance(run, RunFacts):
        return run
    if not isinstance(run, Result | str | Path):
        raise ConfigError(f"expected what train gave, or the path of a run, found {type(run).__name__}.")
    return RunFacts.of(run.run_dir if isinstance(run, Result) else run)


def coefficient_facts_of(run: Any) -> RunFacts:
    """As :func:`facts_of`, also of what has coefficients alone: a model, or an estimator."""
    if isinstance(run, RunFacts | Result | str | Path):
        return facts_of(run)
    model = model_of(run)
    return RunFacts(model_facts(model, True), {}, model)
