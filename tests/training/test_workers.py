"""What runs in a worker: folds as threads fold, errors as values, footers read anew, one BLAS thread."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from clusters import wait_until
from small_data import written
from threadpoolctl import threadpool_info, threadpool_limits

from streamgd.data.source import Manifest
from streamgd.errors import DataChangedError, DataError, NoInputError
from streamgd.training import workers
from streamgd.training.kept import Keep
from streamgd.training.reduce import FOLDED, tree_reduce
from streamgd.training.workers import Failure, Part, Sealed, fold, other_versions

STAGES = {"decode": 0.5, "compute": 0.25}


class Text(str):
    """Adds up to what shows the tree."""

    __slots__ = ()

    def __add__(self, other: str) -> Text:
        return Text(f"({self}{other})")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Three files."""
    return written(tmp_path, 60, 10, files=3)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 64, 65, 100])
def test_folds_of_eight_are_the_tree_of_threads(n: int) -> None:
    leaves = [Text(f"<{i}>") for i in range(n)]
    level: list[Part | Failure] = [Part(leaf, STAGES) for leaf in leaves]
    while len(level) > 1:
        level = [fold(level[start : start + FOLDED]) for start in range(0, len(level), FOLDED)]
    (total,) = level
    assert isinstance(total, Part)
    assert total.value == tree_reduce(lambda _, leaf: leaf, None, leaves, Text.__add__, 2)
    assert total.thread_s == {stage: n * seconds for stage, seconds in STAGES.items()}


def test_the_first_failure_is_the_sum() -> None:
    first, second = Failure(DataError, "row 1"), Failure(NoInputError, "gone")
    parts = [Part(1.0, STAGES), Part(2.0, STAGES), first, Part(3.0, STAGES), second]
    found = fold(parts)
    assert found is first
    assert repr(pickle.loads(pickle.dumps(found)).error()) == "DataError('row 1')"


def test_versions_that_differ_are_listed_on_both_sides() -> None:
    here: dict[str, str | None] = {"python": "3.11", "numpy": "2.1", "streamgd": "1"}
    assert other_versions(here, dict(here), "worker a") is None
    said = other_versions(here, {"python": "3.12", "numpy": "2.1", "streamgd": None}, "worker a")
    assert said is not None
    assert said.startswith(
        "the versions of worker a differ: python 3.11 here, 3.12 there; streamgd 1 here, none there."
    )


def test_what_is_sealed_is_opened_once_and_sent_as_it_came() -> None:
    sealed = Sealed(Sealed.pickled((len, [1, 2])))
    function, argument = sealed.value
    assert function(argument) == 2
    assert sealed.value is sealed.value
    assert pickle.loads(pickle.dumps(sealed)).value == (len, [1, 2])


def files_of(manifest: Manifest) -> workers._Files:
    bare = workers.Spec.of("key", SimpleNamespace(manifest=manifest, with_manifest=lambda m: m), None, ()).work
    return workers._Files(pickle.loads(pickle.dumps(bare)))  # type: ignore[arg-type]


def test_footers_are_read_by_the_worker_and_few_are_kept(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MOST_FOOTERS", 2)
    files = files_of(manifest)
    for needed in ({0}, {1}, {0}, {2}):
        files.need(needed)
        assert all(files.manifest.files[index].metadata.equals(manifest.files[index].metadata) for index in needed)
    assert [file.metadata is not None for file in files.manifest.files] == [True, False, True]


def test_a_file_that_is_not_there_or_another_one_is_told(manifest: Manifest) -> None:
    files = files_of(manifest)
    first, second = (Path(file.path) for file in manifest.files[:2])
    second.write_bytes(first.read_bytes())
    with pytest.raises(DataChangedError, match=r"1\.parquet is another file than the one the run began with"):
        files.need({1})
    first.unlink()
    with pytest.raises(NoInputError, match=r"0\.parquet is not there\. Put the data where every worker sees them"):
        files.need({0})


class SlowWork:
    """A chunk of it takes until ``waited_for`` holds; what was opened is noted."""

    opened_here: ClassVar[list[OpenSlowWork]] = []
    waited_for: Any = staticmethod(lambda: True)

    def __init__(self, manifest: Manifest):
        self.manifest = manifest

    def with_manifest(self, manifest: Manifest) -> SlowWork:
        return SlowWork(manifest)

    def opened(self, keep: Keep | None, *_: Any) -> OpenSlowWork:
        self.opened_here.append(OpenSlowWork(keep))
        return self.opened_here[-1]


class OpenSlowWork:
    def __init__(self, keep: Keep | None):
        self.keep = keep
        self.closed = False

    def result(self, *_: Any) -> bool:
        """Whether it stayed open."""
        wait_until(SlowWork.waited_for)
        return not self.closed

    def close(self) -> None:
        self.closed = True


class Data(dict[tuple[str, str], str]):
    """What a worker has in memory; counts the looks at it."""

    looks = 0

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        self.looks += 1
        return found


@pytest.fixture
def in_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """This process as a worker."""
    worker = SimpleNamespace(address="tcp://a:1", local_directory=str(tmp_path), data={})
    monkeypatch.setattr(workers, "get_worker", lambda: worker)
    monkeypatch.setattr(workers, "WATCH_S", 0.005)
    monkeypatch.setattr(SlowWork, "opened_here", [])
    return worker


def sums_of(manifest: Manifest, key: str) -> Any:
    spec = workers.Spec.of(key, SlowWork(manifest), 1_000_000, ("tcp://a:1", "tcp://b:1"))  # type: ignore[arg-type]
    part = workers.sums_of_chunk(Sealed(Sealed.pickled(spec)), Sealed(Sealed.pickled(None)), 0, 2)
    assert isinstance(part, Part), part
    return part.value


@pytest.mark.usefixtures("in_worker")
def test_a_run_that_nobody_holds_stays_open_until_its_chunk_is_done(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "NEVER_HELD_S", 0.01)
    monkeypatch.setattr(SlowWork, "waited_for", lambda: "never held" in workers._forgotten)
    assert sums_of(manifest, "never held") is True
    assert sums_of(manifest, "never held") is True  # without blocks on the disk from now on
    wait_until(lambda: all(each.closed for each in SlowWork.opened_here))
    assert [each.keep is not None for each in SlowWork.opened_here] == [True, False]


def test_a_run_that_is_held_is_opened_once_and_closed_when_it_is_let_go(
    manifest: Manifest, in_worker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "NEVER_HELD_S", 60.0)
    data = in_worker.data = Data({workers.held_key("held", in_worker.address): "held"})
    for _ in range(3):
        assert sums_of(manifest, "held") is True
    (opened,) = SlowWork.opened_here
    assert not opened.closed
    wait_until(lambda: data.looks > 1)
    data.clear()
    wait_until(lambda: opened.closed)


@pytest.mark.parametrize(("address", "most_bytes"), [("tcp://a:1", 500_000), ("tcp://late:1", None)])
def test_workers_share_the_space_for_blocks_and_late_ones_keep_none(
    address: str, most_bytes: int | None, manifest: Manifest, in_worker: SimpleNamespace
) -> None:
    in_worker.address = address
    assert sums_of(manifest, f"shared with {address}") is True
    workers.forget(f"shared with {address}")
    (opened,) = SlowWork.opened_here
    assert (opened.keep.most_bytes if opened.keep else None) == most_bytes
    assert opened.closed


def test_blas_has_one_thread_until_the_last_task_has_ended() -> None:
    def blas_threads() -> set[int]:
        return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

    with threadpool_limits(2, "blas"):
        first, second = workers._one_blas_thread, workers._one_blas_thread
        with first:
            other = threading.Thread(target=second.__enter__)
            other.start()
            other.join()
        assert blas_threads() == {1}
        second.__exit__()
        assert blas_threads() == {2}
