"""What a command ends with when it does not succeed: one line, one exit code, and a traceback only in a file."""

from __future__ import annotations

import errno
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

import click

from streamgd.console import one_line
from streamgd.credentials import without_credentials
from streamgd.errors import InterruptedRunError, StreamgdError, UsageError, from_os_error


def explain(error: BaseException, run_dir: Path | None = None) -> StreamgdError:
    """The streamgd error for whatever ended a command; a defect leaves its traceback in a file.

    Parameters
    ----------
    run_dir : Path, optional
        Where the traceback is written if it exists, else the folder for temporary files.
    """
    if isinstance(error, StreamgdError):
        return error
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return InterruptedRunError("interrupted.")
    if isinstance(error, click.ClickException):
        return UsageError(_usage(error))
    # What storage answers may come through from a library; a file that is missing there is a defect of ours.
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
        return from_os_error(error, f"use {error.filename or 'a file'}")
    return _defect(error, run_dir)


def _usage(error: click.ClickException) -> str:
    """click's message in the form of ours: no capital, and where to find help."""
    command = "streamgd"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        command = error.ctx.command_path
    message = one_line(error.format_message())
    return f"{message[:1].lower()}{message[1:]} See {command} --help."


def _defect(error: BaseException, run_dir: Path | None) -> StreamgdError:
    file = _write_traceback(error, run_dir)
    report = f"Please report it{f' with {file}' if file else ''}; checkpoints are whole."
    if isinstance(error, MemoryError):
        return StreamgdError(f"out of memory. Lower --memory or --threads and run the same command again. {report}")
    return StreamgdError(f"a defect of streamgd: {type(error).__name__}: {one_line(str(error))[:300]}. {report}")


def _write_traceback(error: BaseException, run_dir: Path | None) -> Path | None:
    """The file that holds the traceback, or None when no folder takes it."""
    from streamgd.version import version

    text = without_credentials("".join(traceback.format_exception(error)))
    text += f"\nstreamgd {version()}, Python {sys.version}, {sys.platform}\n"
    for folder in (run_dir, Path(tempfile.gettempdir())):
        if folder is not None and folder.is_dir():
            with suppress(OSError):
                descriptor, name = tempfile.mkstemp(prefix="traceback-", suffix=".txt", dir=folder)
                with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(text)
                return Path(name)
    return None
