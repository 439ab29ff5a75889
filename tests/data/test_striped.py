"""Parts of one range of bytes over several files."""

from pathlib import Path

import numpy as np
import pytest

from streamgd.data.mapped import PAGE_BYTES
from streamgd.data.striped import N_FILES, StripedFiles, file_names, remove_files
from streamgd.errors import StorageError, StreamgdError


@pytest.mark.parametrize("n_parts", [1, N_FILES - 1, N_FILES, 2 * N_FILES + 3])
def test_each_part_comes_back_from_one_of_the_files(tmp_path: Path, n_parts: int) -> None:
    files = StripedFiles(tmp_path, "parts", PAGE_BYTES, n_parts)
    assert not files.is_whole
    files.create("hint", reserve=True)
    rows = np.random.default_rng(n_parts).integers(0, 255, (n_parts, 100)).astype(np.uint8)
    for part in range(n_parts):
        files.write(part * PAGE_BYTES + 8, rows[part], "hint")
    files.close()

    again = StripedFiles(tmp_path, "parts", PAGE_BYTES, n_parts)
    assert again.is_whole
    again.open()
    found = np.empty(100, np.uint8)
    for part in range(n_parts):
        again.wait_for(part * PAGE_BYTES, PAGE_BYTES)
        again.read(part * PAGE_BYTES + 8, found)
        np.testing.assert_array_equal(found, rows[part])
        np.testing.assert_array_equal(again.array(part * PAGE_BYTES + 8, 100, np.uint8), rows[part])
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert sum(sizes) == n_parts * PAGE_BYTES
    assert len(sizes) == min(n_parts, N_FILES)
    again.remove()
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_gone_or_short_is_told(tmp_path: Path) -> None:
    files = StripedFiles(tmp_path, "parts", PAGE_BYTES, 20)
    files.create("hint")
    (tmp_path / file_names("parts")[4]).write_bytes(b"short")
    assert not files.is_whole
    with pytest.raises(StorageError, match=r"parts-4\.bin is shorter"):
        files.array(12 * PAGE_BYTES, 3, np.int32)
    files.remove()
    files.remove()  # nothing is left: nothing to do


def test_a_file_that_cannot_be_removed_is_told(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in file_names("parts")]
    paths[3].mkdir()
    with pytest.raises(StreamgdError, match=f"remove {paths[3]}"):
        remove_files(paths)
