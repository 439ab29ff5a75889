"""Signals become a question that the loops ask; a second one ends the process at once."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from streamgd.errors import InterruptedRunError, PausedError
from streamgd.training.interrupt import Interrupt

SIGNALS = (signal.SIGINT, signal.SIGTERM)

SCRIPT = """
import os, signal, sys, time
from streamgd.errors import StreamgdError
from streamgd.training.interrupt import Interrupt

number, times = int(sys.argv[1]), int(sys.argv[2])
with Interrupt() as interrupt:
    interrupt.check()
    for _ in range(times):
        os.kill(os.getpid(), number)
    time.sleep(0.05)
    print("still here", flush=True)
    try:
        interrupt.check()
    except StreamgdError as error:
        print(type(error).__name__)
        sys.exit(error.exit_code)
"""


def run(number: int, times: int) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", SCRIPT, str(int(number)), str(times)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("number", "name", "code"), [(signal.SIGINT, "InterruptedRunError", 130), (signal.SIGTERM, "PausedError", 75)]
)
def test_a_signal_is_asked_for_and_ends_with_its_exit_code(number: int, name: str, code: int) -> None:
    found = run(number, 1)

    assert found.stdout.split("\n")[:2] == ["still here", name]
    assert found.returncode == code
    assert found.stderr == ""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_at_once(number: int) -> None:
    found = run(number, 2)

    assert found.returncode == -number
    assert "still here" not in found.stdout


def test_the_handlers_before_come_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interrupt() as interrupt:
        during = [signal.getsignal(number) for number in SIGNALS]
        assert all(handler is not old for handler, old in zip(during, before, strict=True))
        os.kill(os.getpid(), signal.SIGTERM)
        assert isinstance(interrupt.requested(), PausedError)

    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_is_remembered_until_it_is_asked_for() -> None:
    with Interrupt() as interrupt:
        assert interrupt.requested() is None
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(2):
            assert isinstance(interrupt.requested(), InterruptedRunError)
        with pytest.raises(InterruptedRunError):
            interrupt.check()


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    found: list[object] = []

    def enter() -> None:
        with Interrupt() as interrupt:
            found.extend(signal.getsignal(number) for number in SIGNALS)
            found.append(interrupt.requested())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()

    assert found == [*before, None]


def test_the_time_to_pause_comes() -> None:
    interrupt = Interrupt(pause_after_s=0.02)
    assert interrupt.requested() is None
    interrupt.check()
    time.sleep(0.03)

    assert isinstance(interrupt.requested(), PausedError)
    assert "--pause-after" in str(interrupt.requested())


def test_a_pause_waits_for_progress_where_all_would_be_done_again() -> None:
    interrupt = Interrupt(pause_after_s=0.0)
    time.sleep(0.001)
    interrupt.check_repeated()
    interrupt.progressed = True
    with pytest.raises(PausedError, match="--pause-after"):
        interrupt.check_repeated()


def test_a_signal_waits_for_nothing() -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(PausedError, match="signal"):
            interrupt.check_repeated()


def test_the_most_time_is_told_apart_from_a_pause() -> None:
    interrupt = Interrupt(max_time_s=0.02)
    assert not interrupt.time_is_over
    time.sleep(0.03)

    assert interrupt.time_is_over
    assert interrupt.requested() is None
    assert interrupt.elapsed_s >= 0.03


def test_what_waits_for_loops_is_not_stopped_once_a_stop_is_under_way() -> None:
    interrupt = Interrupt(pause_after_s=0.0)
    interrupt.progressed = True
    with pytest.raises(PausedError):
        interrupt.check_unless_noticed()
    interrupt.check_unless_noticed()
    with pytest.raises(PausedError):
        interrupt.check()
