"""Every option once: name, type, default, unit and help text.

The command line, the TOML file and ``streamgd.train(...)`` are all made from ``TrainConfig``, so an option that
is added here exists in the three places. A field is *identity* when it decides a bit of theta: a run directory
refuses to go on with another value. The others (workers, memory, display, time) may change between starts.
"""

from __future__ import annotations

import keyword
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict

from streamgd.column_options import parse_bins, parse_clips, parse_crosses, parse_index_columns, parse_splines, shown
from streamgd.errors import ConfigError, UsageError, did_you_mean, storage_errors
from streamgd.kinked_options import KINKED_LOSSES
from streamgd.option_checks import MOST_L2_WITH_ERRORS, NO_CLOSING_PASS, check_combinations
from streamgd.option_values import Bytes, Duration, Finite, Fraction, Names, PathText, Rate, Sources

Clips = Annotated[dict[str, tuple[float | None, float | None]], BeforeValidator(parse_clips)]
Splines = Annotated[dict[str, int], BeforeValidator(parse_splines)]
IndexColumns = Annotated[dict[str, int], BeforeValidator(parse_index_columns)]
Crosses = Annotated[list[str], BeforeValidator(parse_crosses)]
Bins = Annotated[dict[str, list[float]], BeforeValidator(parse_bins)]

LossName = Literal[
    "auto", "squared", "logistic", "multinomial", "poisson", "gamma", "tweedie", "huber", "quantile", "squared_hinge",
    "hinge",
]  # fmt: skip

#: Losses of two classes.
CLASSIFIER_LOSSES = ("logistic", "squared_hinge", "hinge")
#: Losses of which numbers are asked.
NUMBER_LOSSES = ("squared", "poisson", "gamma", "tweedie", "huber", "quantile")
#: Losses of numbers that are to know no outliers: the unit of the target is that of a sample's middle half.
ROBUST_LOSSES = ("huber", "quantile")

CHANGEABLE: JsonDict = {"identity": False}


class TrainConfig(BaseModel):
    """What to train on, how, and where the run is kept.

    Raises
    ------
    ConfigError
        From :func:`make_config`: a value out of range or options that contradict each other.
    UsageError
        From :func:`make_config`: an option that does not exist.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # data
    data: Sources = Field(description="Parquet files, directories, globs or URIs.")
    target: str = Field(description="Column to predict.")
    run: PathText | None = Field(
        None, description="Run directory [default: runs/TARGET].", json_schema_extra=CHANGEABLE
    )
    features: Names | None = Field(None, description="Columns to learn from, comma-separated [default: all others].")
    exclude: Names = Field([], description="Columns to leave out, comma-separated.")
    categorical: Names = Field([], description="Number columns that are labels, comma-separated.")
    timestamps: Names = Field(
        [],
        description="What date and time columns become: any of epoch,hour,weekday,month,yearday; hour-cycle and the"
        " like: sine and cosine.",
    )
    clip: Clips | None = Field(
        None, description="Numbers held between two bounds, e.g. BonusMalus=50:150,DrivAge=:90; either may be left out."
    )
    log: Names | None = Field(
        None, description="Number columns of which the natural logarithm is learned from, after --clip."
    )
    bins: Bins | None = Field(
        None, description="Numbers that become levels, one for each bin between edges, e.g. DrivAge=18,25,40,65."
    )
    spline: Splines | None = Field(
        None, description="Numbers that become a cubic spline of so many columns, knots at quantiles, e.g. VehAge=5."
    )
    cross: Crosses | None = Field(
        None, description="Columns to count together as well: levels, or a number with levels."
    )
    index_columns: IndexColumns | None = Field(
        None, description="Lists of indices, and how many columns they name, e.g. tags=1048576 [default: 2^24 each]."
    )
    encode: Literal["onehot", "hash"] = Field("onehot", description="How categorical columns are encoded.")
    max_levels: int = Field(
        65_536,
        ge=2,
        description="Above this many levels (2^23 at most of words in lists) a categorical column is hashed.",
    )
    hash_buckets: int = Field(2**18, ge=2, le=2**24, description="Coefficients of one hashed column.")
    nulls: Literal["impute", "drop", "error"] = Field("impute", description="What happens to nulls in features.")
    null_indicators: bool = Field(
        False, description="Add a feature that is 1 where a number is null, for each number column that has nulls."
    )
    weight: str | None = Field(None, description="Column of sample weights (>= 0).")
    class_weight: Literal["none", "balanced"] = Field(
        "none", description="Weights that follow from the class; balanced: all classes get the same total weight."
    )
    offset: str | None = Field(None, description="Column added to the raw prediction, with coefficient one.")
    exposure: str | None = Field(
        None,
        description="poisson, gamma, tweedie: column (> 0) that the prediction is proportional to, as a log offset.",
    )
    positive: str | None = Field(None, description="Value of the target that counts as 1 [default: the larger].")
    where: str | None = Field(
        None, description="Keep rows for which this holds, e.g. \"year >= 2013 and dest != 'X'\"."
    )
    sample: Fraction = Field(1.0, gt=0, le=1, description="Fraction of rows to use, by hash, e.g. 1%.")
    validation: Sources = Field([], description="Data for the holdout loss.")
    on_bad_data: Literal["error", "skip"] = Field(
        "error", description="Files and row groups that cannot be read: end, or go on without them.",
        json_schema_extra=CHANGEABLE,
    )  # fmt: skip
    accept_data_change: bool = Field(
        False, description="Go on with a run, from its next epoch, on data that changed since it began.",
        json_schema_extra=CHANGEABLE,
    )  # fmt: skip
    holdout: Fraction = Field(0.0, ge=0, lt=1, description="Fraction of rows held out, by hash, e.g. 0.1.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of order, sample and holdout.")
    scale: Literal["standard", "none"] = Field("standard", description="Standardise features, or take them raw.")
    dtype: Literal["float32", "float64"] = Field("float32", description="Type of the encoded features.")

    # model
    loss: LossName = Field("auto", description="Loss; auto looks at the target: squared, logistic or multinomial.")
    max_classes: int = Field(
        100, ge=3, description="Most classes of a target that is trained on with the multinomial loss.",
        json_schema_extra=CHANGEABLE,
    )  # fmt: skip
    power: float = Field(1.5, ge=1, le=2, description="tweedie: power of the variance; 1: poisson, 2: gamma.")
    delta: Rate = Field(
        "auto", description="huber: error from which on it counts linearly; auto: by the spread of the target."
    )
    quantile: float = Field(0.5, gt=0, lt=1, description="quantile: which one of the target is predicted, e.g. 0.9.")
    l1: Finite = Field(0.0, description="L1 penalty on the standardised coefficients.")
    l2: Finite = Field(1e-6, description="L2 penalty on the standardised coefficients.")
    path: int | None = Field(
        None, ge=2, le=1000,
        description="batch: so many penalties, from the one that leaves no coefficient down a log grid; the model is"
        " that of the least holdout loss.",
    )  # fmt: skip
    path_to: Fraction = Field(1e-3, gt=0, lt=1, description="The last penalty of --path as a part of the first.")
    l1_ratio: Fraction = Field(1.0, ge=0, le=1, description="Part of l1 in the penalties of --path; the rest is l2.")
    non_negative: Names = Field(
        [], description="Numbers whose coefficients stay >= 0, with all that is made of them; comma-separated."
    )

    # method
    method: Literal["auto", "minibatch", "sgd", "batch"] = Field(
        "auto",
        description="How gradients are taken; auto: one epoch of mini-batches, then full-batch passes to the optimum"
        " where they are cheap.",
    )
    optimizer: Literal[
        "auto", "plain", "momentum", "adagrad", "ftrl", "rmsprop", "adam", "backtracking", "newton", "lbfgs", "normal",
        "band",
    ] = Field(
        "auto", description="Update rule; auto: adagrad (minibatch), plain (sgd), newton, lbfgs or band (batch)."
    )  # fmt: skip
    learning_rate: Rate = Field("auto", description="Step size alpha, or auto.")
    schedule: Literal["auto", "constant", "inverse", "cosine"] = Field(
        "auto", description="How alpha changes over the steps; auto: constant."
    )
    batch_size: int = Field(256, ge=1, le=65_536, description="Rows of one mini-batch.")
    average: Literal["auto", "on", "off"] = Field(
        "auto", description="Predict with the averaged iterate; auto: on unless l1 > 0."
    )
    init: Literal["best", "zeros", "random"] = Field(
        "best", description="First theta: zero with the best constant prediction as intercept, zeros, or random."
    )
    from_: PathText | None = Field(
        None, description="A run or model to start from: its coefficients, by the names of columns and levels."
    )
    shuffle: Literal["auto", "full", "window", "none"] = Field(
        "auto", description="Order of rows; auto: full where the encoded rows fit --blocks-max and the disk."
    )

    # inference
    errors: Literal["classical", "robust"] = Field(
        "classical",
        description="auto, batch: standard errors of the coefficients; robust: also where variances differ.",
        json_schema_extra=CHANGEABLE,
    )  # fmt: skip

    # stopping
    epochs: int | None = Field(
        None,
        ge=1,
        description="Epochs; with them auto is minibatch [default: 5; batch: 500 passes].",
        json_schema_extra=CHANGEABLE,
    )
    tol_gradient: Finite | None = Field(
        None, description="auto, batch: stop when max |grad J| is below this [default: 1e-6; newton: not asked for].",
        json_schema_extra=CHANGEABLE,
    )  # fmt: skip
    tol_excess: Finite | None = Field(
        None, description="auto, batch: stop when J - J* is estimated to be below this [default: newton: 1e-15 of J].",
        json_schema_extra=CHANGEABLE,
    )  # fmt: skip
    certify: bool = Field(
        False, description="Tell by one more pass how far the result is from the optimum; auto and batch do.",
        json_schema_extra=CHANGEABLE,
    )  # fmt: skip
    tol_loss: Finite = Field(
        0.0, description="Stop when an epoch lowers the loss by less than this fraction.", json_schema_extra=CHANGEABLE
    )
    tol_theta: Finite = Field(
        0.0, description="Stop when an epoch moves no coefficient by more than this.", json_schema_extra=CHANGEABLE
    )
    patience: int = Field(
        0, ge=0, description="Stop after so many epochs without a better holdout loss [0: never].",
        json_schema_extra=CHANGEABLE,
    )  # fmt: skip
    max_time: Duration | None = Field(
        None, description="End with a model after this time.", json_schema_extra=CHANGEABLE
    )
    pause_after: Duration | None = Field(
        None, description="Stop at a checkpoint after this time (exit 75).", json_schema_extra=CHANGEABLE
    )

    # the machine
    blocks_dir: PathText | None = Field(
        None, description="Where the blocks are [default: RUN/blocks].", json_schema_extra=CHANGEABLE
    )
    blocks_max: Bytes = Field(200 * 10**9, description="Most bytes of blocks.", json_schema_extra=CHANGEABLE)
    keep_blocks: bool = Field(
        False,
        description="Keep the blocks; runs on the same data with the same --blocks-dir use them.",
        json_schema_extra=CHANGEABLE,
    )
    memory: Bytes = Field(512 * 10**6, description="Anonymous memory budget.", json_schema_extra=CHANGEABLE)
    threads: int | None = Field(
        None, ge=1, description="Decode threads [default: cores].", json_schema_extra=CHANGEABLE
    )
    workers: int | None = Field(
        None, ge=1, description="batch: work in so many processes instead of threads.", json_schema_extra=CHANGEABLE
    )
    cluster: str | None = Field(
        None, description="batch: work on a Dask cluster; the address of its scheduler, tcp://HOST:PORT.",
        json_schema_extra=CHANGEABLE,
    )  # fmt: skip
    checkpoint_every: Duration = Field(60.0, description="Time between checkpoints.", json_schema_extra=CHANGEABLE)
    keep_checkpoints: int = Field(2, ge=2, description="Checkpoints kept.", json_schema_extra=CHANGEABLE)
    row_log: PathText | None = Field(
        None, description="Debug: write the global row numbers in the order they are used (uint64) to this file.",
        json_schema_extra=CHANGEABLE | {"hidden": True},
    )  # fmt: skip

    only: Sources | None = Field(
        None, description="Only these files of DATA, by relative path; compared, as DATA, by what the files are.",
        json_schema_extra=CHANGEABLE | {"hidden": True},
    )  # fmt: skip

    @property
    def run_dir(self) -> Path:
        """The run directory, ``--run`` or ``runs/TARGET``."""
        return Path(self.run) if self.run else Path("runs") / re.sub(r"[^\w.-]+", "_", self.target)

    @property
    def identity(self) -> dict[str, Any]:
        """The options that decide the result, but for the data, as plain values."""
        values = self.model_dump(mode="json")
        return {name: values[name] for name in identity_fields() if name != "data"}

    @property
    def crossed(self) -> list[str]:
        """The columns that ``--cross`` names, each once; they need not be features themselves."""
        return list(dict.fromkeys(name for cross in self.cross or [] for name in cross.split(":")))

    @property
    def on_workers(self) -> bool:
        """Whether processes of a Dask cluster do the work."""
        return self.workers is not None or self.cluster is not None

    @property
    def has_l1(self) -> bool:
        """Whether an l1 penalty is there, given or on the path."""
        return self.l1 > 0.0 or (self.path is not None and self.l1_ratio > 0.0)

    @property
    def has_likelihood(self) -> bool:
        """Whether the loss, as far as it is given, is that of a likelihood, or taken for one."""
        return self.loss not in ("squared_hinge", *KINKED_LOSSES)

    @property
    def no_errors(self) -> str | None:
        """Why coefficients trained with these options have no standard errors; None where passes give them."""
        if not self.has_likelihood:
            return f"the {self.loss.replace('_', ' ')} loss is of no likelihood"
        if self.method in ("minibatch", "sgd") or (self.method == "auto" and self.shuffle in ("window", "none")):
            return NO_CLOSING_PASS
        if self.loss == "huber" and self.errors != "robust":
            return "the huber loss has robust errors alone: --errors robust"
        if self.l1 > 0:
            return f"with --l1 {self.l1:g} coefficients are shrunk and set to zero, and errors have no meaning"
        if self.path is not None:
            return "with --path coefficients are shrunk by a penalty that the holdout loss chose, and errors mislead"
        if self.class_weight != "none":
            return f"with --class-weight {self.class_weight} rows count by their class, not as often as they occur"
        if self.l2 > MOST_L2_WITH_ERRORS:
            return (
                f"--l2 {self.l2:g} is above {MOST_L2_WITH_ERRORS:g}: coefficients are shrunk, and errors would not tell"
                f" how far they are from the true ones"
            )
        return None


def identity_fields() -> list[str]:
    """Names of the options that decide the result; a run directory refuses to go on when one differs."""
    return [name for name, field in TrainConfig.model_fields.items() if field.json_schema_extra is None]


def option_name(field: str) -> str:
    """The command-line spelling of a field; one that Python takes for itself has ``_`` behind it.

    >>> option_name("learning_rate"), option_name("from_")
    ('--learning-rate', '--from')
    """
    return field.upper() if field == "data" else "--" + field.rstrip("_").replace("_", "-")


def differing_options(now: dict[str, Any], before: dict[str, Any], names: Iterable[str]) -> str:
    """Those of the options ``names`` that are not as they were, listed; empty where all are.

    >>> differing_options({"l2": 0.0, "exclude": []}, {"l2": 0.0, "exclude": ["id"]}, ["l2", "exclude"])
    '--exclude was id, now none'
    """
    # What a run of an earlier build does not say was as it is by default.
    was = {name: before.get(name, _default(name)) for name in names}
    return "; ".join(
        f"{option_name(name)} was {_shown(name, was[name])}, now {_shown(name, now[name])}"
        for name in was
        if now[name] != was[name]
    )


def _default(field: str) -> Any:
    described = TrainConfig.model_fields[field]
    return None if described.is_required() else described.get_default(call_default_factory=True, validated_data={})


def _shown(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return shown(value, ":" if name == "clip" else ",")
    return "not given" if value is None else str(value)


def make_config(**options: Any) -> TrainConfig:
    """A validated ``TrainConfig``; values may be text as on the command line.

    Raises
    ------
    UsageError
        An option that does not exist, or one that is required and missing.
    ConfigError
        A value of the wrong type or out of range, or options that contradict each other.
    """
    known = list(TrainConfig.model_fields)
    for name in options:
        if name not in known:
            raise UsageError(f"no such option: {name}. {did_you_mean(name, known)}")
    try:
        config = TrainConfig(**options)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        if first["type"] == "missing":
            raise UsageError(f"missing {option_name(field)}: {TrainConfig.model_fields[field].description}") from None
        message = first["msg"].removeprefix("Value error, ")
        found = "" if "found" in message else f", found {first['input']!r}"
        raise ConfigError(f"{option_name(field)}: {message[0].lower()}{message[1:]}{found}.") from None
    check_combinations(config)
    return config


def load_toml(path: str) -> dict[str, Any]:
    """Options from a TOML file; keys are option names with ``-`` or ``_``.

    Raises
    ------
    ConfigError
        The file is not TOML.
    """
    with storage_errors(f"read configuration {path}"):
        text = Path(path).read_bytes()
    try:
        options = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}. Write option = value lines.") from None
    return {field_name(name): value for name, value in options.items()}


def field_name(option: str) -> str:
    """The field of an option as a TOML file names it.

    >>> field_name("learning-rate"), field_name("from")
    ('learning_rate', 'from_')
    """
    name = option.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name
