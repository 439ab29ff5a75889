"""The exceptions of streamgd, one per way of ending, each with the exit code of the command line::

    StreamgdError                      70  a defect of streamgd, when raised as itself
     ├── UsageError                     2  a wrong option or argument
     ├── GateError                      3  a candidate was refused; what is published stays
     ├── RunLockedError                 4  another process works in the run directory
     ├── DataError                     65  the data cannot be trained on as they are
     │    ├── CorruptFileError         65  not Parquet, cut short, or a checksum that does not hold
     │    ├── SchemaError              65  a column type without a mapping, or files that disagree
     │    ├── TargetError              65  the target does not suit the loss
     │    ├── DataChangedError         65  a file is not the one the run began with
     │    └── DivergenceError          65  the loss kept rising however small the step
     ├── NoInputError                  66  no file, no rows
     ├── StorageError                  74  disk full, or a device failed
     ├── PausedError                   75  stopped at a checkpoint; the same command goes on
     │    ├── ClusterLostError         75  the cluster does not answer; the same command goes on
     │    └── UnavailableError         75  the store does not answer; the same command goes on
     ├── AccessError                   77  permission or credentials refused
     ├── ConfigError                   78  an option's value, or options that contradict each other
     │    └── RunMismatchError         78  the run directory belongs to another configuration
     └── InterruptedRunError          130  Ctrl-C, after a checkpoint

``DataError`` and ``ConfigError`` are ``ValueError`` too, as Python programs expect of wrong values.

Every message is one line: what failed and where; what was expected and what was found; what to do next.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from streamgd.credentials import without_credentials


class StreamgdError(Exception):
    """Base of all errors that streamgd raises on purpose. Credentials in URIs are left out of the message."""

    exit_code = 70

    def __init__(self, message: str = ""):
        super().__init__(without_credentials(message))


class UsageError(StreamgdError):
    """An option or argument that does not exist or cannot be parsed."""

    exit_code = 2


class GateError(StreamgdError):
    """The gate of a job refused a candidate; what is published stays."""

    exit_code = 3


class RunLockedError(StreamgdError):
    """Another process holds the run directory."""

    exit_code = 4


class DataError(StreamgdError, ValueError):
    """The data cannot be trained on as they are; names file, row group and column where known."""

    exit_code = 65


class CorruptFileError(DataError):
    """A file that is not Parquet, is cut short, or whose checksum does not hold.

    Parameters
    ----------
    problem : str
        What is wrong, and where.
    advice : str
        What to do about it, for who did not ask to pass such files over.
    """

    def __init__(self, problem: str, advice: str = ""):
        super().__init__(f"{problem} {advice}".strip())
        self.problem = without_credentials(problem)


class SchemaError(DataError):
    """A column whose type has no mapping to features, or files whose schemas disagree."""


class TargetError(DataError):
    """A target that does not suit the loss: one class, too many classes, outside the domain."""


class DataChangedError(DataError):
    """A file is not the one the run began with."""


class DivergenceError(DataError):
    """The loss kept rising or became non-finite, however small the step was made."""


class NoInputError(StreamgdError):
    """No file, no Parquet in the directory, or no rows."""

    exit_code = 66


class StorageError(StreamgdError):
    """Writing or reading failed: disk full, device error."""

    exit_code = 74


class PausedError(StreamgdError):
    """The run stopped at a checkpoint (signal, ``--pause-after``); the same command goes on."""

    exit_code = 75


class ClusterLostError(PausedError):
    """The scheduler or all workers of a Dask cluster do not answer; the same command goes on."""


class UnavailableError(PausedError):
    """A store (S3 and the like) does not answer, though it was asked again for a while; the same command goes on."""


class AccessError(StreamgdError):
    """Permission or credentials were refused."""

    exit_code = 77


class ConfigError(StreamgdError, ValueError):
    """An option's value is out of range, or options contradict each other or the data."""

    exit_code = 78


class RunMismatchError(ConfigError):
    """The run directory belongs to another configuration or another data set."""


class OtherBlocksError(RunMismatchError):
    """The run is in the middle of an epoch, in blocks of other rows, as those of another version may be."""


class InterruptedRunError(StreamgdError):
    """Ctrl-C; a checkpoint was written first."""

    exit_code = 130


_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# The path itself is wrong: a file where a folder should be, or the other way round.
_WRONG_PATH = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}


def from_os_error(error: OSError, what: str, hint: str = "") -> StreamgdError:
    """The streamgd error for an operating-system error met while doing ``what``.

    Parameters
    ----------
    error : OSError
        As raised by the operating system.
    what : str
        What was being done, with the path, for example ``"write checkpoint runs/late/checkpoints"``.
    hint : str
        What the user can do next, appended to the message.
    """
    reason = error.strerror or str(error)
    tail = f" {hint}" if hint else ""
    if error.errno in _REFUSED:
        return AccessError(f"cannot {what}: {reason}.{tail or ' Grant access, or choose another place.'}")
    if error.errno == errno.ENOENT:
        return NoInputError(f"cannot {what}: {reason}.{tail or ' Check the path.'}")
    if error.errno in _WRONG_PATH:
        return ConfigError(f"cannot {what}: {reason}.{tail or ' Name another path.'}")
    if error.errno in _FULL:
        return StorageError(f"cannot {what}: {reason}.{tail or ' Free some space and run the same command again.'}")
    return StorageError(f"cannot {what}: {reason}.{tail or ' Run the same command again once storage answers.'}")


@contextmanager
def storage_errors(what: str, hint: str = "") -> Iterator[None]:
    """Turn any ``OSError`` inside the block into the streamgd error for it."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, what, hint) from error


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint for a misspelt name: the nearest known one, or the list of all when that is short.

    >>> did_you_mean("lat", ["late", "month"])
    "Did you mean 'late'?"
    """
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    if close:
        return f"Did you mean '{close[0]}'?"
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return f"Known: {shown}."
