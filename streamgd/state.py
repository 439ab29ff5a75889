"""Everything that must survive a kill, as one file: nested state <-> arrays and JSON <-> checked bytes <-> disk.

A *state* nests dicts (string keys) and lists of numpy arrays, int, float, str, bool and None. ``split`` takes it apart
into arrays and a JSON tree, ``join`` is the exact inverse. ``serialize`` makes one safetensors file of both:

    8 bytes   length of the header
    header    JSON: name, dtype, shape and place of every tensor; metadata: format version, kind, tree
    arrays    the widest types first, so that every array is aligned
    32 bytes  tensor '~sha256': SHA-256 of all bytes before it

so every flipped byte and every truncation is noticed, and any safetensors reader opens it. Nothing is ever unpickled.
The layout is written here rather than by the safetensors package, whose order of tensors is its own affair (the
checksum must be last) and which copies the arrays twice; reading goes through the package, which checks every size.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from io import BufferedReader, BytesIO
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from streamgd.errors import DataError, StreamgdError, storage_errors

FORMAT_VERSION = 2

_DTYPE_CODES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float32": "F32",
    "float64": "F64",
}
_CHECKSUM_NAME = "~sha256"
CHECKSUM_BYTES = 32
_LENGTH_BYTES = 8
_PART_BYTES = 1_000_000
_HEADER_MAX_BYTES = 100_000_000  # readers of the format refuse a longer one
_MALFORMED = (SafetensorError, KeyError, ValueError, TypeError, OverflowError, RecursionError, struct.error)
_OTHER_CONTENT = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class CorruptStateError(DataError):
    """A state file that is damaged, of another kind, or written by a newer streamgd."""


def split(state: object) -> tuple[dict[str, np.ndarray], str]:
    """Take a state apart into its arrays and the JSON text of the rest.

    Parameters
    ----------
    state : nested dicts and lists
        Of numpy arrays (bool, 8 to 64 bit integers, float32, float64; native byte order), int, float, str, bool, None.

    Returns
    -------
    arrays : dict of str to ndarray
        C-contiguous; not copied where they are so already. The name of an array is its JSON Pointer (RFC 6901).
    tree : str
        JSON, with ``{"$array": name}`` in place of an array.

    Raises
    ------
    TypeError
        A value of any other type, subclasses included (``join`` could not give the same type back); names its path.

    >>> split({"theta": np.zeros(2), "step": 7})
    ({'/theta': array([0., 0.])}, '{"theta": {"$array": "/theta"}, "step": 7}')
    """
    arrays: dict[str, np.ndarray] = {}
    tree = _encode(state, "", arrays)
    return arrays, json.dumps(tree, allow_nan=False)


def join(arrays: Mapping[str, np.ndarray | None], tree: str) -> Any:
    """The state that ``split`` took apart, holding the given arrays themselves.

    Raises
    ------
    ValueError, KeyError
        ``tree`` is not the JSON text of a tree, or does not name exactly the given arrays.
    """
    named = set()

    def decode(node: dict[str, Any]) -> Any:
        if "$array" in node:
            named.add(node["$array"])
            return arrays[node["$array"]]
        if "$float" in node:
            return struct.unpack(">d", bytes.fromhex(node["$float"]))[0]
        return {key.removeprefix("$"): value for key, value in node.items()}

    state = json.loads(tree, object_hook=decode)
    if named != arrays.keys():
        raise ValueError(f"arrays that the tree does not name: {sorted(arrays.keys() - named)}")
    return state


def _encode(value: object, path: str, arrays: dict[str, np.ndarray]) -> object:
    """The JSON value for ``value``; arrays met on the way are put into ``arrays``."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        # JSON has no inf and nan; the eight bytes keep a nan's sign and payload too.
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    if type(value) is list:
        return [_encode(item, f"{path}/{index}", arrays) for index, item in enumerate(value)]
    if type(value) is dict:
        node = {}
        for key, item in value.items():
            if type(key) is not str or _LONE_SURROGATE.search(key):
                raise TypeError(f"{_readable(path)}: the key {key!r} is not text")
            # Keys that begin with '$' get another one, so that only the marks of this module have exactly one.
            name = "$" + key if key.startswith("$") else key
            node[name] = _encode(item, f"{path}/{key.replace('~', '~0').replace('/', '~1')}", arrays)
        return node
    if type(value) is np.ndarray:
        if not (value.dtype.isnative and value.dtype.name in _DTYPE_CODES):
            raise TypeError(f"{_readable(path)}: {value.dtype} array cannot be stored")
        arrays[path] = np.asarray(value, order="C")
        return {"$array": path}
    raise TypeError(f"{_readable(path)}: {type(value).__module__}.{type(value).__qualname__} cannot be stored")


def _readable(path: str) -> str:
    return path.removeprefix("/") or "the state"


def serialize(state: object, kind: str) -> bytes:
    """The bytes of a safetensors file that holds ``state`` and its own checksum; equal states give equal bytes.

    The result is the only copy of the arrays that is made, and later changes of the state do not reach it.

    Parameters
    ----------
    state : nested dicts and lists
        As for ``split``.
    kind : str
        What the file is (``"checkpoint"``, ``"model"``, ``"prepare"``); ``deserialize`` must be given the same.

    Raises
    ------
    TypeError
        As ``split``.
    ValueError
        The tree is longer than a safetensors header may be; long lists of numbers belong into arrays.
    """
    parts = unsealed_parts(state, kind)
    return b"".join([*parts, checksum_of(parts)])


def checksum_of(parts: list[Any]) -> bytes:
    """What makes a whole file of :func:`unsealed_parts`, put behind them; any thread may compute it."""
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    return checksum.digest()


def unsealed_parts(state: object, kind: str) -> list[bytes | memoryview]:
    """What :func:`serialize` gives but for the checksum, in parts: length, header and arrays, which are not copied."""
    arrays, tree = split(state)
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))
    metadata = {"format_version": str(FORMAT_VERSION), "kind": kind, "tree": tree}
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, array in ordered:
        header[name] = _tensor(_DTYPE_CODES[array.dtype.name], array.shape, end, array.nbytes)
        end += array.nbytes
    header[_CHECKSUM_NAME] = _tensor("U8", (CHECKSUM_BYTES,), end, CHECKSUM_BYTES)

    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _HEADER_MAX_BYTES:
        raise ValueError(f"the {kind}'s header takes {len(text)} bytes, {_HEADER_MAX_BYTES} are allowed")
    parts: list[bytes | memoryview] = [struct.pack("<Q", len(text)), text]
    return parts + [array.reshape(-1).view(np.uint8).data for _, array in ordered]


def _tensor(code: str, shape: tuple[int, ...], begin: int, size_bytes: int) -> dict[str, object]:
    return {"dtype": code, "shape": list(shape), "data_offsets": [begin, begin + size_bytes]}


def deserialize(data: bytes, kind: str, where: str) -> Any:
    """The state in the bytes that ``serialize`` made; its arrays are fresh and writable.

    The checksum is compared before anything is parsed, and nothing in the file is executed.

    Parameters
    ----------
    data : bytes
        The whole file.
    kind : str
        The kind of file that is expected.
    where : str
        The file's path, for messages.

    Raises
    ------
    CorruptStateError
        The file is cut short, altered, not a state file, of another kind, or of another format.
    """
    with _told_as_damaged(where, kind, _MALFORMED):
        header, _, _ = _checked_header(BytesIO(data), len(data), where, kind)
        tree = _tree(header, kind, where)
        arrays = load(data)
        del arrays[_CHECKSUM_NAME]
        return join(arrays, tree)


def _tree(header: dict[str, Any], kind: str, where: str) -> str:
    """The JSON text of the tree in a file's header, if the file is of this kind and version."""
    metadata = header["__metadata__"]
    version, found_kind, tree = int(metadata["format_version"]), metadata["kind"], metadata["tree"]
    if version > FORMAT_VERSION:
        raise CorruptStateError(
            f"{where}: its format {version} is newer than this streamgd's {FORMAT_VERSION}. Update streamgd."
        )
    if version < FORMAT_VERSION:
        raise CorruptStateError(
            f"{where}: its format {version} is that of an earlier streamgd. Train again with --restart."
        )
    if found_kind != kind:
        raise CorruptStateError(f"{where}: expected a {kind}, found a {found_kind}.")
    return str(tree)


def check_regular(path: Path) -> None:
    """Refuse a folder, a pipe or a device in the place of a file: to read from them may never end.

    Raises
    ------
    CorruptStateError
    """
    if path.exists() and not path.is_file():
        found = "a folder" if path.is_dir() else "a pipe or a device"
        raise CorruptStateError(f"{path} is {found}, not a file. Move it away.")


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises
    ------
    CorruptStateError
        It is none: see :func:`check_regular`.
    NoInputError, StorageError, AccessError
        It is not there, or cannot be read.
    """
    check_regular(path)
    with storage_errors(f"read {path}"):
        return path.read_bytes()


def read_state(path: Path, kind: str) -> Any:
    """As :func:`deserialize` of a file, each array read into its own memory: there is no second copy of them all.

    Raises
    ------
    CorruptStateError
        As :func:`deserialize`.
    NoInputError, StorageError, AccessError
        The file is not there, or cannot be read.
    """
    check_regular(path)
    with storage_errors(f"read {path}"), path.open("rb") as file, _told_as_damaged(str(path), kind, _MALFORMED):
        header, begin, end = _checked_header(file, os.fstat(file.fileno()).st_size, str(path), kind)
        tree = _tree(header, kind, str(path))
        tensors = dict(header)
        del tensors["__metadata__"], tensors[_CHECKSUM_NAME]
        return join({name: _read_array(file, each, begin, end) for name, each in tensors.items()}, tree)


def _read_array(file: BufferedReader, tensor: dict[str, Any], begin: int, end: int) -> np.ndarray:
    """An array of a file whose arrays stand from ``begin`` to ``end``."""
    kinds = {code: name for name, code in _DTYPE_CODES.items()}
    dtype, shape = np.dtype(kinds[tensor["dtype"]]), [int(size) for size in tensor["shape"]]
    first, last = (begin + int(offset) for offset in tensor["data_offsets"])
    if min(shape, default=0) < 0 or last - first != dtype.itemsize * math.prod(shape):
        raise ValueError(f"an array of shape {shape} does not fit its {last - first} bytes")
    if not begin <= first <= last <= end:
        raise ValueError("an array goes beyond the end")
    array = np.empty(shape, dtype)
    file.seek(first)
    if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
        raise ValueError("the file was cut short meanwhile")
    return array


def read_without_arrays(path: Path, kind: str) -> Any:
    """The state in a file, None in the place of its arrays: they are checked, but take no memory.

    Raises
    ------
    CorruptStateError
        As :func:`deserialize`, but that the places of arrays are not looked at.
    """
    check_regular(path)
    with path.open("rb") as file, _told_as_damaged(str(path), kind, _MALFORMED):
        header, _, _ = _checked_header(file, os.fstat(file.fileno()).st_size, str(path), kind)
        names = header.keys() - {"__metadata__", _CHECKSUM_NAME}
        return join(dict.fromkeys(names), _tree(header, kind, str(path)))


def _checked_header(file: BinaryIO, size: int, where: str, kind: str) -> tuple[dict[str, Any], int, int]:
    """The header of a file of ``size`` bytes whose checksum holds, and where its arrays begin and end."""
    if size < _LENGTH_BYTES + CHECKSUM_BYTES:
        raise CorruptStateError(f"{where}: too short to be a {kind}: {size} bytes.")
    checksum, left = hashlib.sha256(), size - CHECKSUM_BYTES
    while left and (part := file.read(min(left, _PART_BYTES))):
        checksum.update(part)
        left -= len(part)
    if left or checksum.digest() != file.read():
        raise CorruptStateError(f"{where}: damaged: the checksum differs, the file was cut short or altered.")
    file.seek(0)
    (header_bytes,) = struct.unpack("<Q", file.read(_LENGTH_BYTES))
    if header_bytes > size - _LENGTH_BYTES - CHECKSUM_BYTES:
        raise CorruptStateError(f"{where}: damaged: its header is to have {header_bytes} bytes, the file has {size}.")
    header = json.loads(file.read(header_bytes))
    return header, _LENGTH_BYTES + header_bytes, size - CHECKSUM_BYTES


@contextmanager
def _told_as_damaged(where: str, kind: str, malformed: tuple[type[Exception], ...]) -> Iterator[None]:
    """Say that a file is damaged where such an error is met though its checksum holds: it was made on purpose."""
    try:
        yield
    except StreamgdError:
        raise
    except malformed as error:
        reason = " ".join(str(error).split())[:200]
        raise CorruptStateError(f"{where}: damaged: not a {kind}: {type(error).__name__}: {reason}.") from error


def no_other_content(where: str, kind: str) -> AbstractContextManager[None]:
    """Say that a file is damaged where what it holds is not what a ``kind`` holds, though its checksum is true."""
    return _told_as_damaged(where, kind, _OTHER_CONTENT)


class FileSystem:
    """The operations that change the disk; tests put another one in place of ``files`` and let it fail."""

    def open(self, path: Path) -> BinaryIO:
        """A new, unbuffered file for writing; its mode follows the umask."""
        return open(path, "wb", buffering=0)

    def write(self, file: BinaryIO, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data``; a single call to the operating system may take less, at most 2 GB."""
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]

    def append(self, path: Path, kept_bytes: int, data: bytes) -> int:
        """Write ``data`` after the first ``kept_bytes`` of a file, or after all if it has fewer; returns its size."""
        with open(path, "ab", buffering=0) as file:
            kept_bytes = min(kept_bytes, file.seek(0, os.SEEK_END))
            file.truncate(kept_bytes)
            self.write(file, data)
        return kept_bytes + len(data)

    def create(self, path: Path, size_bytes: int, reserve: bool = False) -> int:
        """A new file to be written by position; returns its descriptor.

        It is sparse, or has its space reserved where the file system can: writing all over a sparse file takes
        several times as long.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            os.ftruncate(descriptor, size_bytes)
            if reserve:
                _fallocate(descriptor, size_bytes)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                os.close(descriptor)
                raise
        return descriptor

    def write_at(self, descriptor: int, data: memoryview, position: int) -> None:
        """Write all of ``data`` at a position; threads may do so at the same time."""
        while data:
            written = os.pwrite(descriptor, data, position)
            data, position = data[written:], position + written

    def fsync(self, file: BinaryIO) -> None:
        """Wait until the file's content is on the device. Not to be retried: a second call may falsely succeed."""
        os.fsync(file.fileno())

    def replace(self, source: Path, target: Path) -> None:
        """Rename ``source``, over ``target`` if that exists."""
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        """Delete a file."""
        os.remove(path)

    def fsync_folder(self, folder: Path) -> None:
        """Wait until renames and new names in the folder are on the device."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Some network file systems know no fsync of a folder; there the rename itself must do.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


files = FileSystem()


def _fallocate(descriptor: int, size_bytes: int) -> None:
    """Reserve the space of a file by the system's own call.

    ``os.posix_fallocate`` would write to every page where the file system cannot: as slow as writing the file.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if call is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    while call(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size_bytes)):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def write_atomically(path: Path, *parts: bytes | bytearray | memoryview, outlives_power: bool = True) -> None:
    """Write a file so that, whenever it is interrupted, ``path`` holds what it held before or all of the parts.

    Parameters
    ----------
    outlives_power : bool
        Wait until it is on the device. Otherwise it outlives the process only: after a loss of power it may be there
        in part.

    Raises
    ------
    StorageError, AccessError
        Writing failed. The temporary file is removed if that is possible.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(f"write {path}"):
        try:
            with files.open(temporary) as file:
                for part in parts:
                    files.write(file, part)
                if outlives_power:
                    files.fsync(file)
            files.replace(temporary, path)
            if outlives_power:
                files.fsync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                files.remove(temporary)
            raise


def make_folder(folder: Path) -> list[Path]:
    """Make a folder, and those above it, unless it is there; its name is on the device afterwards.

    Returns
    -------
    list of Path
        The folders that were made, each before those above it.
    """
    if folder.is_dir():
        return []
    made = list(takewhile(lambda path: not path.exists(), [folder, *folder.parents]))
    with storage_errors(f"make folder {folder}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files.fsync_folder(folder.parent)
        except BaseException:
            remove_empty(made)
            raise
    return made


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, each before those above it, up to the first that holds something."""
    with suppress(OSError):
        for folder in folders:
            if folder.exists():
                folder.rmdir()


def remove(path: Path, missing_ok: bool = False) -> None:
    """Delete a file; with ``missing_ok``, if it is there."""
    absent = (FileNotFoundError, NotADirectoryError) if missing_ok else ()
    with storage_errors(f"remove {path}"), suppress(*absent):
        files.remove(path)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the temporary files, or those of one file, that killed processes left in ``folder``.

    Nobody else may be writing there.
    """
    for path in sorted(folder.glob(f".{name}.*.tmp")):
        remove(path)
