"""The command line: it translates arguments, calls the function of the same name, and shows what that gives.

Standard output takes results, standard error progress and messages. Everything heavy is imported inside the commands,
so that ``--help`` and ``--version`` answer at once. Every way of ending is in ``Face.main``.
"""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from streamgd.console import ConsoleDisplay
    from streamgd.errors import StreamgdError

SCHEMA_VERSION = 1


class Output:
    """Where a command's result and errors go.

    Attributes
    ----------
    run_dir : Path or None
        The run directory, once a command knows it; takes the traceback of a defect.
    """

    def __init__(self, as_json: bool, quiet: bool):
        self.run_dir: Path | None = None
        self._as_json = as_json
        self._quiet = quiet
        self._display: ConsoleDisplay | None = None

    @property
    def display(self) -> ConsoleDisplay:
        """The display on standard error, made when it is first needed."""
        if self._display is None:
            from streamgd.console import make_display

            self._display = make_display(self._quiet)
        return self._display

    def result(self, facts: dict[str, Any], text: Callable[[], str]) -> None:
        """Print a command's result: one JSON object, or text for people unless quiet."""
        self.close()
        if self._as_json:
            self._print_json(facts)
        elif not self._quiet:
            _print(text())

    def csv(self, text: str) -> None:
        """Print a result that is a table as CSV."""
        from streamgd.errors import UsageError

        if self._as_json:
            raise UsageError("--csv and --json both given. Choose one.")
        self.close()
        _print(text.removesuffix("\n"))

    def failure(self, error: StreamgdError) -> None:
        """Print an error: one line on standard error, and with ``--json`` an object on standard output."""
        from streamgd.console import one_line
        from streamgd.errors import StreamgdError

        self.close()
        message = one_line(str(error))
        with suppress(OSError):  # where nobody reads it, the exit code still tells
            print(f"streamgd: {message}", file=sys.stderr, flush=True)
        if self._as_json:
            fields = {"type": type(error).__name__, "message": message, "exit_code": error.exit_code}
            with suppress(StreamgdError):  # the first error counts
                self._print_json({"error": fields})

    def close(self) -> None:
        """Give the terminal back."""
        if self._display is not None:
            self._display.close()

    def _print_json(self, facts: dict[str, Any]) -> None:
        told = self._display.warnings if self._display is not None else []
        all_warnings = list(dict.fromkeys([*told, *facts.get("warnings", [])]))
        _print(json.dumps(_plain({"schema_version": SCHEMA_VERSION, **facts, "warnings": all_warnings})))


def _print(text: str) -> None:
    """Write to standard output and make sure that it got there; a reader that went away is no error."""
    from streamgd.errors import storage_errors

    if sys.stdout is None:
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files and columns may be no valid text
    with storage_errors("write to standard output"):
        try:
            print(text, flush=True)
        except BrokenPipeError:
            # Python flushes once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plain(value: Any) -> Any:
    """The value as JSON has it: numpy's numbers and arrays as Python's, and null for what is not finite."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


@contextmanager
def _sigterm_is_a_pause() -> Iterator[None]:
    """Outside training, which has handlers of its own, SIGTERM ends the command as any other pause: exit 75."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        from streamgd.errors import PausedError

        raise PausedError("stopped by a signal. Run the same command again.")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Face(click.Group):
    """The group of commands, with streamgd's errors and exit codes in place of click's."""

    def main(self, args: Sequence[str] | None = None, *positional: Any, **keywords: Any) -> Any:
        """Run a command and exit with its code."""
        arguments = list(sys.argv[1:] if args is None else args)
        before_rest = arguments[: arguments.index("--")] if "--" in arguments else arguments
        output = Output("--json" in before_rest, "--quiet" in before_rest)
        keywords |= {"standalone_mode": False, "obj": output}
        with warnings.catch_warnings():
            if not sys.warnoptions:  # python -W … shows them to developers
                warnings.simplefilter("ignore")
            try:
                with _sigterm_is_a_pause():
                    exit_code = super().main(arguments, *positional, **keywords) or 0
            except Exception as error:
                exit_code = _fail(error, output)
        sys.exit(exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what click's own ``main`` would swallow or print about is turned into our errors here."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, OSError) as error:
            from streamgd.failures import explain

            raise explain(error, ctx.obj.run_dir) from error


def _fail(error: Exception, output: Output) -> int:
    from streamgd.failures import explain

    explained = explain(error, output.run_dir)
    output.failure(explained)
    return explained.exit_code


class ConfigCommand(click.Command):
    """A command whose options come from ``TrainConfig``, which is imported only when they are needed."""

    def __init__(self, *positional: Any, parameters: str, **keywords: Any):
        super().__init__(*positional, **keywords)
        self._parameters = parameters

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from streamgd import options

        return [*getattr(options, self._parameters)(), *super().get_params(ctx)]


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from streamgd.version import version

        click.echo(f"streamgd {version()}")
        ctx.exit()


def _threads(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) == 0:
        from streamgd.errors import ConfigError

        raise ConfigError(f"--threads: expected a whole number from 1 on, found {text!r}.")
    return int(text)


def _level(_: click.Context, __: click.Parameter, text: str) -> float:
    from streamgd.config import parse_fraction
    from streamgd.errors import ConfigError

    try:
        return float(parse_fraction(text))
    except ValueError as error:
        raise ConfigError(f"--level: {error}.") from None


# Face.main looks for these two itself, since errors in the other arguments obey them too.
json_option = click.option("--json", is_flag=True, expose_value=False, help="Print one JSON object on standard output.")
quiet_option = click.option("--quiet", is_flag=True, expose_value=False, help="Print nothing on success.")
data_argument = click.argument("data", nargs=-1, required=True, metavar="DATA...")
run_argument = click.argument("run", metavar="RUN")
threads_option = click.option("--threads", metavar="N", callback=_threads, help="Decode threads [default: cores].")


@click.group(cls=Face, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version,
              help="Print the version.")  # fmt: skip
def main() -> None:
    """Linear models by gradient descent on Parquet data that do not fit in memory."""


@main.command(cls=ConfigCommand, parameters="train_parameters", short_help="Train a model, or go on with a run.")
@click.option("--config", "config_file", metavar="FILE.toml", help="Options; those of the command line override.")
@click.option("--dry-run", is_flag=True, help="Print what would be done: columns, order, disk, memory, passes.")
@click.option("--restart", is_flag=True, help="Start over; the old model stays until the new one is whole.")
@json_option
@quiet_option
@click.pass_obj
def train(output: Output, /, config_file: str | None, dry_run: bool, restart: bool, **values: Any) -> None:
    """Train a linear model on Parquet DATA (files, directories, globs or URIs).

    The same command goes on with a run that was stopped at any moment.
    """
    from streamgd.config import make_config
    from streamgd.console import format_facts
    from streamgd.options import file_options, given_options

    from_file = file_options(config_file) if config_file else {}
    config = make_config(**from_file | given_options(values))
    output.run_dir = config.run_dir
    if dry_run:
        from streamgd.training.train import plan

        facts = plan(config)
        output.result(facts, lambda: format_facts(facts))
        return
    from streamgd.training.train import run

    _show_run(output, run(config, output.display, restart=restart))


@main.command(cls=ConfigCommand, parameters="resume_parameters", short_help="Go on with a run.")
@run_argument
@json_option
@quiet_option
@click.pass_obj
def resume(output: Output, /, run: str, **values: Any) -> None:
    """Go on with the run in directory RUN: unfinished, or finished with more --epochs."""
    from streamgd.config import make_config
    from streamgd.options import given_options
    from streamgd.training import train as training
    from streamgd.training.rundir import RunDirectory

    output.run_dir = Path(run)
    stored = RunDirectory(output.run_dir).require_config()
    config = make_config(**stored["config"] | given_options(values) | {"run": run})
    _show_run(output, training.run(config, output.display))


@main.command(short_help="Predict every row of DATA.")
@run_argument
@data_argument
@click.option("--out", required=True, metavar="DIR", help="Where the Parquet files go, under the input's names.")
@click.option("--keep", multiple=True, metavar="A,B", help="Columns to carry through, comma-separated.")
@threads_option
@json_option
@quiet_option
@click.pass_obj
def predict(
    output: Output, /, run: str, data: tuple[str, ...], out: str, keep: tuple[str, ...], threads: int | None
) -> None:
    """Predict every row of DATA with the model of RUN, in order, to Parquet files in DIR.

    No row is left out: where a file cannot be read the command ends, and the files before it are whole.
    """
    from streamgd.config import parse_names
    from streamgd.console import format_facts
    from streamgd.model import Model
    from streamgd.prediction import predict as predict_rows

    columns = [name for value in keep for name in parse_names(value)]
    facts = predict_rows(Model.load(run), list(data), out, columns, threads=threads, display=output.display)
    output.result(facts, lambda: format_facts(facts))


@main.command(short_help="Measure a model on DATA.")
@run_argument
@data_argument
@click.option("--by", metavar="COL", help="Also rows, actual, predicted and their ratio for each level of COL.")
@click.option("--where", metavar="EXPR", help="Use the rows for which this holds.")
@click.option("--part", default="all", metavar="all|train|holdout", help="Use the rows that the run held out, or not.")
@threads_option
@json_option
@click.pass_obj
def evaluate(
    output: Output,
    /,
    run: str,
    data: tuple[str, ...],
    by: str | None,
    where: str | None,
    part: Any,
    threads: int | None,
) -> None:
    """Losses and metrics of the model of RUN on DATA, the base rate beside each.

    Of all rows: where a file cannot be read the command ends.
    """
    from streamgd.evaluation import evaluate as measure
    from streamgd.model import Model

    model = Model.load(run)
    facts = measure(model, list(data), by, where, part, threads=threads, display=output.display).to_json()
    output.result(facts, lambda: _evaluation_text(facts))


@main.command(short_help="Say what DATA hold and what each column would become.")
@data_argument
@json_option
@click.pass_obj
def inspect(output: Output, /, data: tuple[str, ...]) -> None:
    """Schema, rows, row groups and sizes of DATA, and what each column would become."""
    from streamgd.inspection import format_inspection
    from streamgd.inspection import inspect as inspect_data

    facts = inspect_data(list(data))
    output.result(facts, lambda: format_inspection(facts))


@main.command(short_help="Tell how a run stands and what it learnt.")
@run_argument
@click.option("--all", "show_all", is_flag=True, help="Every coefficient, not only the intercept and the 30 largest.")
@click.option("--csv", "as_csv", is_flag=True, help="Only the coefficients, all of them, as CSV.")
@click.option("--errors", metavar="classical|robust", help="Kind of errors [default: what the run was asked for].")
@click.option("--level", default="0.95", metavar="FRACTION", callback=_level, help="Of intervals [default: 0.95].")
@json_option
@click.pass_obj
def show(output: Output, /, run: str, show_all: bool, as_csv: bool, errors: Any, level: float) -> None:
    """State, history, coefficients in original units with their errors, and checkpoints of RUN."""
    from streamgd.show import format_csv, format_show
    from streamgd.show import show as show_run

    if as_csv:
        from streamgd.model import Model

        output.csv(format_csv(Model.load(run).coefficient_rows(errors, level)))
        return
    facts = show_run(run, show_all, errors, level)
    output.result(facts, lambda: format_show(facts))


def _show_run(output: Output, result: Any) -> None:
    """The closing summary of a run, without what was told while it went."""
    from streamgd.console import format_facts

    facts = result.to_json()
    told = ("history", "warnings", "key", "no_errors")
    empty = [name for name, value in facts.items() if value is None or (isinstance(value, dict) and not value)]
    brief = {name: value for name, value in facts.items() if name not in (*told, *empty)}
    output.result(facts, lambda: format_facts(brief))


def _evaluation_text(facts: dict[str, Any]) -> str:
    """Each metric with the base rate beside it, and the table by level."""
    from streamgd.console import format_facts, format_table

    about = ("rows", "weight", "dropped")
    metrics = [name for name in facts if name not in (*about, "by", "levels") and not name.startswith("base_")]
    rows = [[name.replace("_", " "), facts[name], facts.get(f"base_{name}")] for name in metrics]
    parts = [format_facts({name: facts[name] for name in about}), format_table(["metric", "model", "base rate"], rows)]
    if facts.get("levels"):
        names = [name for name in facts["levels"][0] if name != "level"]
        levels = [
            ["null" if level["level"] is None else str(level["level"]), *(level[name] for name in names)]
            for level in facts["levels"]
        ]
        parts.append(format_table([facts["by"], *names], levels))
    return "\n\n".join(parts)
