"""Signals outside training: where they end a command, and what they are kept from breaking."""

from __future__ import annotations

import importlib
import signal
import sys
import time
from pathlib import Path

import click
import pytest

from streamgd import face

SWALLOWS = """
import signal, time
try:
    signal.raise_signal(signal.{name})
    time.sleep(0.05)
except BaseException:
    pass
whole = True
"""


def ended(command: click.Command) -> int:
    """The exit code of a command of ours."""
    group = face.Face(commands={"it": command})
    with pytest.raises(SystemExit) as end:
        group.main(["it"])
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_waits_for_the_end_of_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    (tmp_path / f"swallows_{name}.py").write_text(SWALLOWS.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(face, "_PATIENCE_S", 0.02)

    @click.command()
    def it() -> None:
        assert importlib.import_module(f"swallows_{name}").whole
        time.sleep(10)

    assert ended(it) == code
    assert sys.modules.pop(f"swallows_{name}").whole


def test_a_library_has_a_while_to_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "_PATIENCE_S", 0.1)
    steps = []

    @click.command()
    def it() -> None:
        signal.raise_signal(signal.SIGTERM)
        steps.append("after the signal")
        time.sleep(10)
        steps.append("after the wait")

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)
    assert ended(it) == 75
    assert steps == ["after the signal"]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)) == before


def test_a_signal_that_waits_goes_to_the_handler_of_that_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = []

    @click.command()
    def it() -> None:
        signal.raise_signal(signal.SIGTERM)
        handler = signal.signal(signal.SIGTERM, lambda number, _: noted.append(number))
        time.sleep(0.1)
        signal.signal(signal.SIGTERM, handler)

    assert ended(it) == 0
    assert noted == [signal.SIGTERM]


def test_an_ignored_interrupt_stays_ignored() -> None:
    """As of a command that a shell put in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    @click.command()
    def it() -> None:
        signal.raise_signal(signal.SIGINT)

    try:
        assert ended(it) == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_command_that_an_import_begins_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "begins.py").write_text("from test_face import ended, sleeps\ncode = ended(sleeps)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(face, "_PATIENCE_S", 0.02)
    assert importlib.import_module("begins").code == 75
    del sys.modules["begins"]


@click.command()
def sleeps() -> None:
    signal.raise_signal(signal.SIGTERM)
    time.sleep(10)


def test_the_alarm_of_others_goes_on() -> None:
    signal.setitimer(signal.ITIMER_REAL, 60.0)
    try:
        assert ended(click.Command("it", callback=lambda: None)) == 0
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 50.0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
