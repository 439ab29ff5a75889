"""Storage that does not answer is asked again; a full disk is not."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from streamgd.errors import PausedError, StorageError, from_os_error
from streamgd.jobs import retry
from streamgd.jobs.retry import retrying
from streamgd.training.display import Silent


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only sleeping moves; its reading is the first item."""
    now = [0.0]
    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def failing(times: int, number: int | None = errno.EIO) -> Callable[[], str]:
    left = [times]

    def work() -> str:
        if left[0] > 0:
            left[0] -= 1
            cause = OSError(number, "broken") if number is not None else OSError("AWS Error SLOW_DOWN")
            raise from_os_error(cause, "read x") from cause
        return "done"

    return work


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT, None])
def test_it_is_asked_again_after_growing_pauses(clock: list[float], number: int | None) -> None:
    assert retrying(failing(4, number), 60.0, lambda: None, Silent()) == "done"
    assert clock[0] == pytest.approx(1 + 2 + 4 + 8, abs=1.0)


def test_a_full_disk_is_not_asked_again(clock: list[float]) -> None:
    with pytest.raises(StorageError, match="broken"):
        retrying(failing(1, errno.ENOSPC), 60.0, lambda: None, Silent())
    assert clock[0] == 0.0


def test_in_the_end_the_next_run_goes_on(clock: list[float]) -> None:
    with pytest.raises(PausedError, match="storage stayed unavailable for 60 s: cannot read x: broken"):
        retrying(failing(10**6), 60.0, lambda: None, Silent())
    assert clock[0] <= 60.0


def test_a_signal_ends_the_waiting(clock: list[float]) -> None:
    def check() -> None:
        if clock[0] > 5.0:
            raise PausedError("stopped")

    with pytest.raises(PausedError, match="stopped"):
        retrying(failing(10**6), 1e9, check, Silent())
    assert clock[0] < 6.0
