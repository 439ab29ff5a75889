"""Asking a store again: what fails for the moment is asked again after growing pauses, within a time.

Each request is asked again by itself, below decoding, so that whoever reads sees a slow answer and no failure: what is
trained is the same. The clients' own few retries come before these; an overload outlives them.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from streamgd.data.storage_failures import is_transient, one_line
from streamgd.errors import StreamgdError, UnavailableError

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 15.0
#: From the first failure of a request to its last.
ASK_FOR_S = 120.0
_POLL_S = 0.1

#: Set where a signal asks the process to stop: then nobody waits for a store.
stop_asking = threading.Event()

_of_thread = threading.local()


def is_local(store: fs.FileSystem) -> bool:
    """Whether the operating system is asked; it has retries of its own where it has a network below."""
    while isinstance(store, fs.SubTreeFileSystem):
        store = store.base_fs
    return isinstance(store, fs.LocalFileSystem)


@contextmanager
def asking_unless(stopped: Callable[[], bool]) -> Iterator[None]:
    """Context in which this thread asks a store again only until ``stopped()``."""
    _of_thread.stopped = stopped
    try:
        yield
    finally:
        del _of_thread.stopped


def ask(store: fs.FileSystem, what: str, call: Callable[[], T]) -> T:
    """What ``call`` gives; where the store does not answer, called again and again, unless the store is local.

    Parameters
    ----------
    what : str
        What is being done, for the message: ``"read bucket/a.parquet"``.
    call : callable
        May be called several times.

    Raises
    ------
    UnavailableError
        The store did not answer for ``ASK_FOR_S``, or not before the process was asked to stop.
    OSError
        What asking again does not mend.
    """
    if is_local(store):
        return call()
    pause_s, deadline_s = FIRST_PAUSE_S, 0.0
    while True:
        try:
            return call()
        except (StreamgdError, pa.ArrowException):
            raise
        except Exception as error:
            failure = _os_error(error)
            if failure is None:
                raise
            if not is_transient(failure):
                if failure is error:
                    raise
                raise failure from error
        now_s = time.monotonic()
        deadline_s = deadline_s or now_s + ASK_FOR_S
        if now_s + pause_s > deadline_s or not _wait(now_s + pause_s):
            advice = "Run the same command again once it answers."
            raise UnavailableError(f"cannot {what}: the store does not answer ({one_line(failure)}). {advice}")
        pause_s = min(2.0 * pause_s, LONGEST_PAUSE_S)


def _os_error(error: Exception) -> OSError | None:
    """The error as one of storage, whatever a store's library raises; None where it is a defect."""
    text = str(error)
    if "NO_SUCH_KEY" in text or "NoSuchKey" in text:
        return FileNotFoundError(errno.ENOENT, text)
    if isinstance(error, OSError):
        return error
    return None if type(error).__module__ == "builtins" else OSError(f"{type(error).__name__}: {text}")


def _wait(until_s: float) -> bool:
    """Wait, unless asked to stop; whether to go on asking."""
    stopped: Callable[[], bool] = getattr(_of_thread, "stopped", lambda: False)
    while time.monotonic() < until_s:
        if stopped() or stop_asking.is_set():
            return False
        time.sleep(_POLL_S)
    return True
