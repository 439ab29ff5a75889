"""What the numbers depend on: processor, memory, disk, versions, and whether the files carry page checksums."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.systems.base import cores

PACKAGES = (
    "streamgd", "numpy", "pyarrow", "numba", "dask", "scikit-learn", "scipy", "vowpalwabbit", "dask-ml", "torch",
)  # fmt: skip
DISK_BYTES = 512 * 2**20


def describe(directory: Path) -> dict[str, Any]:
    """The machine, the versions, and the disk that holds `directory`."""
    write, read = disk_speed(directory)
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "disk_write_mb_per_s": round(write / 1e6),
        "disk_read_mb_per_s": round(read / 1e6),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def disk_speed(directory: Path) -> tuple[float, float]:
    """Bytes per second of a plain write with fsync, and of a read that the page cache does not serve."""
    path, piece = directory / "disk-speed.bin", os.urandom(2**22)
    try:
        with path.open("wb", buffering=0) as file:
            started_s = time.perf_counter()
            for _ in range(DISK_BYTES // len(piece)):
                file.write(piece)
            os.fsync(file.fileno())
            write_s = time.perf_counter() - started_s
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            started_s = time.perf_counter()
            while file.read(len(piece)):
                pass
            read_s = time.perf_counter() - started_s
    finally:
        path.unlink(missing_ok=True)
    return DISK_BYTES / write_s, DISK_BYTES / read_s


def has_page_checksums(path: str) -> bool:
    """Whether the first page of a Parquet file carries a checksum.

    No library tells. A page header is a Thrift struct in the compact protocol: fields 1 to 3 (type and two sizes) are
    integers, and if field 4, the checksum, is there, its header byte follows: 0x15, one field on, an integer.
    """
    column = pq.read_metadata(path).row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    with open(path, "rb") as file:
        file.seek(start)
        header = file.read(64)
    position = 0
    for _ in range(3):
        assert header[position] == 0x15, f"{path}: no page header at {start}"
        position += 1
        while header[position] & 0x80:
            position += 1
        position += 1
    return header[position] == 0x15


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "a checkout" if package == "streamgd" else "not installed"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
