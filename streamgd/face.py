"""What every command has in common: where results and errors go, and how each way of ending becomes an exit code.

Standard output takes results, standard error progress and messages. Every way of ending is in ``Face.main``.
"""

from __future__ import annotations

import gc
import io
import json
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
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
    has_process : bool
        Whether the process is there for this command alone.
    telling, told : bool
        Whether the result is being told, and whether it was: what the command was asked for is done then.
    """

    def __init__(self, as_json: bool, quiet: bool, has_process: bool):
        self.run_dir: Path | None = None
        self.has_process = has_process
        self.telling = self.told = False
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
        with self._telling():
            if self._as_json:
                self._print_json(facts)
            elif not self._quiet:
                _print(text())

    def csv(self, text: str) -> None:
        """Print a result that is a table as CSV."""
        from streamgd.errors import UsageError

        if self._as_json:
            raise UsageError("--csv and --json both given. Choose one.")
        with self._telling():
            _print(text.removesuffix("\n"))

    def binary(self, content: bytes) -> None:
        """Write a result that is a file to standard output.

        Raises
        ------
        UsageError
            Standard output is to have one JSON object.
        """
        from streamgd.errors import UsageError, storage_errors

        if self._as_json:
            raise UsageError("--out - and --json both write to standard output. Choose one.")
        with self._telling(), storage_errors("write to standard output"):
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """The result is told inside; it was if that did not fail."""
        self.close()
        self.telling = True
        yield
        self.told = True

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


#: Never stopped inside: half a library can't be imported anew, and C code that calls back into compilers loses errors.
_NOT_INSIDE = {"importlib", "numba", "llvmlite"}
_PATIENCE_S = 1.0


@contextmanager
def _signals_end_the_command(output: Output) -> Iterator[None]:
    """Outside training, which has handlers of its own, SIGTERM ends the command as any other pause: exit 75.

    It and Ctrl-C stop our own code at once. A library, which may hold locks, is first given a second to return from
    what it does, and so is the reader of the result; imports and compilations are left to end. Neither signal changes
    anything once the result was told, nor while the process of the command ends after it.
    """
    patient_until_s = math.inf
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal patient_until_s
        if output.told:
            return
        callers = list(_packages(frame))
        must_end = not _NOT_INSIDE.isdisjoint(callers)
        patient_until_s = math.inf if must_end else min(patient_until_s, time.monotonic() + _PATIENCE_S)
        others_turn = output.telling or callers[:1] != ["streamgd"]
        if must_end or (others_turn and time.monotonic() < patient_until_s):
            others_alarm = signal.signal(signal.SIGALRM, lambda _, later: come_again(number, later))
            before.setdefault(signal.SIGALRM, others_alarm)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            return
        from streamgd.errors import PausedError

        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise PausedError("stopped by a signal. Run the same command again.")

    def come_again(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(number)  # by now, that of training
        if callable(handler):
            handler(number, frame)
        else:
            signal.raise_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        if before[number] != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        if signal.SIGALRM in before:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if output.has_process and output.told else handler)


def _packages(frame: FrameType | None) -> Iterator[str]:
    """The package of the code that runs in a frame, and those of its callers within the command."""
    while frame is not None and frame.f_code is not Face.main.__code__:
        yield frame.f_globals.get("__name__", "").partition(".")[0]
        frame = frame.f_back


class Command(click.Command):
    """A command. It reads files: Arrow is never given objects of pandas, and need not import it.

    Parameters
    ----------
    home : str or None
        The module that does most of the command's work.
    """

    def __init__(self, *positional: Any, home: str | None = None, **keywords: Any):
        super().__init__(*positional, **keywords)
        self._home = home

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.obj.has_process:
            _leave_pandas_alone()
            if self._home is not None:
                import_module(self._home)
            # What was imported stays, and need never be looked through for garbage; from here on there may be some.
            gc.freeze()
            gc.enable()
        return super().invoke(ctx)


class _WithoutPandas:
    """Says to those who import pandas that there is none."""

    def __enter__(self) -> None:
        sys.meta_path.insert(0, self)

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)

    def find_spec(self, name: str, *_: Any) -> None:
        """Look for a module, as those do that stand in ``sys.meta_path``; here, find none or fail."""
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not looked for here", name=name)


def _leave_pandas_alone() -> None:
    """Let Arrow look for pandas now, and find none; it looks once in a process, and to import it takes 0.3 s.

    Two parts of Arrow look: one asks whether what is to be converted is a frame or series, the other, which guesses
    types, for pandas' times and nulls. So the type of the value is left to be guessed. Other libraries find pandas
    afterwards, and Arrow does when it is to make a frame.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    with _WithoutPandas():
        pa.scalar(True)


class Commands(click.Group):
    """A group of commands."""

    command_class = Command


class Face(Commands):
    """All commands, with streamgd's errors and exit codes in place of click's."""

    def main(self, args: Sequence[str] | None = None, *positional: Any, **keywords: Any) -> Any:
        """Run a command and exit with its code."""
        arguments = list(sys.argv[1:] if args is None else args)
        before_rest = arguments[: arguments.index("--")] if "--" in arguments else arguments
        output = Output("--json" in before_rest, "--quiet" in before_rest, has_process=args is None)
        keywords |= {"standalone_mode": False, "obj": output}
        if output.has_process:
            gc.disable()  # until all is imported: to look for garbage meanwhile takes an eighth of a start
        with warnings.catch_warnings():
            if not sys.warnoptions:  # python -W … shows them to developers
                warnings.simplefilter("ignore")
            try:
                with _signals_end_the_command(output):
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


# Face.main looks for these two itself, since errors in the other arguments obey them too.
json_option = click.option("--json", is_flag=True, expose_value=False, help="Print one JSON object on standard output.")
quiet_option = click.option("--quiet", is_flag=True, expose_value=False, help="Print nothing on success.")
