"""Work ahead of need: the order is that of the tasks, the amount is bounded, and nothing is left running."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgd.data.ahead import WAITING_ITEMS, each_in_order, in_order


@settings(max_examples=50)
@given(counts=st.lists(st.integers(0, 60), max_size=12), threads=st.integers(1, 5))
def test_items_come_in_the_order_of_the_tasks(counts: list[int], threads: int) -> None:
    found = list(in_order(range(len(counts)), lambda task: iter(range(counts[task])), threads))

    assert found == [(task, item) for task, count in enumerate(counts) for item in range(count)]


def test_tasks_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=10)

    def work(task: int) -> Iterator[int]:
        both.wait()
        yield task

    assert list(in_order([0, 1], work, 2)) == [(0, 0), (1, 1)]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_no_more_than_a_bounded_number_of_items_wait(threads: int) -> None:
    made = 0
    lock = threading.Lock()

    def work(_: int) -> Iterator[int]:
        nonlocal made
        for item in range(1000):
            with lock:
                made += 1
            yield item

    with closing(in_order(range(20), work, threads)) as items:
        for taken in range(1, 301):
            next(items)
            if taken % 100 == 0:
                time.sleep(0.02)
                # Each thread holds one more that found no room.
                assert made - taken <= WAITING_ITEMS + threads


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_in_its_place(threads: int) -> None:
    def work(task: int) -> Iterator[int]:
        yield 10 * task
        if task in (2, 3):
            raise ValueError(f"task {task}")
        yield 10 * task + 1

    items = in_order(range(6), work, threads)

    assert [next(items)[1] for _ in range(5)] == [0, 1, 10, 11, 20]
    with pytest.raises(ValueError, match="task 2"):
        next(items)


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()

    with closing(in_order(range(100), lambda _: iter(range(10**9)), 3)) as items:
        assert next(items) == (0, 0)

    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_tasks_and_so_does_the_first_error(threads: int) -> None:
    def inverse(task: int) -> float:
        time.sleep(0.01 * (task % 2))
        return 1.0 / task

    assert each_in_order(range(1, 9), inverse, threads) == [1.0 / task for task in range(1, 9)]
    with pytest.raises(ZeroDivisionError):
        each_in_order([1, 0, 2, 0], inverse, threads)
