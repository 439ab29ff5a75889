"""Blocks of lists and maps hold the entries of the data, whatever threads and interruptions did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import stop_at_note
from numpy.typing import NDArray
from scipy import sparse

from streamgd.config import make_config
from streamgd.data import entries_store, prepare, scatter
from streamgd.data.blocks import Block
from streamgd.data.encoding import Encoding
from streamgd.data.prepare import Preparation, new_store
from streamgd.data.prepared import PreparedBlocks
from streamgd.data.source import Manifest, discover
from streamgd.errors import StreamgdError
from streamgd.stopwatch import Stopwatch
from streamgd.training.setup import make_task
from streamgd.training.task import Task

ROWS, PLACES_OF_BLOCK = 150, 40
KINDS = ("indices", "pairs", "words", "counts", "hashed")


class StoppedError(StreamgdError):
    """What a check raises when a run is told to stop."""


def lists(kind: str, rows: int = ROWS, seed: int = 0) -> tuple[pa.Array, list[list[tuple[Any, float]]]]:
    """A column of lists or maps, and the key and value of every entry of each row; some rows are null."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, rows)
    lengths[3] = 40  # more than a queue holds
    keys = [[int(key) for key in rng.integers(0, 30, length)] for length in lengths]
    values = [[float(v) for v in rng.normal(size=length).astype(np.float32)] for length in lengths]
    nulls = rng.random(rows) < 0.1
    if kind in ("indices", "hashed"):
        array = pa.array([None if n else k for k, n in zip(keys, nulls, strict=True)], pa.list_(pa.int32()))
        found = [[(key, 1.0) for key in row] for row in keys]
    elif kind == "pairs":
        pairs = [[{"i": i, "v": v} for i, v in zip(k, vs, strict=True)] for k, vs in zip(keys, values, strict=True)]
        element = pa.struct([("i", pa.int64()), ("v", pa.float32())])
        array = pa.array([None if n else p for p, n in zip(pairs, nulls, strict=True)], pa.list_(element))
        found = [list(zip(k, vs, strict=True)) for k, vs in zip(keys, values, strict=True)]
    elif kind == "words":
        words = [[f"w{key}" for key in row] for row in keys]
        array = pa.array([None if n else w for w, n in zip(words, nulls, strict=True)], pa.list_(pa.string()))
        found = [[(word, 1.0) for word in row] for row in words]
    else:
        maps = [[(f"w{i}", v) for i, v in zip(k, vs, strict=True)] for k, vs in zip(keys, values, strict=True)]
        array = pa.array(
            [None if n else m for m, n in zip(maps, nulls, strict=True)], pa.map_(pa.string(), pa.float32())
        )
        found = maps
    return array, [[] if n else row for row, n in zip(found, nulls, strict=True)]


def written(folder: Path, columns: dict[str, pa.Array], rows: int = ROWS, row_group: int = 35) -> Manifest:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(9)
    table = pa.table({"x": rng.normal(size=rows), **columns, "y": rng.normal(size=rows)})
    half = rows // 2
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        pq.write_table(part, folder / f"{number}.parquet", row_group_size=row_group)
    return discover([str(folder)])


def task_of(manifest: Manifest, **options: Any) -> Task:
    config = make_config(data=["none"], target="y", shuffle="full", batch_size=PLACES_OF_BLOCK, **options)
    return make_task(config, manifest, None)


def preparation(task: Task, folder: Path, threads: int = 1, check: Callable[[], None] = lambda: None) -> Preparation:
    encoder = task.encoder()

    def encoding_of(survey: Any, vocabularies: Any) -> Encoding:
        return task.encoding(survey, vocabularies, sparse=encoder.sparse)

    store = new_store(folder, task.layout, task.manifest.n_rows, PLACES_OF_BLOCK)
    return Preparation(
        task.manifest,
        encoder,
        encoding_of,
        store,
        "key",
        11,
        threads,
        4_000,
        check,
        check,
        lambda *_: None,
        Stopwatch(),
    )


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 40 rows, pages of 16 or 8 entries, and a look at the check between slices."""
    monkeypatch.setattr("streamgd.data.blocks.BLOCK_ROWS", PLACES_OF_BLOCK)
    monkeypatch.setattr(entries_store, "PAGE_BYTES", 128)
    monkeypatch.setattr(scatter, "LONG_ROW_GROUP_VALUES", 0)
    monkeypatch.setattr(prepare, "SPARE_REGIONS", 2)
    monkeypatch.setattr(prepare, "WAVE_S", 0.0)


def matrix_of(block: Block, encoding: Encoding) -> NDArray[np.float64]:
    """The entries of a block by the sparse rows of theta, in the units of the data."""
    starts, coordinates, values = block.entries.arrays()
    values = values if len(values) else np.ones(len(coordinates))
    first, last = int(starts[0]), int(starts[-1])
    shape = (block.rows, encoding.n_dof)
    found = sparse.csr_array((values[first:last], coordinates[first:last], starts - first), shape).toarray()
    scales = [each.scales if each.column.has_values else np.ones(each.n_rows) for each in encoding.sparse]
    return np.asarray(found[:, encoding.sparse[0].first_row : -1] * np.concatenate(scales))


def expected(rows: list[list[tuple[Any, float]]], labels: list[Any]) -> NDArray[np.float64]:
    found = np.zeros((len(rows), len(labels)))
    for i, row in enumerate(rows):
        for key, value in row:
            if key in labels:
                found[i, labels.index(key)] += value
    return found


def bits(prepared: PreparedBlocks) -> list[bytes]:
    found = list(map(str.encode, prepared.encoding.row_names()))
    for index in range(prepared.n_blocks):
        block = prepared.train_block(index)
        found += [array.tobytes() for array in (*block.arrays(), *block.entries.arrays())]
    return found


@pytest.mark.parametrize("kind", ["indices", "pairs", "words", "counts"])
@pytest.mark.parametrize("holdout", [0.0, 0.3])
def test_blocks_hold_the_entries_of_each_row(tmp_path: Path, kind: str, holdout: float) -> None:
    array, rows = lists(kind)
    task = task_of(written(tmp_path / "data", {"tags": array}), holdout=holdout, dtype="float64", seed=11)
    prepared = preparation(task, tmp_path / "blocks", 2).run()
    encoding = prepared.encoding
    (tags,) = encoding.sparse
    labels = tags.labels() if tags.by_level else tags.indices.tolist()
    blocks = [prepared.train_block(i) for i in range(prepared.n_blocks)]
    held_out = [prepared.holdout_block(i) for i in range(prepared.n_blocks)]
    assert prepared.n_blocks > 3
    found = np.concatenate([matrix_of(block, encoding) for block in (*blocks, *held_out)])
    by_x = np.argsort(np.concatenate([block.features[:, 0] for block in (*blocks, *held_out)]))
    x = np.random.default_rng(9).normal(size=ROWS)
    np.testing.assert_allclose(found[by_x], expected(rows, labels)[np.argsort(x)], rtol=1e-12)
    trained = [matrix_of(block, encoding) for block in blocks]
    # Of rows that are trained on, each column has some entry, and the largest is 1 in its units.
    assert (np.abs(np.concatenate(trained)).max(axis=0) > 0).all()
    if tags.column.has_values and not holdout:
        assert tags.scales.tolist() == [
            max(abs(value) for row in rows for key, value in row if key == label) for label in labels
        ]


@pytest.mark.parametrize("kind", ["indices", "counts"])
def test_blocks_of_few_rows_of_many_regions_hold_the_entries_of_each(tmp_path: Path, kind: str) -> None:
    array, rows = lists(kind, rows=2_000)
    manifest = written(tmp_path / "data", {"tags": array}, rows=2_000, row_group=200)
    task = task_of(manifest, dtype="float64", seed=11, where="x > 1.5", scale="none")
    prepared = preparation(task, tmp_path / "blocks").run()
    regions_of_block = -(-2_000 // PLACES_OF_BLOCK) / prepared.n_blocks
    assert regions_of_block > 8
    (tags,) = prepared.encoding.sparse
    labels = tags.labels() if tags.by_level else tags.indices.tolist()
    blocks = [prepared.train_block(i) for i in range(prepared.n_blocks)]
    found = np.concatenate([matrix_of(block, prepared.encoding) for block in blocks])
    x = np.random.default_rng(9).normal(size=2_000)
    chosen = np.flatnonzero(x > 1.5)
    by_x = np.argsort(np.concatenate([block.features[:, 0] for block in blocks]))
    of_rows = expected([rows[i] for i in chosen], labels)
    np.testing.assert_allclose(found[by_x], of_rows[np.argsort(x[chosen])], rtol=1e-12)


@pytest.mark.parametrize("kind", ["pairs", "words"])
def test_threads_and_kills_change_no_bit(tmp_path: Path, kind: str) -> None:
    columns = {"tags": lists(kind)[0], "more": lists("indices", seed=5)[0]}
    task = task_of(written(tmp_path / "data", columns))
    undisturbed = bits(preparation(task, tmp_path / "undisturbed").run())
    assert bits(preparation(task, tmp_path / "threads", 3).run()) == undisturbed
    stopped = 0
    for last_note in range(1, 100):
        killed = preparation(task, tmp_path / f"killed-{last_note}", 2)
        stop_at_note(killed, last_note, StoppedError())
        try:
            killed.run()
        except StoppedError:
            stopped += 1
        else:
            break
        assert bits(preparation(task, tmp_path / f"killed-{last_note}", 1).run()) == undisturbed
    assert stopped >= 5
    assert not list((tmp_path / "undisturbed").glob("entries-*.bin"))


def test_a_column_of_many_words_is_hashed_like_one_that_was_asked_to_be(tmp_path: Path) -> None:
    array, _ = lists("counts")
    manifest = written(tmp_path / "data", {"tags": array})
    many = preparation(task_of(manifest, max_levels=5, hash_buckets=64), tmp_path / "many").run()
    asked = preparation(task_of(manifest, encode="hash", hash_buckets=64), tmp_path / "asked").run()
    assert many.encoding.sparse[0].buckets == 64
    assert bits(many) == bits(asked)
