"""Files cut short and bytes flipped: one line and a documented exit code, or the result that pyarrow's own table gives.

Never a traceback, a hang or a signal: the files are tried in processes of their own (``damage.py``), since pyarrow can
end a process on a damaged footer.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mistakes import ROOT

from streamgd.data.footers import read_footer
from streamgd.data.reader import read_batches
from streamgd.data.source import discover
from streamgd.errors import CorruptFileError

ROWS = 600

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"compression": "none"},
    "without dictionaries": {"compression": "none", "use_dictionary": False},
    "checksums and an index of pages": {
        "compression": "zstd", "write_page_checksum": True, "write_page_index": True, "data_page_version": "2.0",
    },
}  # fmt: skip


def whole(path: Path, **options: Any) -> Path:
    """Columns of all that can be a feature, and of what cannot."""
    rng, rows = np.random.default_rng(3), range(ROWS)
    table = pa.table({
        "x": pa.array(rng.normal(size=ROWS), mask=rng.random(ROWS) < 0.1), "k": rng.integers(0, 9, ROWS),
        "s": rng.choice(["aa", "bb", "cc"], ROWS), "b": rng.random(ROWS) < 0.5, "y": rng.normal(size=ROWS),
        "d": pa.array([Decimal(row % 50) / 4 for row in rows], pa.decimal128(9, 2)),
        "u": rng.integers(0, 200, ROWS).astype("uint8"), "when": [datetime(2024, 1, 1 + row % 28) for row in rows],
        "listed": [[row, row + 1] for row in rows], "nested": [{"a": row, "b": str(row)} for row in rows],
        "bytes": [b"x" * (row % 5) for row in rows],
    })  # fmt: skip
    pq.write_table(table, path, row_group_size=200, **options)
    return path


def footer_bytes(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[-8:-4], "little")


def outcomes(path: Path, damages: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What becomes of each damage, two processes at a time."""

    def tried(share: int) -> list[dict[str, Any]]:
        own = folder / f"share-{share}"
        own.mkdir()
        mine = damages[share::2]
        found = subprocess.run(
            [sys.executable, ROOT / "tests" / "damage.py", path, own], input="\n".join(map(json.dumps, mine)),
            capture_output=True, text=True, timeout=60 + len(mine),
            env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": ""},  # with where compiled loops are kept
        )  # fmt: skip
        answers = [json.loads(line) for line in found.stdout.splitlines()]
        assert found.returncode == 0, (found.returncode, mine[len(answers) : len(answers) + 1], found.stderr[-2000:])
        assert len(answers) == len(mine)
        return answers

    with ThreadPoolExecutor(2) as threads:
        shares = list(threads.map(tried, range(2)))
    return [shares[index % 2][index // 2] for index in range(len(damages))]


def assert_told_or_right(path: Path, damages: list[dict[str, Any]], folder: Path) -> Counter[int]:
    found = outcomes(path, damages, folder)
    failed = [(each, outcome) for each, outcome in zip(damages, found, strict=True) if "failed" in outcome]
    assert not failed, failed[:5]
    return Counter(outcome["exit_code"] for outcome in found)


def test_a_file_cut_at_every_hundredth_of_its_length_is_refused(tmp_path: Path) -> None:
    path = whole(tmp_path / "whole.parquet")
    size = path.stat().st_size
    counts = assert_told_or_right(path, [{"cut": size * part // 100} for part in range(100)], tmp_path)
    assert counts == {65: 100}


def flips(path: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Half of them in the footer, one in four of more than one byte."""
    size, footer, rng = path.stat().st_size, footer_bytes(path), random.Random(seed)
    damages = []
    for number in range(count):
        first = size - 8 - footer if number % 2 else 0
        times = rng.choice([1, 1, 1, 4])
        damages.append({"flips": [[rng.randrange(first, size), rng.randrange(1, 256)] for _ in range(times)]})
    return damages


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind != "plain" else ()) for kind in KINDS]
)
def test_flipped_bytes_give_one_line_or_what_pyarrows_own_table_gives(kind: str, tmp_path: Path) -> None:
    path = whole(tmp_path / "whole.parquet", **KINDS[kind])
    counts = assert_told_or_right(path, flips(path, 120, len(kind)), tmp_path)
    assert counts[0] > 10
    assert counts[65] > 50


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_flipped_bytes(kind: str, seed: int, tmp_path: Path) -> None:
    path = whole(tmp_path / "whole.parquet", **KINDS[kind])
    print(kind, assert_told_or_right(path, flips(path, 1_000, 100 + seed), tmp_path))


# What once ended the process, or went through unseen


def with_byte(path: Path, position: int, value: int) -> str:
    content = bytearray(path.read_bytes())
    content[position] = value
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(("offset", "value", "says"), [
    (0, 0x2C, "physical type"), (1, 99, "physical type"), (1, 2, "physical type 1, the schema says 5"),
])  # fmt: skip
def test_a_column_chunk_of_another_type_than_the_schemas_is_refused(
    offset: int, value: int, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": [1.0, 2.0]}), path)
    footer = path.read_bytes().rindex(b"\x15\x0a\x19")  # of the chunk's metadata: type DOUBLE, then the encodings
    with pytest.raises(CorruptFileError, match=r"x\.parquet .*footer cannot be read"):
        discover([with_byte(path, footer + offset, value)])


def test_codes_outside_their_dictionary_are_refused(tmp_path: Path) -> None:
    """pyarrow hands them on: a table of levels would be read beyond its end."""
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"s": ["aa", "bb", "cc"] * 40}), path, compression="none")
    manifest, content = discover([str(path)]), path.read_bytes()
    refused = 0
    for position in range(len(content) - 8 - footer_bytes(path)):
        path.write_bytes(content)
        with_byte(path, position, content[position] ^ 0xFF)
        try:
            batches = list(read_batches(manifest, manifest.row_groups[0], ["s"], ["s"], 1_000))
        except CorruptFileError as error:
            refused += "row group 0: cannot be decoded (column 's' has codes outside its dictionary)" in str(error)
        else:
            for batch in batches:
                assert max(batch["s"].indices.to_pylist(), default=-1) < len(batch["s"].dictionary)
    assert refused > 10


def test_the_real_files_pass(shared_data: Path) -> None:
    good = [path for path in shared_data.rglob("*.parquet") if path.parent.name != "bad_parquet"]
    for path in good:
        assert read_footer(discover([str(path)]).filesystem, str(path)).metadata.num_rows >= 0
    assert good


def test_a_row_group_for_which_memory_runs_out_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise pa.ArrowMemoryError("realloc of size 1312817152 failed")

    manifest = discover([str(whole(tmp_path / "data.parquet"))])
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", no_memory)
    with pytest.raises(MemoryError, match="realloc"):
        list(read_batches(manifest, manifest.row_groups[0], ["x"], [], 100))
