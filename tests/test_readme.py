"""Every fenced code block of the README runs here, in the order of the page and in one folder, as a reader would do.

``console``   each ``$ command`` is run by bash and must end with 0 (``; echo "exit $?"`` shows another code). Each line
              shown below it must begin as a part of the output does, in the same order: four words, numbers aside; from
              a … on nothing of the line counts. In tables the numbers too must be those shown, within 2 %, unless they
              tell time or memory.
``python``    is run as a script.
``toml``      is written to the file that ``<!-- file: late.toml -->`` names, and loaded by the job loader.
``sh``        are commands to set up: what installs and what tests must be what ``.ci/run`` does, or an extra that
              exists; ``INSTEAD`` has shorter commands for the long ones; the rest is run.
``text``      shows a file or a formula; there is nothing to run. Any other language wants a file of tests of its own.

Blocks are found by their fences alone, so a new section is run without a change here. What one needs stands in a
comment on the line before it, invisible to readers:

``<!-- needs: flights, incoming, sklearn -->``   names of ``NEEDS`` below, which lay things into the folder; any other
                                                 name is a Python module or a program, and the block is skipped
                                                 without it. A block that names ``flights/`` needs the flights anyway.
``<!-- file: NAME -->``                          where a toml block is written to.
``<!-- tested by: tests/test_x.py -->``          not run here, but in this file of tests, which must exist: for blocks
                                                 that want a server.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from streamgd.jobs.config import load_job

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
SHARED = ROOT.parent / "shared" / "data" / "flights"

#: Commands that take too long to run again, and what is run in their place.
INSTEAD = {"python -m benchmarks": "python -m benchmarks --list"}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_COMMENT = re.compile(r"<!-- (needs|file|tested by): (.+?) -->\n\Z")
_NUMBER = re.compile(r"[(<]?[-+]?[\d.,]*\d(?:[eE][-+]?\d+)?[%:;,)]*")
_MACHINE = re.compile(r"second|memory|rows/s|rows per| s\b|\bMB\b|seconds", re.I)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, its text, and what the comment before it says."""

    line: int
    language: str
    text: str
    directive: str
    argument: str

    @property
    def needs(self) -> list[str]:
        named = [name.strip() for name in self.argument.split(",")] if self.directive == "needs" else []
        return ["flights", *named] if re.search(r"\bflights\b", self.text) else named


def blocks_of(page: str) -> list[Block]:
    found = []
    for match in _FENCE.finditer(page):
        comment = _COMMENT.search(page[: match.start()])
        directive, argument = comment.groups() if comment else ("", "")
        line = page.count("\n", 0, match.start()) + 1
        found.append(Block(line, match.group(1), match.group(2), directive, argument))
    return found


def commands_of(console: str) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines shown below it."""
    found: list[tuple[str, list[str]]] = []
    for line in re.sub(r"\\\n\s*", "", console).splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
    return found


# What a block needs


def _flights(folder: Path) -> None:
    if not any(SHARED.glob("*.parquet")):
        pytest.skip(f"the flights are not beside the checkout: {SHARED}")
    (folder / "flights").mkdir()
    for file in SHARED.glob("*.parquet"):
        shutil.copy(file, folder / "flights")


def _incoming(folder: Path) -> None:
    (folder / "incoming").mkdir()


def _flipped(folder: Path) -> None:
    """A year of flights whose labels are the wrong way round: what a gate is there to refuse."""
    (folder / "flipped").mkdir()
    table = pq.read_table(folder / "flights" / "2014.parquet")
    place, late = table.schema.get_field_index("late"), table["late"]
    table = table.set_column(place, "late", pc.subtract(pa.scalar(1, late.type), late))
    pq.write_table(table, folder / "flipped" / "2014.parquet")


NEEDS: dict[str, Callable[[Path], None]] = {"flights": _flights, "incoming": _incoming, "flipped": _flipped}


class Reader:
    """Somebody who follows the page from its beginning, in a folder of his own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._outcomes: dict[int, BaseException | None] = {}
        self._laid: set[str] = set()
        programs = folder.parent / "bin"
        programs.mkdir()
        for name, command in {"streamgd": f"{sys.executable} -m streamgd", "python": sys.executable}.items():
            (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (programs / name).chmod(0o755)
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._environment = {**os.environ, "PATH": path, "PYTHONPATH": python_path, "COLUMNS": "200"}

    def come_to(self, number: int) -> None:
        """Run the block, after those before it that were not run yet; raise what became of it."""
        for earlier in range(number + 1):
            if earlier not in self._outcomes:
                try:
                    self._outcomes[earlier] = None
                    self.run(BLOCKS[earlier])
                except (AssertionError, pytest.skip.Exception) as outcome:
                    self._outcomes[earlier] = outcome
        outcome = self._outcomes[number]
        if outcome is not None:
            raise outcome

    def run(self, block: Block) -> None:
        if block.directive == "tested by":
            assert (ROOT / block.argument).is_file(), f"{block.argument} is not there"
            return
        for need in block.needs:
            self._lay(need)
        getattr(self, f"_{block.language}")(block)

    def _lay(self, need: str) -> None:
        if need not in NEEDS:
            if importlib.util.find_spec(need) is None and shutil.which(need) is None:
                pytest.skip(f"{need} is not installed")
        elif need not in self._laid:
            NEEDS[need](self.folder)
            self._laid.add(need)

    def _bash(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self._environment, text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\nexit {done.returncode}"
        return done.stdout

    def _console(self, block: Block) -> None:
        for command, shown in commands_of(block.text):
            missing = first_untrue(shown, self._bash(command))
            assert missing is None, f"$ {command}\ndoes not show what line {block.line} ff. shows: {missing}"

    def _python(self, block: Block) -> None:
        (self.folder / "block.py").write_text(block.text)
        self._bash("python block.py")

    def _toml(self, block: Block) -> None:
        assert block.directive == "file", "say where it belongs: <!-- file: NAME.toml --> on the line before it"
        (self.folder / block.argument).write_text(block.text)
        load_job(self.folder / block.argument)

    def _sh(self, block: Block) -> None:
        for command in re.split(r"\s*&&\s*|\n", block.text.strip()):
            if command == "pytest" or command.startswith("pip install "):
                check_setup(command)
            else:
                self._bash(INSTEAD.get(command, command))

    def _text(self, block: Block) -> None:
        assert block.text.strip()


def check_setup(command: str) -> None:
    """What installs or tests is done by ``.ci/run``, or installs an extra that exists."""
    script = [shlex.split(line) for line in (ROOT / ".ci" / "run").read_text().splitlines() if not line.startswith("#")]
    words = shlex.split(command)
    if any([word for word in line if not word.startswith("--")] == words for line in script):
        return
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    match = re.fullmatch(r"(?:\.|streamgd)(?:\[([\w,-]+)\])?", words[-1])
    assert words[:2] == ["pip", "install"], f"{command} is not what .ci/run does"
    assert len(words) == 3
    assert match, command
    assert set((match.group(1) or "").split(",")) <= {"", *extras}, f"{command}: no such extra"


# What is shown, and what came out


def first_untrue(shown: list[str], output: str) -> str | None:
    """The first of the lines shown that has no counterpart in the output, after that of the line before it."""
    words, at = output.split(), 0
    masked = [_masked(word) for word in words]
    for line in shown:
        expected = line.split("…")[0].split()
        if not expected:
            continue
        key = [_masked(word) for word in expected[:4]]
        places = (n for n in range(at, len(words) - len(key) + 1) if masked[n : n + len(key)] == key)
        is_table = "  " in line.strip() and not _MACHINE.search(line)
        found = next((n for n in places if not is_table or _agree(expected, words[n : n + len(expected)])), None)
        if found is None:
            return f"{line!r}, in:\n{output}"
        at = found + len(key)
    return None


def _masked(word: str) -> str:
    return "#" if _NUMBER.fullmatch(word) else word


def _agree(expected: list[str], actual: list[str]) -> bool:
    return len(expected) == len(actual) and all(
        _near(one, other) if "#" == _masked(one) == _masked(other) else one == other
        for one, other in zip(expected, actual, strict=True)
    )


def _near(one: str, other: str) -> bool:
    a, b = (float(word.strip("(<%:;,)").replace(",", "")) for word in (one, other))
    return abs(a - b) <= 0.02 * abs(a) or max(abs(a), abs(b)) < 1e-4


BLOCKS = blocks_of(README.read_text())


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tmp_path_factory.mktemp("readme"))


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=[f"{each.language}-line-{each.line}" for each in BLOCKS])
def test_a_block_of_the_readme_runs_and_shows_what_comes_out(number: int, reader: Reader) -> None:
    reader.come_to(number)


def test_every_block_says_what_it_is_and_all_fences_are_seen() -> None:
    run_here = {block.language for block in BLOCKS if block.directive != "tested by"}
    assert run_here <= {"console", "python", "toml", "sh", "text"}
    assert 2 * len(BLOCKS) == len(re.findall(r"^\s*```", README.read_text(), re.M))
    assert sum(block.language == "console" for block in BLOCKS) > 3


@pytest.mark.parametrize(
    ("shown", "output", "true"),
    [
        (["rows  1,200", "…", "loss  0.455"], "rows   1,201\nmore\nloss   0.4551", True),
        (["rows  1,200"], "rows   2,400", False),
        (["loss  0.455", "rows  1,200"], "rows   1,200\nloss   0.455", False),
        (["took 3 s, 5.1 M rows/s"], "took 4 s, 2.2 M rows/s", True),
        (["a sentence that was", "wrapped here"], "a sentence that was wrapped here", True),
        (["exit 3"], "exit 3", True),
        (["total  1  MB"], "total 20 MB", True),
        (["something else"], "something", False),
        (["  a, b, …: the reason"], "a, b, c, d: the reason", True),
    ],
)
def test_lines_are_compared_by_their_words_and_tables_by_their_numbers(
    shown: list[str], output: str, true: bool
) -> None:
    assert (first_untrue(shown, output) is None) is true


def test_commands_are_told_from_what_they_show() -> None:
    assert commands_of("$ a \\\n    b\nout\n$ c\n") == [("a b", ["out"]), ("c", [])]
