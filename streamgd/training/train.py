"""``train()``: from a configuration to a model, new or resumed. Every face calls this.

run directory ── task ── session: rows ready, state new or from the checkpoint ── loop ── model
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from streamgd.config import TrainConfig, differing_options, identity_fields, make_config
from streamgd.data.encoding import Encoding
from streamgd.data.frames import is_frame, is_stream
from streamgd.data.skipping import columns_in_use, without_bad_row_groups
from streamgd.data.source import Manifest, Skipped, discover
from streamgd.data.store import remove_blocks
from streamgd.errors import (
    ConfigError,
    InterruptedRunError,
    PausedError,
    RunMismatchError,
    StreamgdError,
    UnavailableError,
)
from streamgd.markup import table
from streamgd.model import Model
from streamgd.notebook import notebook_display
from streamgd.plain import count_noun
from streamgd.state import CorruptStateError
from streamgd.training.auto_session import AutoSession
from streamgd.training.batch_session import BatchSession
from streamgd.training.batch_state import BatchState, is_of_passes
from streamgd.training.blocks_place import blocks_dir, free_for_blocks, lack_of_space
from streamgd.training.display import Display, Silent
from streamgd.training.increment import next_state, resolved_before
from streamgd.training.interrupt import Interrupt
from streamgd.training.progress import RunContext, waiting_for_loops
from streamgd.training.rundir import STANDARD_INPUT, RunDirectory, current_folder, is_final
from streamgd.training.same_run import check_blocks, check_data, check_epochs, check_epochs_left, check_options
from streamgd.training.session import Session, worse_than_constant
from streamgd.training.setup import make_task
from streamgd.training.stochastic_session import StochasticSession
from streamgd.training.task import Task, TooWideError
from streamgd.training.telling import blocks_place, passes, tell
from streamgd.training.trainstate import TrainState

_ANEW = "Choose another --run, or --restart it from the run before."


@dataclass(frozen=True, repr=False)
class Result:
    """A trained model and how it came about; ``facts`` are plain values, as in ``--json``.

    ``facts["seconds"]`` are those of the last start; the history has them for each epoch of all starts.
    """

    model: Model
    run_dir: Path
    history: list[dict[str, Any]]
    facts: dict[str, Any]

    def __repr__(self) -> str:
        return f"Result({self.model!r}, run_dir={str(self.run_dir)!r}, stopped_by={self.stopped_by!r})"

    def _repr_html_(self) -> str:
        """How it came about and what it learnt, for notebooks."""
        losses = ("base_loss", "train_loss", "progressive_loss", "holdout_loss")
        names = ("train_rows", *losses, "learning_rate", "seconds", "stopped_by")
        told = [(name.replace("_", " "), self.facts.get(name)) for name in names]
        head = table(["run", str(self.run_dir)], [pair for pair in told if pair[1] is not None])
        return head + self.model._repr_html_()

    @property
    def stopped_by(self) -> str:
        """What ended the run, one of epochs, tol_gradient, tol_excess, tol_loss, tol_theta, patience, max_time,
        precision, exact (the normal equations) and path (its last penalty)."""
        return str(self.facts["stopped_by"])

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {
            **self.facts,
            "run": str(self.run_dir),
            "theta_sha256": self.model.theta_sha256,
            "history": self.history,
        }


def train(
    data: Any,
    target: str,
    *,
    restart: bool = False,
    display: Display | None = None,
    filesystem: Any = None,
    **options: Any,
) -> Result:
    """Train a linear model on Parquet data, or go on with a run that was stopped.

    Parameters
    ----------
    data : str, path, list of these, or a stream
        Files, directories, globs or URIs; or what can be read once, a reader of Arrow record batches or an iterator
        over batches or frames. A stream is learned in one pass by the online scaler, in constant memory; a run on it
        cannot be resumed.
    target : str
        Column to predict.
    restart : bool
        Forget what the run directory holds; its old model stays until the new one is whole.
    filesystem : pyarrow.fs.FileSystem or fsspec.AbstractFileSystem, optional
        Where ``data`` and ``validation`` are; it is to be given again to go on with the run.
    **options
        The options of ``streamgd train``, with underscores: see ``streamgd.config.TrainConfig``.

    Raises
    ------
    StreamgdError
        One of the tree in ``streamgd.errors``.

    In a notebook a bar under the cell shows the progress where no ``display`` is given.
    """
    if is_stream(data):
        from streamgd.training.parts import stream_config, train_stream  # which is made of runs

        display = display or notebook_display() or Silent()
        return train_stream(data, stream_config(target=target, **options), display, restart)
    if is_frame(data):
        raise ConfigError(
            f"DATA: expected files or a stream, found {type(data).__name__}. Learn a frame with GDClassifier or"
            f" GDRegressor of streamgd.estimators, or in one pass as a stream of frames, iter([frame])."
        )
    config = make_config(data=data, target=target, **options)
    return run(config, display or notebook_display() or Silent(), restart, filesystem=filesystem)


def plan(
    config: TrainConfig,
    restart: bool = False,
    interrupt: Interrupt | None = None,
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What ``train`` would do, without doing it: see ``Task.summary``; and its passes, and the disk of the blocks.

    ``interrupt`` and ``before`` are those of :func:`run`.
    """
    directory = RunDirectory(config.run_dir)
    begins = restart or directory.untrained
    stored = None if begins else directory.read_config()
    if stored is not None:
        check_options(config, stored, config.run_dir)
    task = _new_task(_Finder(config), interrupt, before)
    facts, lack = task.summary() | {"passes": passes(task)}, []
    if task.order == "full":
        free = free_for_blocks(config, task.manifest, task.resolved, task.layout)
        facts |= {"blocks_dir": str(blocks_place(task)), "free_bytes": free}
        lack = lack_of_space(config, task.manifest, task.resolved, task.layout) if begins else []
    return {**facts, "notes": [*task.notes, *lack]}


def run(
    config: TrainConfig,
    display: Display,
    restart: bool = False,
    interrupt: Interrupt | None = None,
    before: dict[str, Any] | None = None,
    filesystem: Any = None,
    part: Path | None = None,
) -> Result:
    """As :func:`train`, for a configuration; what happens is told to ``display``.

    Parameters
    ----------
    interrupt : Interrupt, optional
        One that the caller has entered; its times count, not those of ``config``.
    before : dict, optional
        State of a finished run of windows, as its last checkpoint has it: a new run goes on from there with other
        files, as one stream (see ``training.increment``). A run that has a checkpoint of its own goes on from that.
    filesystem : optional
        As in :func:`train`.
    part : Path, optional
        A file with rows of the stream that ``config`` names as data: these are learned.

    Raises
    ------
    ConfigError, SchemaError
        The stream of ``before`` cannot go on with these options, or these files.
    """
    started_s = time.monotonic()
    directory = RunDirectory(config.run_dir, config.keep_checkpoints)
    # A mistake in the options or the data leaves no directory behind.
    finder = _Finder(config, filesystem, part)
    task = None if directory.path.exists() else _new_task(finder, None, before)
    entered = interrupt is not None
    interrupt = interrupt or Interrupt(config.pause_after, config.max_time)
    # The number of BLAS threads changes bits. What is not finite is looked for where it matters.
    with (
        nullcontext() if entered else interrupt, directory, waiting_for_loops(display, interrupt),
        threadpool_limits(1, "blas"), np.errstate(all="ignore"),
    ):  # fmt: skip
        left = _stored(directory, restart)
        stored = None if restart else left
        if stored is not None and directory.untrained:
            # There is nothing that other options could spoil. The ways out of a full disk are such options.
            now = config.model_dump(mode="json")
            differing = differing_options(now, stored["config"], identity_fields())
            if differing:
                display.warn(f"{directory.path} begins anew: nothing was trained in it yet, and {differing}")
            stored = None
        saved, changes = None, ""
        if stored is not None:
            check_options(config, stored, directory.path)
            saved = _latest(directory, display)
            all_damaged = saved is None and bool(directory.checkpoints.damaged)
            finished = all_damaged or (saved is not None and is_final(saved["stopped_by"]))
            task, changes = _checked_task(finder, stored, finished, interrupt, _stream_of(saved, before, directory))
            if all_damaged:
                return _finished_without_checkpoints(task, directory, display)
            if saved is not None:
                task = task.with_method(_n_dof(saved))
            check_epochs(task, directory.path)
            if saved is not None and changes:
                check_epochs_left(task, saved, finished, changes)
                if saved.get("earlier") is not None:
                    raise RunMismatchError(f"a stream went on with these data, and they changed ({changes}). {_ANEW}")
            model = directory.model_of(saved)
            if model is not None and _lacks(config, model):
                model = None  # it is made anew from the checkpoint
            if saved is not None and model is not None and not changes and task.epochs <= saved["asked_epochs"]:
                return _finished(task, directory, model, display)
        task = task or _new_task(finder, interrupt, before)
        if left is not None:
            # The start before this one may have been killed when its blocks were in another place.
            there = blocks_dir(config.model_copy(update={"blocks_dir": left["config"].get("blocks_dir")}))
            if there != task.blocks_dir:
                remove_blocks(there)
        tell(task, display)
        if saved is not None:
            unit = "pass" if config.method == "batch" else "epoch"
            done = f"{count_noun(saved['epoch'], unit)} done, {count_noun(saved['rows_seen'], 'row')} used"
            display.message(f"going on from the last checkpoint: {done}")
        carry = saved is not None and bool(changes)
        if not restart and not carry:
            _begin(directory, task, forget=stored is None)
        row_log = Path(config.row_log) if config.row_log else None
        context = RunContext(directory, display, interrupt, config.checkpoint_every, row_log)
        new = saved is None
        first = next_state(before, task, context) if new and before is not None else None
        session = _open_session(task, context, None if carry else saved or first)
        resolved, task = task.method, session.task
        with _closed_at_the_end(session):
            if saved is not None and carry:
                # The checkpoint first: were it the other way round, a kill would leave the old one to the new data.
                session.carry_over(saved)
                _begin(directory, task, forget=False)
                session.record("data changed", f"the data changed since the run began ({changes})")
            saved = first = None  # the session has what it needs; the rest would take memory until the end
            if restart:
                # Only now: had the data been at fault, the old run would still be whole.
                _begin(directory, task, forget=True)
            elif task.method != resolved:
                _begin(directory, task, forget=False)
            facts, model = _train(task, session, directory, started_s, new=new, changed=carry)
        display.close()
        return Result(model, directory.path, directory.history(), facts)


def _stored(directory: RunDirectory, restart: bool) -> dict[str, Any] | None:
    """What the run directory says of itself; to start over, a damaged one says nothing."""
    try:
        return directory.read_config()
    except ConfigError:
        if not restart:
            raise
        return None


def _begin(directory: RunDirectory, task: Task, forget: bool) -> None:
    """Write down what the run is; ``forget`` what the directory held before, but for the model."""
    if forget:
        directory.clear()
    # The consent to changed data is for one start.
    options = task.config.model_dump(mode="json", exclude={"accept_data_change"})
    stored: dict[str, Any] = {"config": options, "resolved": task.summary(), "folder": current_folder()}
    stored |= {"manifest": task.manifest.to_json()}
    stored |= {"validation": task.validation.to_json() if task.validation is not None else None}
    directory.write_config(stored)


def _train(
    task: Task, session: Session, directory: RunDirectory, started_s: float, new: bool, changed: bool
) -> tuple[dict[str, Any], Model]:
    """Run the loop and save the model."""
    session.begin(new)
    if new or changed:
        for text in _skipped(task):
            session.record("skipped", text)
    session.train()
    facts = session.facts() | {"hint": session.hint(), "seconds": round(time.monotonic() - started_s, 3)}
    facts["warnings"] = [*task.notes, *facts.get("warnings", [])]
    if facts["hint"] and (facts["stopped_by"] == "max_time" or task.method in ("auto", "batch")):
        facts["warnings"].append(facts["hint"])
        session.context.display.warn(facts["hint"])
    if worse := worse_than_constant(facts):
        facts["warnings"].append(worse)
        session.context.display.warn(worse)
    closing, facts["no_errors"] = session.closing()
    if facts["no_errors"] and task.config.errors == "robust":
        facts["warnings"].append(f"the coefficients have no errors: {facts['no_errors']}")
        session.context.display.warn(facts["warnings"][-1])
    encoding, theta = session.result()
    if encoding.class_weights is not None and encoding.columns.target and encoding.columns.target.classes:
        labels = map(str, encoding.columns.target.classes)
        facts["class_weights"] = dict(zip(labels, encoding.class_weights, strict=True))
    model = Model.of_training(task.loss, theta, encoding, facts, closing)
    directory.checkpoints.wait()  # a model without the state it comes from could not be gone on with
    model.save(directory.model_path)
    return facts, model


@contextmanager
def _closed_at_the_end(session: Session) -> Iterator[None]:
    """Close the session, whatever happens inside; blocks stay only where they serve another start."""
    try:
        yield
    except UnavailableError:
        session.close()
        session.context.interrupt.check()  # asking ends where a signal comes
        raise
    except (PausedError, InterruptedRunError):
        session.close()
        raise
    except BaseException:
        with suppress(StreamgdError):  # the first error is the one to tell
            session.close(remove=True)
        raise
    session.close(remove=True)


def _skipped(task: Task) -> list[str]:
    """A line for each row group and file that is passed over."""
    parts = [("", task.manifest)] + ([("--validation: ", task.validation)] if task.validation else [])
    return [f"{of}{_of_skipped(bad)} skipped: {bad.problem}" for of, manifest in parts for bad in manifest.skipped]


def _of_skipped(bad: Skipped) -> str:
    return "a file is" if bad.index is None else f"{count_noun(bad.rows, 'row')} {'is' if bad.rows == 1 else 'are'}"


def _lacks(config: TrainConfig, model: Model) -> bool:
    """Whether a finished run has to be looked at once more, for what it was not asked for before."""
    errors = config.errors == "robust" and model.closing is not None and model.closing.meat is None
    return errors or (config.certify and model.facts.get("certificate") is None)


def _finished(task: Task, directory: RunDirectory, model: Model, display: Display) -> Result:
    """Say that there is nothing to do; only blocks that a kill left behind are cleared away."""
    if not task.config.keep_blocks:
        remove_blocks(task.blocks_dir)
    display.message(f"the run {directory.path} is finished ({model.facts['stopped_by']}); nothing was changed.")
    return Result(model, directory.path, directory.history(), {**model.facts, "already_finished": True})


def _finished_without_checkpoints(task: Task, directory: RunDirectory, display: Display) -> Result:
    """Say that a run is finished of which only the model is whole.

    Raises
    ------
    CorruptStateError
        It is not finished, or its model is not that of these options and data: nothing is left to go on from.
    """
    model = directory.model_without_checkpoints(task.epochs)
    if model is None or model.facts.get("key") != task.key or _lacks(task.config, model):
        raise CorruptStateError(
            f"all checkpoints in {directory.path} are damaged: it cannot go on. Start over with --restart."
        )
    display.warn("all checkpoints are damaged, the model is whole: more epochs would have to start over with --restart")
    return _finished(task, directory, model, display)


@dataclass(frozen=True)
class _Finder:
    """Finds the data that a configuration names, without what is to be skipped."""

    config: TrainConfig
    filesystem: Any = None
    part: Path | None = None

    def data(self, interrupt: Interrupt | None = None) -> Manifest:
        """The data to train on."""
        if self.part is not None:
            return self._found([str(self.part)], interrupt)
        if self.config.data == STANDARD_INPUT:
            raise ConfigError(
                "DATA - is a stream, which is read once: there is nothing to go on with. Pipe it in from its beginning"
                " to streamgd train -, with --restart or another --run."
            )
        return self._found(self.config.data, interrupt, self.config.only)

    def validation(self, data: Manifest, interrupt: Interrupt | None = None) -> Manifest | None:
        """The data of ``--validation``, if it is given, beside those to train on."""
        if not self.config.validation:
            return None
        return self._found(self.config.validation, interrupt, texts=data.texts)

    def _found(
        self,
        sources: list[str],
        interrupt: Interrupt | None,
        only: list[str] | None = None,
        texts: Collection[str] = (),
    ) -> Manifest:
        config = self.config
        manifest = discover(sources, self.filesystem, skip_bad=config.on_bad_data == "skip", only=only, texts=texts)
        if config.on_bad_data == "error":
            return manifest
        check = interrupt.check_repeated if interrupt else lambda: None
        return without_bad_row_groups(manifest, columns_in_use(manifest, config), check, config.threads)


def _new_task(finder: _Finder, interrupt: Interrupt | None, before: dict[str, Any] | None) -> Task:
    """The task of a new run; ``before`` is the state of the run whose stream goes on, if one does."""
    manifest = finder.data(interrupt)
    resolved = resolved_before(before, finder.config, manifest) if before is not None else None
    return make_task(finder.config, manifest, finder.validation(manifest, interrupt), resolved=resolved)


def _stream_of(
    saved: dict[str, Any] | None, before: dict[str, Any] | None, directory: RunDirectory
) -> dict[str, Any] | None:
    """The state that says what the columns are, where a stream goes on: the run's own, else the one before."""
    if saved is None:
        return before
    if saved.get("earlier") is not None:
        return saved
    if before is not None:
        raise RunMismatchError(f"{directory.path} holds a run that began a stream, and did not go on with one. {_ANEW}")
    return None


def _checked_task(
    finder: _Finder, stored: dict[str, Any], finished: bool, interrupt: Interrupt, stream: dict[str, Any] | None
) -> tuple[Task, str]:
    """The task of a run that goes on, and what changed in its data, where that is accepted.

    ``stream`` is a state that says what the columns are, where they are not to be decided by the data.
    """
    config, manifest = finder.config, finder.data(interrupt)
    method = stored["resolved"]["method"]
    changes = check_data(stored["manifest"], stored["config"]["data"], manifest, config.data, config, finished, method)
    validation = finder.validation(manifest, interrupt)
    if validation is not None:
        before = stored["config"]["validation"]
        changes += check_data(stored["validation"], before, validation, config.validation, config, finished, method)
    resolved = resolved_before(stream, config, manifest) if stream is not None else None
    task = make_task(config, manifest, validation, stored["resolved"], resolved)
    if task.resolved.loss != stored["resolved"]["loss"]:
        raise RunMismatchError(
            f"the loss was {stored['resolved']['loss']}, that of the changed data would be {task.resolved.loss}."
            f" Name it with --loss, or use --restart."
        )
    if not finished and not changes:
        check_blocks(task, stored["resolved"]["block_rows"])
    return task, changes


def _n_dof(saved: dict[str, Any]) -> int:
    """Coefficients of a checkpoint's state, without those of base levels."""
    encoding = Encoding.from_state(saved["encoding"])
    return (encoding.n_dof - sum(column.base_row for column in encoding.categorical)) * encoding.n_outputs


def _latest(directory: RunDirectory, display: Display) -> dict[str, Any] | None:
    """The state of the newest whole checkpoint, if there is one; damaged ones are named."""
    loaded = directory.checkpoints.latest()
    for path, problem in directory.checkpoints.damaged:
        display.warn(f"checkpoint {path.name} is damaged and was passed over: {problem}")
    if loaded is None:
        return None
    # Looked at before anything is decided by it.
    kind = BatchState if is_of_passes(loaded.state) else TrainState
    return kind.from_state(loaded.state).state()


def _open_session(task: Task, context: RunContext, saved: dict[str, Any] | None) -> Session:
    """Make the rows ready for training, from where ``saved`` (a checkpoint's state) left off."""
    kinds: dict[str, Callable[..., Session]] = {"batch": BatchSession.over_row_groups, "auto": AutoSession}
    kind = kinds.get(task.method, StochasticSession)
    try:
        return kind(task, context, saved)
    except TooWideError as error:
        return kind(task.widened(error.largest), context, saved)
