"""A stream that can be read once: learned part by part, each a run of windows that goes on where the last one ended.

    stream ── part on disk ── run(before=state) ── state, model ── next part ── …

There is one part on the disk at a time, and one row group in memory. The online scaler learns each window before it is
trained on, levels that are new get a coefficient, and the optimizer goes on (``training.increment``): it is one pass.
What was read cannot be read again, so there is nothing to resume; the run directory has the model of the parts before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq

from streamgd import state as states
from streamgd.config import TrainConfig, make_config, option_name
from streamgd.data.frames import parts_of
from streamgd.data.origins import RowName, rows_of, told_as
from streamgd.data.source import discover
from streamgd.errors import ConfigError, InterruptedRunError, NoInputError, PausedError, RunMismatchError
from streamgd.model import Model
from streamgd.plain import count_noun
from streamgd.training.blocks_place import check_blocks_dir
from streamgd.training.display import Display
from streamgd.training.interrupt import Interrupt
from streamgd.training.method import check_tolerances
from streamgd.training.rundir import STANDARD_INPUT, RunDirectory
from streamgd.training.train import Result, run

#: What a stream is called in messages.
STREAM = "the stream"
#: Why coefficients have no errors.
_NO_ERRORS = "a stream is read once, and they need another pass over its rows"
_ROW_NAMES = partial(rows_of, STREAM)
#: Options that need data which can be read again.
_NOT_OF_STREAMS = (
    "class_weight", "holdout", "certify", "errors", "tol_loss", "tol_theta", "patience", "max_time", "pause_after",
    "accept_data_change", "keep_blocks", "only", "row_log",
)  # fmt: skip


def stream_config(**options: Any) -> TrainConfig:
    """The configuration of a run on a stream, by the options of ``TrainConfig`` but ``data``: one epoch of windows.

    ``--method auto`` is minibatch, ``--shuffle auto`` is window.

    Raises
    ------
    ConfigError
        An option that needs data which can be read again.
    """
    config = make_config(data=STANDARD_INPUT, **options)
    if config.method == "batch":
        raise ConfigError("--method batch makes many passes, and a stream can be read once. Choose minibatch or sgd.")
    if config.epochs not in (None, 1):
        raise ConfigError(f"--epochs {config.epochs}: a stream can be read once. Leave it out.")
    if config.shuffle == "full":
        raise ConfigError("--shuffle full needs all rows at once, and a stream has them one by one. Leave it out.")
    if config.shuffle not in ("auto", "window"):
        raise ConfigError(
            f"--shuffle {config.shuffle}: a stream, which can be read once, is mixed in windows. Leave it out."
        )
    if config.schedule not in ("auto", "constant"):
        raise ConfigError(
            f"--schedule {config.schedule} counts on the end of a run, and a stream, read once, has none. Leave it out."
        )
    for name in _NOT_OF_STREAMS:
        if getattr(config, name) != TrainConfig.model_fields[name].default:
            raise ConfigError(f"{option_name(name)} has no meaning for a stream, which can be read once. Leave it out.")
    check_tolerances(config, "a stream can be read once")
    method = "minibatch" if config.method == "auto" else config.method
    shuffle = "window" if config.shuffle == "auto" else config.shuffle
    return config.model_copy(update={"epochs": 1, "method": method, "shuffle": shuffle})


def train_stream(stream: Any, config: TrainConfig, display: Display, restart: bool = False) -> Result:
    """Train on a stream, into a run directory: see ``training.train.train``.

    Parameters
    ----------
    config : TrainConfig
        Of :func:`stream_config`.

    Raises
    ------
    RunMismatchError
        The run directory holds a run, and it is not to be started over.
    """
    directory = RunDirectory(config.run_dir)
    if not restart and directory.read_config() is not None:
        raise RunMismatchError(
            f"{config.run_dir} holds a run, and a stream cannot be gone on with. Choose another --run, or --restart."
        )
    if config.validation:
        discover(config.validation)  # a mistake is told before the stream is read
    if not directory.model_path.exists():
        return _train_parts(stream, config, display, directory)
    # The old model stays until the new one is whole, so the parts are learned beside it.
    with directory, TemporaryDirectory(prefix=".streamgd-", dir=config.run_dir.parent) as folder:
        beside = config.model_copy(update={"run": f"{folder}/run"})
        return _train_parts(stream, beside, display, directory)


def _train_parts(stream: Any, config: TrainConfig, display: Display, directory: RunDirectory) -> Result:
    """Learn the parts where ``config`` says, and leave what was learned in ``directory``: all, if that is elsewhere."""
    learned, elsewhere, whole = _Learned(str(directory.path)), config.run_dir != directory.path, None
    ended = False
    try:
        for result, _ in learn_parts(stream, config, None, display):
            learned.add(result)
            loss = _facts_of_all(learned.facts)["progressive_loss"]
            told = f", progressive loss {loss:.6g}" if loss is not None else ""
            display.message(f"so far: {count_noun(learned.rows, 'row')}{told}")
        ended = True
        if elsewhere:
            directory.clear()
            whole = learned.written(directory, ended)
    except (PausedError, InterruptedRunError) as error:
        held = "the model from before" if elsewhere else "the model of these" if learned.rows else "no model"
        raise type(error)(
            f"stopped after {learned.rows:,} rows of the stream, which cannot be read again. {directory.path} holds"
            f" {held}; begin anew with --restart."
        ) from error
    finally:
        if not elsewhere:
            whole = learned.written(directory, ended)
    assert whole is not None
    if whole.facts["hint"]:
        display.warn(whole.facts["hint"])
    return whole


class _OfPart:
    """Tells of a part as of one, and of a later one not again what was resolved."""

    def __init__(self, display: Display, number: int, is_first: bool):
        self.warn, self.close = display.warn, display.close
        self._display, self._number, self._is_first = display, number, is_first

    def message(self, text: str) -> None:
        if self._is_first:
            self._display.message(text)

    def progress(
        self, phase: str, done_rows: int, total_rows: int, loss: float | None, bottleneck: str | None = None
    ) -> None:
        name = f"part {self._number}" if phase.startswith("epoch ") else phase
        self._display.progress(name, done_rows, total_rows, loss, bottleneck)


@dataclass
class _Learned:
    """What was told of all parts so far; ``run`` is where it will be."""

    run: str
    model: Model | None = None
    facts: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    stored: dict[str, Any] = field(default_factory=dict)

    def add(self, part: Result) -> None:
        self.model = part.model
        self.stored = RunDirectory(part.run_dir).require_config()
        self.stored["config"]["run"] = self.run
        self.facts.append(part.facts)
        number = len(self.facts)  # a part stands where an epoch does: reports set their losses side by side
        self.history += [line | {"epoch": number} if line.get("event") == "epoch" else line for line in part.history]

    @property
    def rows(self) -> int:
        return sum(facts["rows"] for facts in self.facts)

    def written(self, directory: RunDirectory, ended: bool) -> Result | None:
        """The result of all parts, as the run directory then holds it too; None where nothing was learned.

        Where the stream had not ``ended``, nothing was the run's end either.
        """
        if self.model is None:
            return None
        facts = _facts_of_all(self.facts) | ({} if ended else {"stopped_by": None})
        model = replace(self.model, facts=self.model.facts | facts)
        with directory:
            size = 0
            for line in self.history:
                size = directory.append_history(line, size)
            model.save(directory.model_path)
            directory.write_config(self.stored)
        return Result(model, directory.path, self.history, facts)


def _facts_of_all(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """The facts of the last part, but with rows, losses, warnings and seconds of all of them."""
    found = dict(facts[-1])
    for name in ("rows", "train_rows", "seconds"):
        found[name] = sum(part[name] for part in facts)
    for name in ("dropped", "nulls"):
        reasons = dict.fromkeys(reason for part in facts for reason in part[name])
        found[name] = {reason: sum(part[name].get(reason, 0) for part in facts) for reason in reasons}
    for name in ("progressive_loss", "base_loss"):
        known = [(part[name], part["train_rows"]) for part in facts if part[name] is not None]
        rows = sum(rows for _, rows in known)
        found[name] = sum(loss * rows for loss, rows in known) / rows if rows else None
    found["warnings"] = list(dict.fromkeys(text for part in facts for text in part["warnings"]))
    if found["hint"]:
        found["warnings"].append(found["hint"])
    return found | {"parts": len(facts), "no_errors": _NO_ERRORS}


def learn_parts(
    stream: Any, config: TrainConfig, before: dict[str, Any] | None, display: Display, signals: bool = True,
    row_names: Callable[[int], RowName] = _ROW_NAMES,
) -> Iterator[tuple[Result, dict[str, Any]]]:  # fmt: skip
    """The result and the state after each part of a stream; parts of which no row is used are passed over.

    Parameters
    ----------
    before : dict or None
        State of the stream so far, as given by this function.
    signals : bool
        Whether a signal ends a part at a checkpoint, as it does for the command.
    row_names : callable
        Gives what the rows are called in messages, from so many rows on.

    Raises
    ------
    NoInputError
        No row is left to train on.
    """
    check_blocks_dir(config)
    folder = Path(config.blocks_dir) if config.blocks_dir else config.run_dir.parent
    rows_before = 0
    nothing: NoInputError | None = NoInputError("the stream has no rows. Give one that has.")
    with ExitStack() as removing:
        removing.callback(states.remove_empty, states.make_folder(folder))
        parts = removing.enter_context(TemporaryDirectory(prefix=".streamgd-", dir=folder))
        for number, part in enumerate(parts_of(stream, Path(parts)), 1):
            told = _OfPart(display, number, before is None)
            row_name = row_names(rows_before)
            rows_before += pq.read_metadata(part).num_rows
            try:
                with told_as(part, STREAM, row_name):
                    interrupt = None if signals else Interrupt()
                    result = run(config, told, restart=True, interrupt=interrupt, before=before, part=part)
            except NoInputError as error:
                nothing = nothing and error
                continue
            latest = RunDirectory(result.run_dir).checkpoints.latest()
            assert latest is not None
            before, nothing = latest.state, None
            yield result, before
    if nothing is not None:
        raise nothing
