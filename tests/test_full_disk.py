"""A disk that fills up under the blocks: exit 74, one line with the bytes needed and the ways out, nothing left."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgd.config import make_config
from streamgd.data import store
from streamgd.errors import ConfigError, StorageError
from streamgd.training import blocks_place, kept
from streamgd.training.train import plan, train

DISK_BYTES = 4_000_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Rows whose blocks take three times the disk."""
    path = tmp_path_factory.mktemp("full") / "data.parquet"
    rng = np.random.default_rng(0)
    columns = {f"x{i}": rng.normal(size=100_000) for i in range(20)} | {"y": rng.normal(size=100_000)}
    pq.write_table(pa.table(columns), path, row_group_size=10_000)
    return str(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Rows whose entries take twice the disk while they wait."""
    path = tmp_path_factory.mktemp("full") / "lists.parquet"
    rng = np.random.default_rng(0)
    columns = {"s": list(rng.integers(0, 100, (20_000, 50)).astype(np.int32)), "y": rng.normal(size=20_000)}
    pq.write_table(pa.table(columns), path, row_group_size=10_000)
    return str(path)


def test_a_disk_that_entries_fill_up_ends_the_run_too(
    lists: str, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match=r"the blocks need 1[234]\.\d MB"):
        train(lists, "y", run=tmp_path / "refused", blocks_dir=str(small_disk), shuffle="full")
    for module in (store, blocks_place):
        monkeypatch.setattr(module, "free_bytes", lambda _: 10**9)
    with pytest.raises(StorageError, match=r"No space left.*need 1[234]\.\d MB.*--blocks-dir.*--shuffle window"):
        train(lists, "y", run=tmp_path / "run", blocks_dir=str(small_disk), shuffle="full")
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("options", [{"shuffle": "full"}, {"method": "batch"}], ids=str)
def test_a_disk_that_fills_up_ends_the_run_and_is_left_as_it_was(
    options: dict[str, Any], data: str, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_disk / "mine").write_text("keep")
    run = tmp_path / "run"
    for module in (store, kept, blocks_place):  # the space that was free at the start is taken by others meanwhile
        monkeypatch.setattr(module, "free_bytes", lambda _: 10**9)
    way_out = "--shuffle window" if "shuffle" in options else "--blocks-max 1MB"
    with pytest.raises(StorageError, match=rf"No space left.*need \d+\.\d MB.*--blocks-dir.*{way_out}") as caught:
        train(data, "y", run=str(run), blocks_dir=str(small_disk), **options)
    assert caught.value.exit_code == 74
    assert len(str(caught.value).splitlines()) == 1
    assert os.listdir(small_disk) == ["mine"]
    assert not run.exists()

    monkeypatch.undo()
    train(data, "y", run=str(run), blocks_dir=str(tmp_path / "elsewhere"), epochs=1, **options)


def test_too_small_a_disk_is_refused_before_the_start(data: str, small_disk: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"need 1\d\.\d MB in .*, \d\.\d MB are free.*--blocks-dir.*window"):
        train(data, "y", run=str(tmp_path / "run"), blocks_dir=str(small_disk), shuffle="full")
    assert os.listdir(small_disk) == []


def test_a_plan_says_that_the_disk_is_too_small_until_the_run_is_finished(
    data: str, small_disk: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"run": str(tmp_path / "run"), "blocks_dir": str(small_disk), "shuffle": "full"}
    config = make_config(data=data, target="y", epochs=1, **options)
    told = re.compile(r"the blocks may need 1\d\.\d MB in .*disk/.*, \d\.\d MB are free\. .*--shuffle window")
    assert [note for note in plan(config)["notes"] if told.match(note)]

    train(data, "y", epochs=1, **options | {"blocks_dir": str(tmp_path)})
    assert not [note for note in plan(config)["notes"] if told.match(note)]


def test_a_note_that_no_longer_fits_the_disk_tells_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = store.RecordLayout(3, 2, "float32", True, False, True)
    blocks = store.BlockStore(tmp_path / "blocks", layout, 50, 4)
    blocks.create(0)

    def full(*_: Any, **__: Any) -> None:
        raise StorageError("cannot write the note: No space left on device.")

    monkeypatch.setattr(store.states, "write_atomically", full)
    with pytest.raises(StorageError, match=r"The blocks need .*--blocks-dir.*--shuffle window"):
        blocks.write_note("key", {})


def test_blocks_beyond_blocks_max_are_refused_before_the_start(data: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--blocks-max 1\.0 MB is too small: the blocks need 1\d\.\d MB.*window"):
        train(data, "y", run=str(tmp_path / "run"), shuffle="full", blocks_max="1MB")
    assert os.listdir(tmp_path) == []
    result = train(data, "y", run=str(tmp_path / "run"), epochs=1, blocks_max="1MB")
    assert result.facts["order"] == "window"
    assert any("--blocks-max SIZE allows more" in warning for warning in result.facts["warnings"])
