"""A job's TOML file: source, training options, state directory, gate, publication, telemetry, time budget.

Every mistake is told with the file, the line and the field. Paths are relative to the folder of the file, since nobody
knows from where cron starts a command.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from streamgd.config import CLASSIFIER_LOSSES, LossName, TrainConfig, field_name, make_config
from streamgd.credentials import take_credentials
from streamgd.errors import ConfigError, OtherBlocksError, RunMismatchError, StreamgdError, did_you_mean, storage_errors
from streamgd.option_values import Duration, Finite, Fraction, Names, parse_duration_s

Mode = Literal["continue", "window", "retrain"]

#: Training options that the job itself decides.
DECIDED_BY_JOB = {
    "data": "source", "run": "state", "only": "source", "holdout": "[gate] holdout", "pause_after": "pause_after",
    "max_time": "pause_after", "accept_data_change": "on_changed", "row_log": "nothing",
}  # fmt: skip
#: Options that mode continue decides: a stream goes on, each row once.
DECIDED_BY_CONTINUE = {"epochs": "1", "shuffle": "window"}
#: Limits of the gate, and the losses whose models have their metric.
LOSSES_OF_LIMITS = {
    "max_log_loss": ("logistic", "multinomial"),
    "min_auc": CLASSIFIER_LOSSES,
    "max_rmse": ("squared", "huber", "poisson", "gamma", "tweedie"),
    "min_r2": ("squared", "huber"),
}
#: Fields that are paths, each with its table; those of state and telemetry are local.
_PATHS = (
    (None, "source"), (None, "state"), ("publish", "dir"), ("telemetry", "log"), ("telemetry", "prometheus"),
    ("train", "blocks_dir"), ("train", "from_"), ("train", "validation"),
)  # fmt: skip
_LOCAL_PATHS = _PATHS[1:5]

Age = Annotated[float, BeforeValidator(parse_duration_s), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[Fraction, Field(gt=0, lt=1)]


def _without_credentials(value: Any) -> Any:
    """The value; credentials of URIs in it are put aside."""
    if isinstance(value, dict):
        return {name: _without_credentials(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_credentials(inner) for inner in value]
    return take_credentials(value) if isinstance(value, str) else value


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GateConfig(_Table):
    """What a candidate must reach to be published; without a rule only that its metrics are finite."""

    on: Literal["holdout", "newest"] = Field(
        "holdout", description="Rows held out by hash, or the newest file before it is learned."
    )
    holdout: Share = Field(0.1, description="Fraction of rows held out, by hash.")
    files: int | None = Field(None, ge=1, description="Hold-out rows of so many latest files only [default: all].")
    max_log_loss: Finite | None = Field(None, description="Highest log loss.")
    min_auc: Fraction | None = Field(None, ge=0, le=1, description="Lowest area under the ROC curve.")
    max_rmse: Finite | None = Field(None, description="Highest root mean squared error.")
    min_r2: float | None = Field(None, le=1, description="Lowest R².")
    max_worse: Annotated[Fraction, Field(ge=0)] | None = Field(
        None, description="How much higher than the current model's the loss may be, as a fraction of it."
    )
    min_rows: int | None = Field(None, ge=1, description="Fewest rows to judge by.")
    on_fail: Literal["hold", "quarantine"] = Field(
        "hold", description="Files of a refused candidate: tried again next time, or passed over until released."
    )


class PublishConfig(_Table):
    """Where versions go."""

    dir: str | None = Field(None, description="Folder of the versions [default: STATE/published].")
    keep: int = Field(5, ge=2, description="Versions kept.")


class DriftConfig(_Table):
    """Thresholds of the drift of new files against what was learned; a rule that is not given is not applied."""

    exclude: Names = Field([], description="Columns that no rule looks at, comma-separated.")
    warn_mean: Finite | None = Field(None, description="Warn: mean moved by more than so many standard deviations.")
    fail_mean: Finite | None = Field(None, description="Refuse: mean moved by more than so many standard deviations.")
    warn_deviation: Annotated[float, Field(gt=1)] | None = Field(
        None, description="Warn: standard deviation larger or smaller by more than this factor."
    )
    fail_deviation: Annotated[float, Field(gt=1)] | None = Field(
        None, description="Refuse: standard deviation larger or smaller by more than this factor."
    )
    warn_nulls: Fraction | None = Field(None, ge=0, le=1, description="Warn: share of nulls moved by more than this.")
    fail_nulls: Fraction | None = Field(None, ge=0, le=1, description="Refuse: share of nulls moved by more than this.")
    warn_new_levels: Fraction | None = Field(
        None, ge=0, le=1, description="Warn: more than this share of rows has a new level."
    )
    fail_new_levels: Fraction | None = Field(
        None, ge=0, le=1, description="Refuse: more than this share of rows has a new level."
    )
    warn_target: Finite | None = Field(
        None, description="Warn: mean of the target moved by more than so many standard deviations."
    )
    fail_target: Finite | None = Field(
        None, description="Refuse: mean of the target moved by more than so many standard deviations."
    )


class TelemetryConfig(_Table):
    """What is told to the outside, never inside the state directory."""

    log: str | None = Field(None, description="File of JSON lines, one for each event [default: STATE.jsonl].")
    prometheus: str | None = Field(None, description="Text file for the node exporter's textfile collector.")
    mlflow: str | None = Field(None, description="Tracking URI of MLflow.")
    mlflow_experiment: str | None = Field(None, description="Its experiment [default: the name of the job].")


class JobConfig(_Table):
    """A job, as its file says; ``path`` is that file, all other paths are absolute.

    Raises
    ------
    ConfigError
        From :func:`load_job`.
    """

    path: Path
    name: str = Field("", description="Name in telemetry [default: the file's name].")
    source: Annotated[str, BeforeValidator(_without_credentials)] = Field(
        description="Directory, glob or URI that files arrive in."
    )
    state: str = Field(description="State directory.")
    mode: Mode = Field("continue", description="Go on from the last theta, or train on the latest files, or on all.")
    window_files: int | None = Field(None, ge=1, description="mode window: how many of the latest files.")
    on_changed: Literal["error", "ignore", "retrain"] = Field(
        "error", description="A file that was learned has other content now."
    )
    min_age: Age = Field(0.0, description="Files younger than this are left for next time.")
    success_marker: bool = Field(False, description="Only files of folders that hold a file _SUCCESS.")
    expect_new_within: Duration | None = Field(None, description="Nothing new for longer than this: exit 66.")
    pause_after: Duration | None = Field(None, description="Time budget: stop at a checkpoint after this (exit 75).")
    retry_for: Duration = Field(
        300.0, description="How long storage that does not answer is asked again, with growing pauses."
    )
    train: Annotated[dict[str, Any], BeforeValidator(_without_credentials)] = Field(description="Training options.")
    gate: GateConfig = GateConfig.model_validate({})
    publish: PublishConfig = PublishConfig.model_validate({})
    drift: DriftConfig = DriftConfig.model_validate({})
    telemetry: TelemetryConfig = TelemetryConfig.model_validate({})

    @model_validator(mode="after")
    def _window_has_files(self) -> Self:
        if (self.window_files is not None) != (self.mode == "window"):
            raise ValueError('mode = "window" and window_files go together')
        return self

    @property
    def state_dir(self) -> Path:
        return Path(self.state)

    @property
    def published_dir(self) -> Path:
        return Path(self.publish.dir) if self.publish.dir else self.state_dir / "published"

    @property
    def log_path(self) -> Path:
        log = self.telemetry.log
        return Path(log) if log else self.state_dir.with_name(self.state_dir.name + ".jsonl")

    def train_config(self, run: Path, only: list[str] | None = None) -> TrainConfig:
        """The options of one training run of the job, in ``run``, on the files ``only``."""
        options = dict(self.train)
        if self.mode == "continue":
            options = {"method": "minibatch"} | options | {"epochs": 1, "shuffle": "window"}
        if self.gate.on == "holdout":
            options["holdout"] = self.gate.holdout
        return make_config(**options, data=[self.source], run=str(run), only=only)


def load_job(path: str | Path) -> JobConfig:
    """Read and check a job file.

    Raises
    ------
    NoInputError
        There is no such file.
    ConfigError
        It is not TOML, or a value is wrong; names file, line and field.
    """
    path = Path(path).absolute()
    with storage_errors(f"read job {path}"):
        data = path.read_bytes()
    try:
        text = data.decode()
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}. Write field = value lines; see: streamgd job init") from None
    return _checked(path, text, values)


def _checked(path: Path, text: str, values: dict[str, Any]) -> JobConfig:
    if "path" in values:
        raise _mistake(path, text, ("path",), "no such field. Did you mean 'source' or 'state'?")
    train = values.get("train")
    if isinstance(train, dict):
        values = {**values, "train": {field_name(name): value for name, value in train.items()}}
    try:
        job = JobConfig(**_absolute(values, path.parent), path=path)
    except ValidationError as error:
        first = error.errors()[0]
        raise _mistake(path, text, first["loc"], _reason(first)) from None
    job = job.model_copy(update={"name": job.name or path.stem})
    _check_train(job, text)
    _check_places(job, text)
    return job


def _absolute(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values with every path taken from ``folder``."""
    placed = dict(values)
    for table, name in _PATHS:
        inside = placed if table is None else placed.get(table)
        if isinstance(inside, dict) and name in inside:
            there = {**inside, name: _placed(inside[name], folder)}
            placed = there if table is None else {**placed, table: there}
    return placed


def _placed(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_placed(each, folder) for each in value]
    if not isinstance(value, str) or "://" in value:
        return value
    return str(folder / Path(value).expanduser())


def _check_train(job: JobConfig, text: str) -> None:
    """Refuse training options that do not exist, are wrong, or are the job's to decide."""
    for name in job.train:
        if name in DECIDED_BY_JOB:
            raise _mistake(
                job.path, text, ("train", name), f"the job decides it, by {DECIDED_BY_JOB[name]}; leave it out"
            )
        if job.mode == "continue" and name in DECIDED_BY_CONTINUE:
            raise _mistake(
                job.path, text, ("train", name),
                f'mode = "continue" decides it ({DECIDED_BY_CONTINUE[name]}); leave it out, or choose mode = "retrain"',
            )  # fmt: skip
        if name not in TrainConfig.model_fields:
            raise _mistake(
                job.path, text, ("train", name), f"no such option. {did_you_mean(name, list(TrainConfig.model_fields))}"
            )
    if job.mode == "continue" and job.train.get("method", "minibatch") not in ("minibatch", "sgd"):
        raise _mistake(
            job.path, text, ("train", "method"),
            'mode = "continue" goes on with minibatch or sgd; choose one of them, or mode = "retrain"',
        )  # fmt: skip
    if job.mode == "continue" and job.train.get("class_weight", "none") != "none":
        raise _mistake(
            job.path, text, ("train", "class_weight"),
            'with mode = "continue" the weights would stay those of the first night; leave it out, name a column of'
            ' weights (weight = …), or choose mode = "retrain"',
        )  # fmt: skip
    if job.mode == "continue" and job.train.get("schedule", "auto") not in ("auto", "constant"):
        raise _mistake(
            job.path, text, ("train", "schedule"),
            'with mode = "continue" training has no end, which it counts on; choose constant, or mode = "retrain"',
        )  # fmt: skip
    try:
        config = job.train_config(Path("run"))
    except StreamgdError as error:
        raise _of_training(job.path, text, str(error)) from None
    if config.loss != "auto":
        check_rules(job, config.loss)


def rules_of_loss(job: JobConfig) -> dict[tuple[str, str], tuple[str, ...]]:
    """Table and name of the rules that are for models of some losses alone, and these losses."""
    rules = {("gate", name): losses for name, losses in LOSSES_OF_LIMITS.items() if getattr(job.gate, name) is not None}
    with_mean = tuple(loss for loss in get_args(LossName) if loss != "multinomial")
    return rules | {
        ("drift", name): with_mean for name in ("warn_target", "fail_target") if getattr(job.drift, name) is not None
    }


def check_rules(job: JobConfig, loss: str) -> None:
    """Refuse rules that no model of a loss can meet.

    Raises
    ------
    ConfigError
        Names file, line and field.
    """
    for rule, losses in rules_of_loss(job).items():
        if loss not in losses:
            what = "a mean of the target" if rule[0] == "drift" else rule[1].partition("_")[2].replace("_", " ")
            raise _mistake(
                job.path, _text_of(job), rule, f"it is about {what}, which models of the {loss} loss do not have; leave"
                f" it out, or choose another loss",
            )  # fmt: skip


def _of_training(path: Path, text: str, message: str) -> ConfigError:
    """What a training run says of an option, with the place of that in the job file."""
    named = re.match(r"(?:missing )?--([a-z0-9-]+)", message)
    if named is None:
        return _mistake(path, text, ("train",), message)
    return _mistake(path, text, ("train", field_name(named[1])), message.removeprefix(f"--{named[1]}: "))


@contextmanager
def mistakes_placed(job: JobConfig) -> Iterator[None]:
    """Tell a mistake in a training option that only the data show with the file, the line and the field."""
    try:
        yield
    except RunMismatchError as error:
        if job.mode != "continue" or isinstance(error, OtherBlocksError):
            raise
        raise RunMismatchError(
            f"{job.path}: [train]: {error} A job begins one with: streamgd job run --restart"
        ) from error
    except ConfigError as error:
        option = re.match(r"--([a-z0-9-]+)", str(error))
        if type(error) is not ConfigError or option is None or field_name(option[1]) not in job.train:
            raise
        raise _of_training(job.path, _text_of(job), str(error)) from error


def _text_of(job: JobConfig) -> str:
    return job.path.read_text() if job.path.exists() else ""


def _check_places(job: JobConfig, text: str) -> None:
    """Refuse URIs in place of local paths, telemetry inside the state directory, and state among the data."""
    for table, name in _LOCAL_PATHS:
        value = getattr(job if table is None else getattr(job, table), name)
        if value is not None and "://" in value:
            loc = (name,) if table is None else (table, name)
            raise _mistake(job.path, text, loc, "it must be on this machine, found a URI; name a local path")
    state = job.state_dir.resolve()
    for name in ("log", "prometheus"):
        value = getattr(job.telemetry, name)
        if value is not None and Path(value).resolve().is_relative_to(state):
            raise _mistake(
                job.path, text, ("telemetry", name), "it lies inside the state directory; choose a place outside of it"
            )
    if "://" not in job.source and Path(job.source).is_dir() and state.is_relative_to(Path(job.source).resolve()):
        raise _mistake(job.path, text, ("state",), "it lies inside the source; choose a place outside of it")


def _reason(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        tables: dict[Any, type[_Table]] = {
            "gate": GateConfig, "publish": PublishConfig, "drift": DriftConfig, "telemetry": TelemetryConfig,
        }  # fmt: skip
        table = tables.get(error["loc"][0], JobConfig)
        known = [name for name in table.model_fields if name != "path"]
        return f"no such field. {did_you_mean(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"missing: {JobConfig.model_fields[error['loc'][0]].description}"
    message = str(error["msg"]).removeprefix("Value error, ")
    found = "" if "found" in message or error["type"] == "value_error" else f", found {error['input']!r}"
    return f"{message[0].lower()}{message[1:]}{found}"


def _mistake(path: Path, text: str, loc: tuple[Any, ...], reason: str) -> ConfigError:
    names = [part for part in loc if isinstance(part, str)]
    line = line_of(text, names)
    where = f"{path}, line {line}" if line else str(path)
    field = " ".join([*(f"[{name}]" for name in names[:-1]), *(name.rstrip("_") for name in names[-1:])])
    end = "" if reason.endswith(("?", ".")) else "."
    return ConfigError(f"{where}: {field}: {reason}{end}")


def line_of(text: str, names: list[str]) -> int | None:
    """The line, from 1 on, on which a field or a table of a TOML text stands; None where it is not found.

    >>> line_of('a = 1\\n[gate]\\nmin_auc = 2\\n', ["gate", "min_auc"])
    3
    """
    if not names:
        return None
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            table = [part.strip().strip("\"'") for part in header[1].split(".")]
            if table == names:
                return number
        elif (key := re.match(r"\s*([\w.\"'-]+)\s*=", line)) and [
            *table, *(field_name(part.strip("\"'")) for part in key[1].split("."))
        ] == names:  # fmt: skip
            return number
    return line_of(text, names[:-1])
