"""Several tasks at once, each giving items one after another, that are handed on in the order of the tasks.

Threads work ahead of the consumer by a bounded number of items. An error travels in the place of the item it took, so
what was handed on before it, and which error comes first, do not depend on the threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

from streamgd.data.asking import asking_unless

Task = TypeVar("Task")
Item = TypeVar("Item")

#: Items that may wait for the consumer, over all threads.
WAITING_ITEMS = 32


class _Lane(Generic[Item]):
    """What one task has given and the consumer has not yet taken."""

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.done = False
        self.error: BaseException | None = None


def each_in_order(tasks: Collection[Task], work: Callable[[Task], Item], threads: int) -> list[Item]:
    """What ``work`` gives for each task, in their order. Where that is broken off, no thread goes on asking a store.

    Raises
    ------
    BaseException
        What ``work`` raised for the first task of those that failed.
    """
    stopped = False

    def run(task: Task) -> Item:
        with asking_unless(lambda: stopped):
            return work(task)

    with ThreadPoolExecutor(threads) as pool:
        try:
            return list(pool.map(run, tasks))
        finally:
            stopped = True


def in_order(
    tasks: Iterable[Task], work: Callable[[Task], Iterator[Item]], threads: int
) -> Generator[tuple[Task, Item], None, None]:
    """Every item of ``work(task)``, for each task in turn. To be closed where it may be left early.

    Parameters
    ----------
    tasks : iterable
        At most ``threads`` of them are begun and not finished by the consumer.
    work : callable
        Gives the items of a task; runs on a thread.
    threads : int

    Raises
    ------
    BaseException
        What ``work`` raised, after all items that came before it.
    """
    capacity = max(2, WAITING_ITEMS // threads)
    changed = threading.Condition()
    stopped = False

    def hand_on(task: Task, lane: _Lane[Item]) -> None:
        for item in work(task):
            with changed:
                changed.wait_for(lambda: stopped or len(lane.items) < capacity)
                if stopped:
                    return
                lane.items.append(item)
                changed.notify_all()

    def run(task: Task, lane: _Lane[Item]) -> None:
        try:
            with asking_unless(lambda: stopped):
                hand_on(task, lane)
        except BaseException as error:  # handed on to the consumer
            lane.error = error
        finally:
            with changed:
                lane.done = True
                changed.notify_all()

    with ThreadPoolExecutor(threads) as pool:

        def begin(task: Task) -> tuple[Task, _Lane[Item]]:
            lane: _Lane[Item] = _Lane()
            pool.submit(run, task, lane)
            return task, lane

        waiting = iter(tasks)
        begun = deque(begin(task) for task in islice(waiting, threads))
        try:
            while begun:
                task, lane = begun.popleft()
                while True:
                    with changed:
                        while not lane.items and not lane.done:
                            changed.wait()
                        if not lane.items:
                            break
                        item = lane.items.popleft()
                        changed.notify_all()
                    yield task, item
                if lane.error is not None:
                    raise lane.error
                begun.extend(begin(task) for task in islice(waiting, 1))
        finally:
            with changed:
                stopped = True
                changed.notify_all()
