"""A state comes back bit for bit, or is refused: split/join, serialize/deserialize, and the atomic write."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import pickle
import stat
import struct
import tracemalloc
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streamgd import state as state_module
from streamgd.errors import AccessError, DataError, NoInputError, StorageError, StreamgdError
from streamgd.state import (
    CorruptStateError,
    FileSystem,
    deserialize,
    join,
    read_state,
    read_without_arrays,
    remove,
    remove_leftovers,
    serialize,
    split,
    write_atomically,
)

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]

arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
states = st.recursive(
    arrays | scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def assert_same(found: Any, expected: Any) -> None:
    """Same types, same bits, same order of keys."""
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert struct.pack("<d", found) == struct.pack("<d", expected)
    else:
        assert found == expected


def small_state() -> dict[str, Any]:
    return {
        "theta": np.arange(6, dtype=np.float64).reshape(3, 2),
        "seen": np.array([True, False, True]),
        "codes": np.array([7], np.uint8),
        "optimizer": {"slots": [np.array(2.5), np.zeros((0, 4), np.float32)], "step": 3},
        "loss": float("inf"),
    }


def sealed(content: bytes) -> bytes:
    """``content`` with the checksum that makes it look untouched."""
    return content + hashlib.sha256(content).digest()


def sealed_file(header: object, content: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return sealed(struct.pack("<Q", len(text)) + text + content)


CHECKSUM = {"dtype": "U8", "shape": [32], "data_offsets": [0, 32]}


def metadata(tree: str = "{}", version: str = str(state_module.FORMAT_VERSION), kind: str = "model") -> dict[str, str]:
    return {"format_version": version, "kind": kind, "tree": tree}


class TestSplitAndJoin:
    @given(states)
    def test_join_gives_back_what_split_took_apart(self, state: Any) -> None:
        assert_same(join(*split(state)), state)

    def test_arrays_are_named_by_their_place(self) -> None:
        found, tree = split({"optimizer": {"slots": [np.zeros(1), np.ones(1)]}, "a/b~": np.zeros(2)})
        assert list(found) == ["/optimizer/slots/0", "/optimizer/slots/1", "/a~1b~0"]
        assert json.loads(tree)["optimizer"] == {
            "slots": [{"$array": "/optimizer/slots/0"}, {"$array": "/optimizer/slots/1"}]
        }

    def test_keys_that_look_like_marks_or_paths_stay_apart(self) -> None:
        state = {
            "$array": "/x",
            "x": {"$float": "7ff0000000000000", "$$array": 1},
            "a/b": np.array([1]),
            "a": {"b": np.array([2])},
            "__metadata__": np.array([3]),
            "~sha256": np.array([4]),
            "": np.array([5]),
        }
        assert_same(deserialize(serialize(state, "model"), "model", "f"), state)

    def test_the_tree_is_strict_json(self) -> None:
        _, tree = split({"a": float("nan"), "b": float("-inf")})
        json.loads(tree, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    @pytest.mark.parametrize("order", ["transposed", "strided"])
    def test_an_array_in_another_memory_order_keeps_its_values(self, order: str) -> None:
        base = np.arange(24.0).reshape(4, 6)
        array = base.T if order == "transposed" else base[::2, ::3]
        found = deserialize(serialize([array], "model"), "model", "f")[0]
        assert np.array_equal(found, array)
        assert found.flags.c_contiguous

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (np.array([None]), "optimizer/slots: object array"),
            (np.zeros(1, np.float16), "optimizer/slots: float16 array"),
            (np.zeros(1, ">f8"), "optimizer/slots: >f8 array"),
            (np.array(["a"]), "optimizer/slots: <U1 array"),
            (np.ma.masked_array([1.0]), "optimizer/slots: numpy.ma.MaskedArray"),
            (np.float64(1.0), "optimizer/slots: numpy.float64"),
            (np.bool_(True), "optimizer/slots: numpy.bool"),
            ((1, 2), "optimizer/slots: builtins.tuple"),
            ({1, 2}, "optimizer/slots: builtins.set"),
            (b"bytes", "optimizer/slots: builtins.bytes"),
            ([0, {"deep": 1j}], "optimizer/slots/1/deep: builtins.complex"),
            ({3: 4}, "optimizer/slots: the key 3"),
            ({"\ud800": 4}, "optimizer/slots: the key"),
        ],
    )
    def test_what_could_not_come_back_the_same_is_refused_with_its_path(self, value: Any, message: str) -> None:
        with pytest.raises(TypeError) as caught:
            split({"optimizer": {"slots": value}})
        assert str(caught.value).startswith(message)

    def test_join_refuses_a_missing_and_a_surplus_array(self) -> None:
        found, tree = split({"a": np.zeros(1)})
        with pytest.raises(KeyError):
            join({}, tree)
        with pytest.raises(ValueError, match="/b"):
            join({**found, "/b": np.zeros(1)}, tree)


class TestSerialize:
    @given(states)
    @settings(max_examples=200)
    @example({})
    @example([])
    def test_deserialize_gives_back_what_serialize_took(self, state: Any) -> None:
        data = serialize(state, "checkpoint")
        assert_same(deserialize(data, "checkpoint", "f"), state)
        assert data == serialize(state, "checkpoint")
        with NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            assert_same(read_state(Path(file.name), "checkpoint"), state)

    @given(states)
    def test_any_safetensors_reader_opens_it_and_the_checksum_is_its_last_tensor(self, state: Any) -> None:
        data = serialize(state, "model")
        found = safetensors.numpy.load(data)
        assert found["~sha256"].tobytes() == data[-32:] == hashlib.sha256(data[:-32]).digest()
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        assert header["__metadata__"]["kind"] == "model"
        assert header["~sha256"]["data_offsets"] == [len(data) - 8 - length - 32, len(data) - 8 - length]
        for name, array in split(state)[0].items():
            assert found[name].tobytes() == array.tobytes()
            start = header[name]["data_offsets"][0] + 8 + length
            assert start % array.itemsize == 0

    def test_loaded_arrays_can_be_trained_on_in_place(self) -> None:
        found = deserialize(serialize(small_state(), "model"), "model", "f")
        found["theta"] += 1.0
        found["optimizer"]["slots"][0][...] = 4.0
        assert found["theta"][0, 0] == 1.0

    def test_later_changes_of_the_state_do_not_reach_the_bytes(self) -> None:
        state = small_state()
        data = serialize(state, "model")
        state["theta"][:] = -1.0
        state["optimizer"]["step"] = 99
        assert_same(deserialize(data, "model", "f"), small_state())

    def test_a_64_mb_state_is_copied_only_once(self) -> None:
        state = {"theta": np.ones(8 * 2**20), "codes": np.ones(1000, np.uint8)}
        tracemalloc.start()
        try:
            data = serialize(state, "checkpoint")
            assert tracemalloc.get_traced_memory()[1] < 1.1 * len(data)
        finally:
            tracemalloc.stop()

    def test_a_tree_that_readers_would_refuse_is_not_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(state_module, "_HEADER_MAX_BYTES", 1000)
        with pytest.raises(ValueError, match="1000 are allowed"):
            serialize({"names": ["x" * 1000]}, "model")


class TestDamage:
    def test_every_single_flipped_byte_is_noticed(self) -> None:
        data = serialize(small_state(), "checkpoint")
        for position in range(len(data)):
            for flip in (0x01, 0x80, 0xFF):
                damaged = bytearray(data)
                damaged[position] ^= flip
                with pytest.raises(CorruptStateError, match="runs/late"):
                    deserialize(bytes(damaged), "checkpoint", "runs/late")

    def test_every_truncation_and_an_appended_byte_are_noticed(self) -> None:
        data = serialize(small_state(), "checkpoint")
        for length in range(len(data)):
            with pytest.raises(CorruptStateError):
                deserialize(data[:length], "checkpoint", "f")
        with pytest.raises(CorruptStateError):
            deserialize(data + b"\0", "checkpoint", "f")

    def test_it_is_a_data_error_of_one_line(self) -> None:
        with pytest.raises(DataError) as caught:
            deserialize(b"x" * 100, "model", "model.safetensors")
        assert caught.value.exit_code == 65
        assert "\n" not in str(caught.value)

    def test_another_kind_of_file_is_refused(self) -> None:
        with pytest.raises(CorruptStateError, match="expected a model, found a checkpoint"):
            deserialize(serialize({}, "checkpoint"), "model", "f")

    def test_a_newer_format_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(state_module, "FORMAT_VERSION", state_module.FORMAT_VERSION + 1)
        data = serialize({}, "model")
        monkeypatch.undo()
        with pytest.raises(CorruptStateError, match=r"format \d is newer"):
            deserialize(data, "model", "f")

    def test_an_older_format_is_refused_with_the_way_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(state_module, "FORMAT_VERSION", 1)
        data = serialize({}, "checkpoint")
        monkeypatch.undo()
        with pytest.raises(CorruptStateError, match=r"format 1 is that of an earlier streamgd\. .*--restart"):
            deserialize(data, "checkpoint", "f")


class Bomb:
    """Fails the test if it is ever unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("unpickled",)


HOSTILE = {
    "a pickle": sealed(pickle.dumps(Bomb())),
    "a pickle behind a header length": sealed_file(pickle.dumps(Bomb())),
    "a huge header length": sealed(struct.pack("<Q", 2**64 - 1) + b"{}"),
    "a header one byte too long": sealed(struct.pack("<Q", 3) + b"{}"),
    "no header": sealed_file(b""),
    "a header that is no JSON": sealed_file(b"{"),
    "a header that is no UTF-8": sealed_file(b"\xff\xfe"),
    "a header that is a list": sealed_file([]),
    "a header nested without end": sealed_file(b"[" * 100_000),
    "no metadata": sealed_file({"~sha256": CHECKSUM}),
    "metadata that are no text": sealed_file({"__metadata__": {"format_version": None}, "~sha256": CHECKSUM}),
    "no checksum tensor": sealed_file({"__metadata__": metadata()}),
    "a version that is no number": sealed_file({"__metadata__": metadata(version="x"), "~sha256": CHECKSUM}),
    "a version that is infinite": sealed_file(b'{"__metadata__": {"format_version": Infinity}}'),
    "a tree that is no JSON": sealed_file({"__metadata__": metadata("{"), "~sha256": CHECKSUM}),
    "a tree nested without end": sealed_file({"__metadata__": metadata("[" * 100_000), "~sha256": CHECKSUM}),
    "a tree with an array that is missing": sealed_file(
        {"__metadata__": metadata('{"$array": "/x"}'), "~sha256": CHECKSUM}
    ),
    "a tree with an array name that is a list": sealed_file(
        {"__metadata__": metadata('{"$array": []}'), "~sha256": CHECKSUM}
    ),
    "a tree with a float of two bytes": sealed_file(
        {"__metadata__": metadata('{"$float": "ffff"}'), "~sha256": CHECKSUM}
    ),
    **{
        f"an array of {code} {shape} at {place}": sealed_file(
            {
                "__metadata__": metadata('{"$array": "/x"}'),
                "/x": {"dtype": code, "shape": shape, "data_offsets": place},
                "~sha256": {"dtype": "U8", "shape": [32], "data_offsets": [8, 40]},
            },
            b"\0" * 8,
        )
        for code, shape, place in [
            ("F64", [2], [0, 8]),
            ("F64", [2**61], [0, 8]),
            ("F64", [2**40, 2**40], [0, 8]),
            ("F64", [-1], [0, 8]),
            ("F64", [1], [0, 2**50]),
            ("F64", [1], [32, 40]),
            ("F64", [1], [8, 0]),
            ("BF16", [4], [0, 8]),
            ("O", [1], [0, 8]),
        ]
    },
    "an empty array with a huge side": sealed_file(
        {
            "__metadata__": metadata('{"$array": "/x"}'),
            "/x": {"dtype": "F64", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]},
            "~sha256": CHECKSUM,
        }
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_with_a_true_checksum_is_refused_without_taking_much_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(CorruptStateError, match=r"hostile\.safetensors: "):
        read_state(path, "model")
    tracemalloc.start()
    try:
        with pytest.raises(CorruptStateError) as caught:
            deserialize(HOSTILE[name], "model", "runs/late/model.safetensors")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith("runs/late/model.safetensors: ")
    assert "\n" not in str(caught.value)


class RecordingFiles(FileSystem):
    """The real file system, which writes down what it was asked for and can fail at one operation."""

    def __init__(self, fail_at: str = "", error: BaseException | None = None) -> None:
        self.log: list[str] = []
        self.fail_at, self.error = fail_at, error

    def note(self, operation: str) -> None:
        self.log.append(operation)
        if operation == self.fail_at and self.error is not None:
            raise self.error

    def open(self, path: Path) -> Any:
        self.note("open")
        assert path.name.startswith(".")
        assert path.name.endswith(f".{os.getpid()}.tmp")
        return super().open(path)

    def write(self, file: Any, data: bytes) -> None:
        super().write(file, data[: len(data) // 2])
        self.note("write")
        super().write(file, data[len(data) // 2 :])

    def fsync(self, file: Any) -> None:
        self.note("fsync")
        super().fsync(file)

    def replace(self, source: Path, target: Path) -> None:
        self.note("replace")
        super().replace(source, target)

    def remove(self, path: Path) -> None:
        self.note("remove")
        super().remove(path)

    def fsync_folder(self, folder: Path) -> None:
        self.note("fsync_folder")
        super().fsync_folder(folder)


class TestWriteAtomically:
    def test_the_content_is_on_the_device_before_the_name_and_the_name_before_it_returns(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = RecordingFiles()
        monkeypatch.setattr(state_module, "files", files)
        write_atomically(tmp_path / "a", b"new")
        assert files.log == ["open", "write", "fsync", "replace", "fsync_folder"]
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert (tmp_path / "a").read_bytes() == b"new"

    def test_what_need_not_outlive_a_loss_of_power_waits_for_no_device(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = RecordingFiles()
        monkeypatch.setattr(state_module, "files", files)
        write_atomically(tmp_path / "a", b"new", outlives_power=False)
        assert files.log == ["open", "write", "replace"]
        assert (tmp_path / "a").read_bytes() == b"new"

    @pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
    def test_the_mode_follows_the_umask(self, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            write_atomically(tmp_path / "a", b"x")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask

    @pytest.mark.parametrize("operation", ["open", "write", "fsync", "replace", "fsync_folder"])
    @pytest.mark.parametrize(
        ("number", "expected"), [(errno.ENOSPC, StorageError), (errno.EIO, StorageError), (errno.EACCES, AccessError)]
    )
    def test_a_failure_leaves_the_old_or_the_new_content_and_no_temporary(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, number: int, expected: type[Exception]
    ) -> None:
        target = tmp_path / "a"
        write_atomically(target, b"old content")
        files = RecordingFiles(operation, OSError(number, os.strerror(number)))
        monkeypatch.setattr(state_module, "files", files)
        with pytest.raises(expected, match=r"cannot write .*/a: "):
            write_atomically(target, b"new content")
        assert files.log.count("fsync") <= 1
        assert target.read_bytes() == (b"new content" if operation == "fsync_folder" else b"old content")
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_an_interrupt_in_mid_write_leaves_no_temporary(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(state_module, "files", RecordingFiles("write", KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write_atomically(tmp_path / "a", b"new content")
        assert not list(tmp_path.iterdir())

    def test_a_write_that_the_system_cuts_into_pieces_is_completed(self) -> None:
        class Reluctant:
            taken = b""

            def write(self, data: memoryview) -> int:
                self.taken += bytes(data[:3])
                return min(3, len(data))

        file = Reluctant()
        FileSystem().write(file, b"0123456789")  # type: ignore[arg-type]
        assert file.taken == b"0123456789"

    def test_only_a_file_that_is_not_there_may_be_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        path.write_bytes(b"x")
        remove(path)
        assert not path.exists()
        with pytest.raises(NoInputError, match=f"remove {path}"):
            remove(path)
        remove(path, missing_ok=True)
        path.write_bytes(b"x")
        remove(path / "below", missing_ok=True)
        with pytest.raises(StreamgdError, match=f"remove {tmp_path}"):
            remove(tmp_path, missing_ok=True)

    def test_leftovers_are_removed_and_nothing_else(self, tmp_path: Path) -> None:
        for name in [".00000002.safetensors.17.tmp", "00000001.safetensors", ".hidden", "a.tmp"]:
            (tmp_path / name).write_bytes(b"x")
        remove_leftovers(tmp_path)
        remove_leftovers(tmp_path / "absent")
        assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "00000001.safetensors", "a.tmp"]


def test_a_state_without_its_arrays_has_all_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(serialize({"theta": np.arange(3.0), "step": 7, "best": [{"loss": np.inf}]}, "checkpoint"))

    assert read_without_arrays(path, "checkpoint") == {"theta": None, "step": 7, "best": [{"loss": np.inf}]}
    with pytest.raises(CorruptStateError, match="expected a model, found a checkpoint"):
        read_without_arrays(path, "model")


def test_damage_is_noticed_without_the_arrays_too(tmp_path: Path) -> None:
    path, whole = tmp_path / "state", serialize({"theta": np.arange(3.0), "step": 7}, "checkpoint")
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CorruptStateError):
            read_without_arrays(path, "checkpoint")
        path.write_bytes(whole[:place])
        with pytest.raises(CorruptStateError):
            read_without_arrays(path, "checkpoint")


class TestReserve:
    """A file whose space is reserved at once, where the file system can."""

    def test_the_space_is_taken(self, tmp_path: Path) -> None:
        os.close(FileSystem().create(tmp_path / "file", 1_000_000, reserve=True))
        found = (tmp_path / "file").stat()
        assert found.st_size == 1_000_000
        assert found.st_blocks * 512 >= 1_000_000

    @staticmethod
    def answer(answers: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        """The system's call fails with these errors, one after another."""

        class CLibrary:
            def fallocate(self, *_: object) -> int:
                ctypes.set_errno(answers.pop(0))
                return -1

        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: CLibrary())

    def test_where_the_file_system_cannot_it_is_sparse(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = [errno.EINTR, errno.EOPNOTSUPP]
        self.answer(answers, monkeypatch)
        os.close(FileSystem().create(tmp_path / "file", 1_000_000, reserve=True))
        assert not answers
        found = (tmp_path / "file").stat()
        assert (found.st_size, found.st_blocks) == (1_000_000, 0)

    def test_a_full_disk_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer([errno.ENOSPC], monkeypatch)
        with pytest.raises(OSError, match="No space left"):
            FileSystem().create(tmp_path / "file", 1_000_000, reserve=True)
