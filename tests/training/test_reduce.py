"""Sums by a fixed tree: neither threads nor the order of arrival change a bit, and errors come through."""

import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgd.training.reduce import tree_reduce


def plus(a: str, b: str) -> str:
    return f"({a}{b})"


def tree_of(leaves: list[str]) -> str:
    """Neighbours in pairs, level after level; one left over goes up as it is."""
    while len(leaves) > 1:
        pairs = [plus(*leaves[i : i + 2]) for i in range(0, len(leaves) - 1, 2)]
        leaves = pairs + ([leaves[-1]] if len(leaves) % 2 else [])
    return leaves[0]


def test_small_trees_worked_by_hand() -> None:
    shapes = {1: "a", 2: "(ab)", 3: "((ab)c)", 4: "((ab)(cd))", 5: "(((ab)(cd))e)", 6: "(((ab)(cd))(ef))"}
    for n, shape in shapes.items():
        assert (
            tree_reduce(lambda _, leaf: leaf, None, list("abcdef"[:n]), plus, 2) == shape == tree_of(list("abcdef"[:n]))
        )


@settings(max_examples=25)
@given(n=st.integers(1, 40), threads=st.integers(1, 4), seed=st.integers(0, 1000))
def test_the_tree_depends_on_the_number_of_chunks_alone(n: int, threads: int, seed: int) -> None:
    delays = np.random.default_rng(seed).uniform(0.0, 0.002, n)

    def task(_: Any, chunk: int) -> str:
        time.sleep(delays[chunk])
        return f"<{chunk}>"

    assert tree_reduce(task, None, list(range(n)), plus, threads) == tree_of([f"<{i}>" for i in range(n)])


def test_sums_have_the_same_bits_under_any_delays() -> None:
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(37, 5)) * 10.0 ** rng.integers(-8, 8, (37, 1))
    found = set()
    for attempt in range(6):
        delays = np.random.default_rng(attempt).uniform(0.0, 0.003, 37)

        def task(theta: np.ndarray, chunk: int, delays: np.ndarray = delays) -> np.ndarray:
            time.sleep(delays[chunk])
            return parts[chunk] * theta

        total = tree_reduce(task, np.full(5, 1.1), list(range(37)), np.add, 1 + attempt % 4)
        found.add(total.tobytes())
        np.testing.assert_allclose(total, (parts * 1.1).sum(axis=0), rtol=1e-9, atol=1e-6)

    assert len(found) == 1


@pytest.mark.parametrize("common", [[1, 2], {"a": 1}, (3,), np.arange(3), "text", None])
def test_every_task_gets_the_common_object_as_it_is(common: object) -> None:
    found = tree_reduce(lambda theta, _: [theta], common, [0, 1, 2], lambda a, b: a + b, 2)

    assert len(found) == 3
    assert all(each is common for each in found)


def test_no_more_threads_than_asked_for_work() -> None:
    working, most, lock = 0, 0, threading.Lock()

    def task(_: Any, __: int) -> int:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        time.sleep(0.003)
        with lock:
            working -= 1
        return 1

    assert tree_reduce(task, None, list(range(12)), lambda a, b: a + b, 2) == 12
    assert most <= 2


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_of_a_task_is_raised(threads: int) -> None:
    def task(_: Any, chunk: int) -> int:
        if chunk == 5:
            raise ValueError("chunk 5 is bad")
        return chunk

    with pytest.raises(ValueError, match=r"^chunk 5 is bad$"):
        tree_reduce(task, None, list(range(9)), lambda a, b: a + b, threads)


def test_an_error_of_the_fold_is_raised() -> None:
    def refuse(a: int, b: int) -> int:
        raise RuntimeError("cannot add")

    with pytest.raises(RuntimeError, match="cannot add"):
        tree_reduce(lambda _, chunk: chunk, None, [1, 2], refuse, 2)


def test_threads_do_not_import_what_clusters_need() -> None:
    code = (
        "import sys, operator; from streamgd.training.reduce import tree_reduce\n"
        "print(tree_reduce(lambda _, chunk: chunk, None, [1, 2, 4], operator.add, 2), 'distributed' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["7", "False"]
