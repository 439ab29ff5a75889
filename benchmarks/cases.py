"""What is shown: the runs, the ratios of their medians, and what these should reach.

A run is one system with one set of options on one data set; cases share runs, so each is measured once. To add a case,
name its runs and its ratios in `all_cases`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.measure import Measurement


@dataclass(frozen=True)
class Run:
    """One system, its options, on the data set of that name; `label` is its name in the tables."""

    label: str
    system: str
    data: str = "numeric"
    options: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Quantity:
    """The median of a measure of a run; of several runs the smallest, so that the better of two ways counts.

    `measure` is `seconds`, `rows`, `peak_anonymous_bytes`, or what the system itself tells. With `per_row` it is
    divided by the number of rows.
    """

    measure: str
    runs: tuple[Run, ...]
    per_row: bool = False

    def value(self, results: dict[str, RunResult]) -> float | None:
        """None where no run has it."""
        found = [results[run.label].typical(self.measure, self.per_row) for run in self.runs if run.label in results]
        return min((value for value in found if value is not None), default=None)


@dataclass(frozen=True)
class Comparison:
    """A ratio (or a plain quantity) and the bound it should keep."""

    what: str
    numerator: Quantity
    denominator: Quantity | None = None
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "×"
    divided_by: float = 1.0
    """Of the value, for its unit."""
    paired: bool = False
    """The median of the ratios of each repeat, rather than the ratio of medians: for small differences."""

    def value(self, results: dict[str, RunResult]) -> float | None:
        if self.paired:
            return self._median_of_ratios(results)
        value = self.numerator.value(results)
        if value is None:
            return None
        if self.denominator is not None:
            divisor = self.denominator.value(results)
            if not divisor:
                return None
            value /= divisor
        return value / self.divided_by

    def _median_of_ratios(self, results: dict[str, RunResult]) -> float | None:
        """Of the runs that were made one after the other."""
        assert self.denominator is not None
        above, below = (results[each.runs[0].label].values(each.measure) for each in (self.numerator, self.denominator))
        return median(a / b for a, b in zip(above, below, strict=False)) if above and below else None

    def reached(self, value: float) -> bool | None:
        """None where there is no bound."""
        if self.at_least is not None:
            return value >= self.at_least
        return None if self.at_most is None else value <= self.at_most


@dataclass(frozen=True)
class Case:
    """A row, or some, of what must be shown."""

    name: str
    title: str
    comparisons: tuple[Comparison, ...]
    more_runs: tuple[Run, ...] = ()
    by_default: bool = True

    @property
    def runs(self) -> list[Run]:
        """All runs that it needs, each once."""
        found = list(self.more_runs)
        for comparison in self.comparisons:
            for quantity in (comparison.denominator, comparison.numerator):
                found += quantity.runs if quantity is not None else ()
        return unique(found)


@dataclass
class RunResult:
    """All measurements of a run, or the reason why there is none."""

    run: Run
    rows: int
    measurements: list[Measurement] = field(default_factory=list)
    skipped: str | None = None

    @property
    def way_closed(self) -> float | None:
        return next((each.way_closed for each in self.measurements if each.way_closed is not None), None)

    def values(self, measure: str) -> list[float]:
        """One value a repeat."""
        if measure == "rows":
            return [float(self.rows) for _ in self.measurements]
        if measure in ("seconds", "peak_anonymous_bytes"):
            return [float(getattr(each, measure)) for each in self.measurements]
        return [each.measures[measure] for each in self.measurements if measure in each.measures]

    def typical(self, measure: str, per_row: bool = False) -> float | None:
        """The median over the repeats, but of memory the largest: a budget holds always or not at all."""
        values = self.values(measure)
        if not values:
            return None
        value = max(values) if measure == "peak_anonymous_bytes" else median(values)
        return value / self.rows if per_row else value


def unique(runs: Iterable[Run]) -> list[Run]:
    """Each label once, in order."""
    return list({run.label: run for run in runs}.values())


def _faster(
    what: str, measure: str, ours: Run, theirs: tuple[Run, ...], at_least: float | None, peer: str = ""
) -> Comparison:
    """How many times as long the peer takes."""
    return Comparison(what, Quantity(peer or measure, theirs), Quantity(measure, (ours,)), at_least=at_least)


def _streamgd(label: str, data: str = "numeric", **options: Any) -> Run:
    return Run(f"streamgd {label}", "Streamgd", data, options)


def _loop(epochs: int, access: str) -> Run:
    options = {"epochs": epochs, "access": access}
    return Run(f"scikit-learn loop, {access}, {_epochs(epochs)}", "ScikitLearnLoop", options=options)


def _process(epochs: int) -> tuple[Run, tuple[Run, ...]]:
    ours = Run(f"streamgd process, {_epochs(epochs)}", "StreamgdProcess", options={"epochs": epochs})
    theirs = tuple(
        Run(f"scikit-learn process, {access}, {_epochs(epochs)}", "ScikitLearnProcess",
            options={"epochs": epochs, "access": access})
        for access in ("iter_batches", "to_batches")
    )  # fmt: skip
    return ours, theirs


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' if count > 1 else ''}"


def _memory(what: str, run: Run) -> Comparison:
    return Comparison(what, Quantity("peak_anonymous_bytes", (run,)), at_most=512.0, unit="MB", divided_by=1e6)


def _memory_share(what: str, ours: Run, theirs: Run) -> Comparison:
    measure = "peak_anonymous_bytes"
    return Comparison(what, Quantity(measure, (ours,)), Quantity(measure, (theirs,)), at_most=1 / 3)


def all_cases() -> list[Case]:
    """The cases, in the order of the tables."""
    # With epochs the default method is mini-batches; without, passes to the optimum follow the first epoch.
    default_1, default_5 = _streamgd("default, 1 epoch", epochs=1), _streamgd("default, 5 epochs", epochs=5)
    default = _streamgd("default, to the optimum")
    sgd_5 = _streamgd("sgd, 5 epochs", method="sgd", epochs=5)
    window = _streamgd("window, minibatch, 1 epoch", shuffle="window", epochs=1)
    window_sgd = _streamgd("window, sgd, 1 epoch", shuffle="window", method="sgd", epochs=1)
    # With no room for blocks each pass decodes Parquet; with room, each pass but the one before the first reads blocks.
    gradients: dict[str, Any] = {"method": "batch", "optimizer": "backtracking", "tol_gradient": 0}
    streamed = _streamgd("full batch, 3 passes over Parquet", epochs=3, blocks_max=1, **gradients)
    over_blocks = _streamgd("full batch, 10 passes over blocks", epochs=10, **gradients)
    optimum = _streamgd("full batch, to the optimum", method="batch", tol_gradient=1e-7)
    in_memory = Run("scikit-learn LogisticRegression in memory", "ScikitLearnInMemory")
    dask_ml = Run("dask-ml L-BFGS", "DaskMlLbfgs")
    loops_1 = (_loop(1, "iter_batches"), _loop(1, "to_batches"))
    loops_5 = (_loop(5, "iter_batches"), _loop(5, "to_batches"))
    decode = Run("bare decode", "BareDecode")
    plain_sum = Run("plain sum over mapped blocks", "PlainSum")
    cache, text = Run("Vowpal Wabbit, cache", "VowpalWabbitCache"), Run("Vowpal Wabbit, text", "VowpalWabbitText")
    categorical = _streamgd("default, 1 epoch, categorical", "categorical", epochs=1)
    hashing = Run("scikit-learn FeatureHasher, 1 epoch", "ScikitLearnHashing", "categorical")
    small, large = (
        _streamgd(f"default, 5 epochs, {rows}", data, epochs=5)
        for rows, data in (("float32", "float32"), ("20 × the rows", "float32-large"))
    )
    wide = _streamgd("default, 5 epochs, 500 columns", "wide", epochs=5)
    process_1, process_loops_1 = _process(1)
    process_5, process_loops_5 = _process(5)
    with_checkpoints = _streamgd("default, 300 epochs, --checkpoint-every 10s", epochs=300, checkpoint_every="10s")
    without = _streamgd("default, 300 epochs, no checkpoint", epochs=300, checkpoints=False)
    sparse_1, sparse_5 = (
        _streamgd(f"default, sparse, {_epochs(epochs)}", "sparse", epochs=epochs) for epochs in (1, 5)
    )
    sparse_l1 = _streamgd("ftrl, sparse, 1 epoch", "sparse", epochs=1, optimizer="ftrl", l1=4e-6)
    sparse_text = Run("Vowpal Wabbit, sparse, text", "VowpalWabbitText", "sparse", {"bits": 20})
    demo = Run("demo of the README", "StreamgdDemo", "demo")
    return [
        Case("default-1", "Default run, prepare included, 1 epoch, against scikit-learn's loop", (
            _faster("1 epoch", "seconds", default_1, loops_1, 4.0),
        )),
        Case("default-5", "Default run, prepare included, 5 epochs, against scikit-learn's loop", (
            _faster("5 epochs", "seconds", default_5, loops_5, 10.0),
        )),
        Case("further-epoch", "Each further epoch against scikit-learn's", (
            _faster("minibatch (AdaGrad)", "further_epoch_s", default_5, loops_5, 25.0),
            _faster("sgd (plain)", "further_epoch_s", sgd_5, loops_5, 15.0),
        )),
        Case("window", "One streamed epoch, --shuffle window, against scikit-learn's loop", (
            _faster("sgd", "seconds", window_sgd, loops_1, 4.5),
            _faster("minibatch", "seconds", window, loops_1, 5.5),
        )),
        Case("batch-pass", "One streamed full-batch gradient pass", (
            _faster("against scikit-learn's loop", "pass_s", streamed, loops_1, 7.0, "seconds"),
            Comparison("time against bare decode", Quantity("pass_s", (streamed,)), Quantity("seconds", (decode,)),
                       at_most=1.7),
        )),
        Case("prepare", "The prepare pass, finalise included, against bare decode", (
            Comparison("time against bare decode", Quantity("prepare_s", (default_5,)), Quantity("seconds", (decode,)),
                       at_most=4.0),
        )),
        Case("vowpal", "One further epoch of sgd against Vowpal Wabbit's pass over its cache", (
            _faster("sgd (plain)", "further_epoch_s", sgd_5, (cache,), 15.0, "seconds"),
        )),
        Case("block-pass", "A full-batch pass over blocks, bytes of features per second, against a plain sum", (
            Comparison("against a sum over a new map", Quantity("feature_bytes_per_s", (over_blocks,)),
                       Quantity("feature_bytes_per_s", (plain_sum,)), at_least=0.3),
            Comparison("against a sum over pages already mapped", Quantity("feature_bytes_per_s", (over_blocks,)),
                       Quantity("feature_bytes_per_s_already_mapped", (plain_sum,))),
        )),
        Case("optimum", "Full batch from Parquet until grad J is below 1e-7, against peers that go to the optimum", (
            _faster("scikit-learn LogisticRegression in memory", "seconds", optimum, (in_memory,), 4.0),
            _faster("dask-ml L-BFGS", "seconds", optimum, (dask_ml,), 12.0),
            _memory_share("memory of scikit-learn", optimum, in_memory),
            _memory_share("memory of dask-ml", optimum, dask_ml),
            _faster("default run against scikit-learn LogisticRegression", "seconds", default, (in_memory,), 4.0),
            Comparison("default run against its own 5 epochs", Quantity("seconds", (default,)),
                       Quantity("seconds", (default_5,))),
        )),
        Case("categorical", "13 numeric and 26 categorical columns of 1,000 to 100,000 levels, default run, 1 epoch", (
            Comparison("rate", Quantity("rows", (categorical,)), Quantity("seconds", (categorical,)), at_least=0.8,
                       unit="M rows/s", divided_by=1e6),
            _faster("against scikit-learn with FeatureHasher", "seconds", categorical, (hashing,), 4.0),
        )),
        Case("sparse", "A million rows of 40 of 2^20 columns", (
            Comparison("rows of 5 epochs a second, prepare included", Quantity("rows", (sparse_5,)),
                       Quantity("seconds", (sparse_5,)), at_least=0.5, unit="M rows/s", divided_by=0.2e6),
            Comparison("rows of the files a second, 1 epoch and prepare", Quantity("rows", (sparse_1,)),
                       Quantity("seconds", (sparse_1,)), unit="M rows/s", divided_by=1e6),
            Comparison("rows a second of a further epoch", Quantity("rows", (sparse_5,)),
                       Quantity("further_epoch_s", (sparse_5,)), unit="M rows/s", divided_by=1e6),
            _faster("1 epoch, prepare included, against Vowpal Wabbit's pass over text", "seconds", sparse_1,
                    (sparse_text,), None),
            _memory("peak anonymous memory", sparse_5),
            Comparison("coefficients of ftrl with l1 that are zero", Quantity("zeros", (sparse_l1,)),
                       Quantity("coefficients", (sparse_l1,)), at_least=0.5),
        )),
        Case("large", "20 times the rows (float32 columns), default run", (
            Comparison("time per row against that of few rows", Quantity("seconds", (large,), per_row=True),
                       Quantity("seconds", (small,), per_row=True), at_most=1.3),
            _memory("peak anonymous memory", large),
        ), by_default=False),
        Case("memory", "Peak anonymous memory of default runs", (
            _memory("28 columns", default_5), _memory("500 columns", wide), _memory("to the optimum", default),
        )),
        Case("process", "Whole process, default run, against scikit-learn's loop as a whole process", (
            _faster("1 epoch", "seconds", process_1, process_loops_1, 3.0),
            _faster("5 epochs", "seconds", process_5, process_loops_5, 8.0),
        )),
        Case("demo", "The demo of the README, process start to end", (
            Comparison("data_gen and train", Quantity("seconds", (demo,)), at_most=4.0, unit="s"),
            Comparison("train alone", Quantity("train_s", (demo,)), unit="s"),
        )),
        Case("checkpoints", "Rows per second of training with checkpoints against without, repeat by repeat", (
            Comparison("--checkpoint-every 10s", Quantity("further_epoch_s", (without,)),
                       Quantity("further_epoch_s", (with_checkpoints,)), at_least=0.97, paired=True),
        ), by_default=False),
        Case("peers", "Further peers, to their end, against the default run of 5 epochs", (), (
            default_5, in_memory, dask_ml, Run("PyTorch linear layer, 1 epoch", "TorchLinear"), text, cache,
        )),
    ]  # fmt: skip
