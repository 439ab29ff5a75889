"""The pages below ``docs`` speak of code that is there: quoted lines occur in their files, named functions exist.

``.ci/run`` builds the pages with warnings as errors.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import streamgd
from streamgd import estimators

ROOT = Path(__file__).resolve().parents[1]
TEXTBOOK = (ROOT / "docs" / "textbook.md").read_text()
MATHEMATICS = (ROOT / "docs" / "mathematics.md").read_text()

#: Of the textbook page: (file, line) for each line quoted.
QUOTED = [
    (file, line)
    for file, lines in re.findall(r"^```python\n# (\S+)\n(.*?)^```$", TEXTBOOK, re.M | re.S)
    for line in lines.splitlines()
]
#: Of the page on mathematics: (file, name) for each name after "In code:".
NAMED = [
    (file, name)
    for file, names in re.findall(r"`(streamgd/[\w/]+\.py)`:\s+(`\w+`(?:,\s+`\w+`)*)", MATHEMATICS)
    for name in re.findall(r"\w+", names)
]


@pytest.mark.parametrize(("file", "line"), QUOTED)
def test_each_line_that_the_textbook_page_quotes_occurs_in_its_file(file: str, line: str) -> None:
    assert line.strip() in [each.strip() for each in (ROOT / file).read_text().splitlines()]


def test_every_code_block_of_the_textbook_page_names_its_file() -> None:
    assert TEXTBOOK.count("```") == 2 * len(re.findall(r"^```python\n# streamgd/\S+\n", TEXTBOOK, re.M))
    assert len(QUOTED) > 30


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_each_function_that_the_page_on_mathematics_names_is_in_its_file(file: str, name: str) -> None:
    nodes = ast.walk(ast.parse((ROOT / file).read_text()))
    assert name in {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_each_section_of_the_page_on_mathematics_names_its_code() -> None:
    sections = MATHEMATICS.split("\n## ")[1:]
    assert all("In code: `streamgd/" in section for section in sections)
    assert len(NAMED) > 50


def test_the_reference_has_every_public_name() -> None:
    reference = (ROOT / "docs" / "api.md").read_text()
    assert [name for name in streamgd.__all__ if f":: streamgd.{name}\n" not in reference] == []
    assert [name for name in estimators.__all__ if f":: streamgd.estimators.{name}\n" not in reference] == []


def test_the_reference_has_what_public_functions_return() -> None:
    reference = (ROOT / "docs" / "api.md").read_text()
    functions = filter(inspect.isfunction, (getattr(streamgd, name) for name in streamgd.__all__))
    returned = {inspect.signature(each).return_annotation for each in functions} - {"Any", "Figure", "dict[str, Any]"}
    assert {"Comparison", "Diagnosis", "Evaluation", "Model", "Result"} <= returned
    assert [name for name in returned if not re.search(rf":: streamgd\.[\w.]*\b{name}\n", reference)] == []
    assert re.search(r"streamgd\.Model\n +:members: .*\bto_json\b", reference)


def test_the_reference_has_every_error() -> None:
    reference = (ROOT / "docs" / "api.md").read_text()
    tree = ast.parse((ROOT / "streamgd" / "errors.py").read_text())
    errors = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert [name for name in errors if not re.search(rf"\b{name}\b", reference)] == []
