"""The display: plain lines seldom, a bar on a terminal, silence when quiet or when nobody reads; and tables."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from streamgd import console
from streamgd.console import ConsoleDisplay, PlainLines, format_duration, format_facts, format_table, make_display
from streamgd.training.display import Display

ROOT = Path(__file__).parent.parent


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be set by the test."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def plain(stream: io.StringIO) -> ConsoleDisplay:
    display: Display = ConsoleDisplay(PlainLines(stream))  # mypy: it is a Display
    assert isinstance(display, ConsoleDisplay)
    return display


class TestPlainLines:
    def test_a_message_is_one_line_and_keeps_its_indentation(self, stream: io.StringIO) -> None:
        plain(stream).message("  distance: a number\nsecond")
        assert stream.getvalue() == "  distance: a number second\n"

    def test_progress_is_told_at_most_every_ten_seconds(self, stream: io.StringIO, clock: list[float]) -> None:
        display = plain(stream)
        for tenth in range(251):
            clock[0] = 100.0 + tenth / 10
            display.progress("epoch 1/5", 1000 * tenth, 1_000_000, 0.5)
        assert stream.getvalue().splitlines() == [
            "epoch 1/5: 100,000 of 1,000,000 rows, 10,000 rows/s, loss 0.5, ETA 1 min 30 s",
            "epoch 1/5: 200,000 of 1,000,000 rows, 10,000 rows/s, loss 0.5, ETA 1 min 20 s",
        ]

    def test_the_end_of_a_phase_is_told_once(self, stream: io.StringIO, clock: list[float]) -> None:
        display = plain(stream)
        display.progress("prepare", 0, 3000, None)
        clock[0] += 2.0
        display.progress("prepare", 3000, 3000, None)
        display.progress("prepare", 3000, 3000, None)
        display.close()
        display.close()
        assert stream.getvalue() == "prepare: 3,000 rows in 2.00 s, 1,500 rows/s\n"

    def test_a_new_phase_ends_the_one_before_with_its_latest_numbers(
        self, stream: io.StringIO, clock: list[float]
    ) -> None:
        display = plain(stream)
        display.progress("epoch 1/2", 0, 5000, None)
        clock[0] += 1.0
        display.progress("epoch 1/2", 4900, 5000, 0.25)  # rows were dropped: the total is never reached
        display.progress("epoch 2/2", 0, 5000, None)
        assert stream.getvalue() == "epoch 1/2: 4,900 rows in 1.00 s, 4,900 rows/s, loss 0.25\n"

    def test_an_unknown_total_shows_no_eta(self, stream: io.StringIO, clock: list[float]) -> None:
        display = plain(stream)
        display.progress("predict", 0, 0, None)
        clock[0] += 20.0
        display.progress("predict", 100, 0, None)
        assert stream.getvalue() == "predict: 100 rows, 5 rows/s\n"

    def test_the_rate_of_a_resumed_phase_counts_only_its_own_rows(
        self, stream: io.StringIO, clock: list[float]
    ) -> None:
        display = plain(stream)
        display.progress("epoch 1/5", 900_000, 1_000_000, None)
        clock[0] += 10.0
        display.progress("epoch 1/5", 910_000, 1_000_000, None)
        assert stream.getvalue() == "epoch 1/5: 910,000 of 1,000,000 rows, 1,000 rows/s, ETA 1 min 30 s\n"

    def test_hundreds_of_short_passes_fill_no_log_but_the_last_one_is_told(
        self, stream: io.StringIO, clock: list[float]
    ) -> None:
        display = plain(stream)
        for number in range(1, 301):
            clock[0] += 0.01
            display.progress(f"pass {number}", 1000, 1000, 0.5)
        display.close()
        lines = stream.getvalue().splitlines()
        assert len(lines) == console.MANY_PHASES + 1
        assert lines[-1] == "pass 300: 1,000 rows, loss 0.5"

    def test_a_phase_in_which_nothing_was_counted_leaves_no_line(self, stream: io.StringIO) -> None:
        display = plain(stream)
        display.progress("evaluate", 0, 0, None)
        display.close()
        assert stream.getvalue() == ""


class TestWarnings:
    def test_they_are_shown_and_kept_once(self, stream: io.StringIO) -> None:
        display = plain(stream)
        for text in ("column 'id' is left out", "column 'id' is left out", "integers beyond 2^53"):
            display.warn(text)
        assert display.warnings == ["column 'id' is left out", "integers beyond 2^53"]
        assert stream.getvalue() == "warning: column 'id' is left out\nwarning: integers beyond 2^53\n"

    def test_quiet_keeps_them_and_prints_nothing(self, capfd: pytest.CaptureFixture[str]) -> None:
        display = make_display(quiet=True)
        display.message("a message")
        display.warn("a warning")
        display.progress("prepare", 10, 10, None)
        display.close()
        assert display.warnings == ["a warning"]
        assert capfd.readouterr() == ("", "")


class TestAStreamThatCannotBeWrittenTo:
    def test_it_silences_the_display_and_ends_nothing(self) -> None:
        class BrokenPipe(io.StringIO):
            writes = 0

            def write(self, text: str) -> int:
                self.writes += 1
                raise BrokenPipeError

        stream = BrokenPipe()
        display = plain(stream)
        display.message("one")
        display.warn("two")
        display.progress("prepare", 10, 10, None)
        display.close()
        assert (display.warnings, stream.writes) == (["two"], 1)

    def test_a_process_without_standard_error_has_a_silent_display(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stderr", None)
        make_display(quiet=False).message("nobody hears it")


class TestThreads:
    def test_progress_from_many_threads_gives_whole_lines_and_one_end(self, stream: io.StringIO) -> None:
        display = plain(stream)

        def work(thread: int) -> None:
            for step in range(2000):
                display.progress("prepare", 1 + step, 1_000_000, None)
                if step % 500 == 0:
                    display.message(f"thread {thread} step {step}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        display.close()
        lines = stream.getvalue().splitlines()
        assert len([line for line in lines if re.fullmatch(r"thread \d step \d+", line)]) == 16
        assert len([line for line in lines if line.startswith("prepare: ")]) == 1
        assert len(lines) == 17

    def test_progress_that_is_told_often_is_written_seldom(self, stream: io.StringIO) -> None:
        display = plain(stream)
        for step in range(20_000):
            display.progress("prepare", step, 10**9, 0.5)
        assert len(stream.getvalue().splitlines()) <= 2


_TERMINAL_PROGRAM = """
import time
from streamgd import console
console.BAR_INTERVAL_S = 0.0
console.LiveBar.interval_s = 0.0
display = console.make_display(quiet=False)
display.message("before [bold]")
for done in (0, 250, 500):
    display.progress("epoch 1/5", done, 1000, 0.4567)
    time.sleep(0.01)
display.warn("a [red] warning")
display.close()
"""


def test_a_terminal_gets_a_live_bar_and_its_cursor_back() -> None:
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", _TERMINAL_PROGRAM], stderr=terminal, stdout=subprocess.PIPE, env=environment
    )
    out, _ = process.communicate(timeout=60)
    os.close(terminal)
    screen = b""
    while True:
        try:
            part = os.read(controller, 65536)
        except OSError:  # Linux's end of file of a terminal
            break
        if not part:
            break
        screen += part
    os.close(controller)
    text = screen.decode()
    assert (process.returncode, out) == (0, b"")
    assert "before [bold]" in text
    assert "warning: a [red] warning" in text
    assert "500 of 1,000 rows" in text
    assert "loss 0.4567" in text
    assert "━" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


class TestTables:
    def test_durations(self) -> None:
        assert [format_duration(s) for s in (0.04, 9.996, 59.94, 59.96, 3599.6, 7380)] == [
            "0.04 s", "10.0 s", "59.9 s", "1 min 0 s", "1 h 0 min", "2 h 3 min",
        ]  # fmt: skip

    def test_facts_are_aligned_and_the_users_names_stay_as_they_are(self) -> None:
        text = format_facts({"train_rows": 1000, "columns": {"dep_time": "a number"}, "left_out": {}, "ok": True})
        assert text.splitlines() == ["train rows  1,000", "columns", "  dep_time  a number", "ok          yes"]

    def test_what_is_empty_has_no_line_and_a_long_list_has_many(self) -> None:
        text = format_facts({"notes": [], "dropped": {}, "data": ["a" * 50, "b" * 50]})
        assert text.splitlines() == ["data  " + "a" * 50, "      " + "b" * 50]

    def test_an_empty_table_is_its_header(self) -> None:
        assert format_table(["a", "b"], []) == "a  b"
