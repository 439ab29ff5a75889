"""Shell completion: click's, for commands, options, their values and paths, without anything heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from streamgd.cli import main

ROOT = Path(__file__).parent.parent
PROGRAM = "import sys; sys.argv = ['streamgd']\nfrom streamgd.cli import main\nmain(prog_name='streamgd')"


def completed(*typed: str) -> list[tuple[str, str]]:
    """Type and value of what is offered in place of the last word."""
    *before, last = typed
    offered = ShellComplete(main, {}, "streamgd", "_STREAMGD_COMPLETE").get_completions(list(before), last)
    return [(each.type, each.value) for each in offered]


def test_commands_and_options_are_offered() -> None:
    assert ("plain", "train") in completed("t")
    assert ("plain", "--shuffle") in completed("train", "--sh")
    assert ("plain", "--from") in completed("train", "--fr")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (("train", "--shuffle", "w"), ["window"]),
        (("train", "--dtype", ""), ["float32", "float64"]),
        (("export", "run", "--to", ""), ["onnx", "sklearn", "json"]),
        (("evaluate", "run", "data", "--part", "h"), ["holdout"]),
        (("show", "run", "--errors", "r"), ["robust"]),
    ],
)
def test_values_of_a_choice_are_offered(typed: tuple[str, ...], offered: list[str]) -> None:
    assert completed(*typed) == [("plain", value) for value in offered]


@pytest.mark.parametrize(
    "typed",
    [
        ("train", "fl"),
        ("train", "--run", "fl"),
        ("train", "--from", "fl"),
        ("train", "--validation", "fl"),
        ("predict", "fl"),
        ("predict", "run", "data", "--out", "fl"),
        ("compare", "run", "run", "--on", "fl"),
        ("export", "run", "--out", "fl"),
        ("job", "run", "fl"),
    ],
)
def test_paths_are_left_to_the_shell(typed: tuple[str, ...]) -> None:
    assert completed(*typed) == [("file", "fl")]


def run_shell(instruction: str, **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_STREAMGD_COMPLETE": instruction, **variables}
    command = [sys.executable, "-X", "importtime", "-c", PROGRAM]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert not {"numpy", "pyarrow", "numba"} & {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    return result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    assert "_STREAMGD_COMPLETE" in run_shell(f"{shell}_source")


def test_options_are_completed_without_anything_heavy() -> None:
    offered = run_shell("bash_complete", COMP_WORDS="streamgd train --sh", COMP_CWORD="2")

    assert offered.splitlines() == ["plain,--shuffle"]
