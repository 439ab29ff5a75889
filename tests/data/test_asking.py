"""A store that does not answer keeps nobody waiting who was told to stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from streamgd.data import asking
from streamgd.data.sample import read_sample
from streamgd.data.source import discover
from streamgd.jobs import ledger
from streamgd.jobs.config import load_job


class Store(MemoryFileSystem):
    """Three files; opens none of them once it is ``away``."""

    cachable = False
    store: ClassVar[dict[str, Any]] = {}  # its own, not that of all such stores
    pseudo_dirs: ClassVar[list[str]] = [""]
    away = False

    def open(self, *positional: Any, **named: Any) -> Any:
        if self.away:
            raise ConnectionResetError("no answer")
        return super().open(*positional, **named)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "rows.parquet")
    store = Store()
    for name in "abc":
        store.pipe(f"/data/{name}.parquet", (tmp_path / "rows.parquet").read_bytes())
    return store


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Ctrl-C after a time; the block must end with it, within much less than the store is asked for."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    began_s = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began_s < seconds + asking.ASK_FOR_S / 4


def footers(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    return lambda: discover(["/data"], filesystem=store)


def sample(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    manifest = discover(["/data"], filesystem=store)
    return lambda: read_sample(manifest, ["x"])


def arrivals(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    (folder / "job.toml").write_text('source = "s3://data"\nstate = "state"\n[train]\ntarget = "x"\n')
    job, manifest = load_job(folder / "job.toml"), discover(["/data"], filesystem=store)
    monkeypatch.setattr(ledger, "locate", lambda *_: (manifest.filesystem, "/data"))
    return lambda: ledger.look(job, ledger.Ledger(), 0.0)


@pytest.mark.parametrize("reading", [footers, sample, arrivals])
def test_ctrl_c_ends_the_asking_of_threads(
    reading: Callable[..., Callable[[], object]], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ASK_FOR_S", 30.0)
    read = reading(store, tmp_path, monkeypatch)
    read()
    store.away = True

    with interrupted_after(0.7):
        read()
