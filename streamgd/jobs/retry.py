"""Asking storage again: what fails for the moment is tried again after growing pauses, within a time."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from streamgd.errors import PausedError, StorageError
from streamgd.training.display import Display

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
_POLL_S = 0.2
#: Numbers of operating-system errors that may be gone a moment later; object stores give none.
_TRANSIENT = {
    None, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED,
    errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENOTCONN,
    errno.EPIPE, errno.EREMOTEIO,
}  # fmt: skip


def is_transient(error: StorageError) -> bool:
    """Whether storage may answer if it is asked again: a full disk will not."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _TRANSIENT


def retrying(work: Callable[[], T], retry_for_s: float, check: Callable[[], None], display: Display) -> T:
    """Do ``work``; where storage does not answer, again, after 1, 2, 4 … seconds and at most a minute.

    Parameters
    ----------
    work : callable
        May be called several times.
    retry_for_s : float
        How long, from the first failure on; counted anew after each success.
    check : callable
        Called while waiting; raises to stop.

    Raises
    ------
    PausedError
        Storage stayed unavailable.
    """
    pause_s, deadline_s = FIRST_PAUSE_S, 0.0
    while True:
        try:
            return work()
        except StorageError as error:
            if not is_transient(error):
                raise
            now_s = time.monotonic()
            deadline_s = deadline_s or now_s + retry_for_s
            if now_s + pause_s > deadline_s:
                raise PausedError(
                    f"storage stayed unavailable for {retry_for_s:g} s: {error} The next run goes on."
                ) from error
            display.warn(f"{error} Asking again in {pause_s:g} s.")
        wake_s = time.monotonic() + pause_s
        while time.monotonic() < wake_s:
            check()
            time.sleep(_POLL_S)
        pause_s = min(2.0 * pause_s, LONGEST_PAUSE_S)
