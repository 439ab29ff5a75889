"""Tries damaged copies of a Parquet file one after another, as a process of its own: one of them may end it.

    python damage.py FILE FOLDER < damages      a line of JSON for each damage, on standard output

A damage is ``{"cut": bytes}`` or ``{"flips": [[position, xor], …]}``. What is trained on a file that is read must equal
what is trained on pyarrow's own table of it, written anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from mistakes import Ending, here, message

FEATURES = ("x", "k", "s", "b", "d", "u")
WAYS = {
    "blocks": ["--shuffle", "full"],
    "window": ["--shuffle", "window", "--where", "k >= 0 or x > 0"],
    "batch": ["--method", "batch"],
}
#: How a file may be refused: bad data, no rows left, a column that is no longer there, more memory than allowed.
REFUSALS = (65, 66, 78)


def damaged(whole: bytes, damage: dict[str, Any]) -> bytes:
    content = bytearray(whole[: damage.get("cut", len(whole))])
    for position, change in damage.get("flips", []):
        content[position] ^= change
    return bytes(content)


def train(path: Path, run: Path, way: str) -> Ending:
    shutil.rmtree(run, ignore_errors=True)
    options = ["--target", "y", "--features", ",".join(FEATURES), "--loss", "squared", "--epochs", "1", *WAYS[way]]
    return here("train", path, "--run", run, "--quiet", "--json", *options)


class Trials:
    """Damaged files in one folder; what pyarrow's own table gives is worked out once for each table."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._thetas: dict[str, str] = {}

    def outcome(self, content: bytes, way: str) -> dict[str, Any]:
        path = self._folder / "damaged.parquet"
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what reached the user would be on standard error
            inspected = here("inspect", path, "--json")
            ending = train(path, self._folder / "run", way)
        for each in (inspected, ending):
            if each.exit_code:
                assert each.exit_code in REFUSALS, each.err
                message(each, each.exit_code)
        if ending.exit_code:
            return {"exit_code": ending.exit_code, "message": ending.err}
        assert ending.err == ""
        assert json.loads(ending.out)["theta_sha256"] == self._expected(path, way)
        return {"exit_code": 0}

    def _expected(self, path: Path, way: str) -> str:
        """The digest of theta, trained on what pyarrow itself reads."""
        parquet = pq.ParquetFile(path, page_checksum_verification=True)
        columns = [*FEATURES, "y"]
        tables = [parquet.read_row_group(index, columns) for index in range(parquet.num_row_groups)]
        digest = hashlib.sha256(way.encode())
        for table in tables:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
                stream.write_table(table.combine_chunks())
            digest.update(sink.getvalue())
        key = digest.hexdigest()
        if key not in self._thetas:
            own = self._folder / "own" / "damaged.parquet"  # its name chooses rows
            own.parent.mkdir(exist_ok=True)
            with pq.ParquetWriter(own, tables[0].schema) as writer:
                for table in tables:
                    writer.write_table(table)
            ending = train(own, self._folder / "run", way)
            assert ending.exit_code == 0, ending.err
            self._thetas[key] = json.loads(ending.out)["theta_sha256"]
        return self._thetas[key]


def main() -> None:
    whole, trials = Path(sys.argv[1]).read_bytes(), Trials(Path(sys.argv[2]))
    for number, line in enumerate(sys.stdin):
        way = sorted(WAYS)[number % len(WAYS)]
        try:
            outcome = trials.outcome(damaged(whole, json.loads(line)), way)
        except Exception as error:  # told to the test, which knows the damage
            outcome = {"failed": f"{type(error).__name__}: {error}", "way": way}
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
