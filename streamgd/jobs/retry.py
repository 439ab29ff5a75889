"""Asking storage again: what fails for the moment is tried again after growing pauses, within a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from streamgd.data.storage_failures import is_transient
from streamgd.errors import PausedError, StorageError, UnavailableError
from streamgd.training.display import Display

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
_POLL_S = 0.2


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
        started_s = time.monotonic()
        try:
            return work()
        except (StorageError, UnavailableError) as error:
            if isinstance(error, StorageError) and not _may_pass(error):
                raise
            now_s = time.monotonic()
            if now_s - started_s > retry_for_s:  # storage had answered for long
                pause_s, deadline_s = FIRST_PAUSE_S, 0.0
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


def _may_pass(error: StorageError) -> bool:
    """Whether storage may answer if it is asked again: a full disk will not."""
    return isinstance(error.__cause__, OSError) and is_transient(error.__cause__)
