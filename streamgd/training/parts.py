"""A stream that can be read once: learned part by part, each a run of windows that goes on where the last one ended.

    stream ── part on disk ── run(before=state) ── state, model ── next part ── …

There is one part on the disk at a time, and one row group in memory. The online scaler learns each window before it is
trained on, levels that are new get a coefficient, and the optimizer goes on (``training.increment``): it is one pass.
What was read cannot be read again, so there is nothing to resume; the run directory has the model of the parts before.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from streamgd import state as states
from streamgd.config import TrainConfig, make_config, option_name
from streamgd.data.frames import parts_of
from streamgd.errors import ConfigError, InterruptedRunError, NoInputError, PausedError, RunMismatchError
from streamgd.training.display import Display
from streamgd.training.interrupt import Interrupt
from streamgd.training.rundir import RunDirectory
from streamgd.training.train import Result, run

#: Options that need data which can be read again.
_NOT_OF_STREAMS = ("patience", "pause_after", "max_time", "only", "row_log")


def stream_config(target: str, **options: Any) -> TrainConfig:
    """The configuration of a run on a stream: one epoch of windows.

    Raises
    ------
    ConfigError
        An option that needs data which can be read again.
    """
    config = make_config(data=["-"], target=target, **options)
    if config.method == "batch":
        raise ConfigError("--method batch makes many passes, and a stream can be read once. Choose minibatch or sgd.")
    if config.epochs not in (None, 1):
        raise ConfigError(f"--epochs {config.epochs}: a stream can be read once. Leave it out.")
    if config.shuffle == "full":
        raise ConfigError("--shuffle full needs all rows at once, and a stream has them one by one. Leave it out.")
    for name in _NOT_OF_STREAMS:
        if getattr(config, name) != TrainConfig.model_fields[name].default:
            raise ConfigError(f"{option_name(name)} has no meaning for a stream, which can be read once. Leave it out.")
    shuffle = "window" if config.shuffle == "auto" else config.shuffle
    return config.model_copy(update={"epochs": 1, "shuffle": shuffle})


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
    result, history, rows = None, [], 0
    try:
        for result, _ in learn_parts(stream, config, None, display):
            history += result.history
            rows += result.facts["rows"]
    except (PausedError, InterruptedRunError) as error:
        raise type(error)(
            f"stopped after {rows:,} rows of the stream, which cannot be read again. {config.run_dir} holds"
            f" {'the model of these' if rows else 'no model'}; begin anew with --restart."
        ) from error
    if result is None:
        raise NoInputError("the stream has no rows. Give one that has.")
    return Result(result.model, result.run_dir, history, {**result.facts, "rows": rows})


def learn_parts(
    stream: Any, config: TrainConfig, before: dict[str, Any] | None, display: Display, signals: bool = True
) -> Iterator[tuple[Result, dict[str, Any]]]:
    """The result and the state after each part of a stream.

    Parameters
    ----------
    before : dict or None
        State of the stream so far, as given by this function.
    signals : bool
        Whether a signal ends a part at a checkpoint, as it does for the command.
    """
    folder = Path(config.blocks_dir) if config.blocks_dir else config.run_dir.parent
    states.make_folder(folder)
    with TemporaryDirectory(prefix=".streamgd-", dir=folder) as parts:
        for part in parts_of(stream, Path(parts)):
            of_part = config.model_copy(update={"data": [str(part)]})
            result = run(of_part, display, restart=True, interrupt=None if signals else Interrupt(), before=before)
            latest = RunDirectory(result.run_dir).checkpoints.latest()
            assert latest is not None
            before = latest.state
            yield result, before
