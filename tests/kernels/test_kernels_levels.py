"""Hashes of texts; the index from bytes to codes is tested through ``data.levels``."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from streamgd.kernels import levels as kernels


def fnv1a(text: str) -> int:
    """The reference of the Fowler-Noll-Vo hash, 64 bit."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


@given(texts=st.lists(st.text(max_size=12), max_size=20), skipped=st.integers(0, 20))
def test_texts_hash_by_fnv1a(texts: list[str], skipped: int) -> None:
    array = pa.array(texts, pa.string())
    _, offsets, data = array.buffers()
    starts = np.frombuffer(offsets, np.int32)[: len(texts) + 1][skipped:].copy() if texts else np.zeros(1, np.int32)
    out = np.empty(max(len(texts) - skipped, 0), np.uint64)
    if len(out):
        letters = np.frombuffer(data, np.uint8).copy() if data is not None else np.empty(0, np.uint8)
        kernels.hash_texts(starts, letters, out)

    assert out.tolist() == [fnv1a(text) for text in texts[skipped:]]
