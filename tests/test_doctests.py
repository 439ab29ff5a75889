"""Every example in a docstring runs as it stands, in the package as it is installed."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import data_gen
import streamgd

MODULES = [
    module.name
    for package in (streamgd, data_gen)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", ["streamgd", "data_gen", *MODULES])
def test_the_examples_of_a_module_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    found = [
        len(each.examples) for name in MODULES for each in doctest.DocTestFinder().find(importlib.import_module(name))
    ]
    assert sum(found) > 20
