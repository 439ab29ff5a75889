"""Which files a source names: a file, a directory, a glob or a URI. Nothing is opened here."""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pyarrow import fs

from streamgd.credentials import with_credentials
from streamgd.data.asking import ask
from streamgd.data.storage_failures import filesystem_errors
from streamgd.data.stores import open_store, path_in
from streamgd.errors import NoInputError
from streamgd.plain import count_noun

_PARQUET_ENDINGS = (".parquet", ".pq", ".parq")
_TEXT_ENDING = re.compile(r"\.(csv|tsv|json|jsonl|ndjson)(\.gz)?$", re.IGNORECASE)
_GLOB = re.compile(r"[*?\[]")


class NothingThereError(NoInputError):
    """A directory without any file of the kind, or a pattern that matches nothing: something may yet come."""


@dataclass(frozen=True)
class Listed:
    """A file that a source named: ``relative`` below ``root``; ``source`` is the number of the source."""

    info: fs.FileInfo
    root: str
    relative: str
    source: int


def locate(source: str, filesystem: fs.FileSystem | None) -> tuple[fs.FileSystem, str]:
    """The file system of a source, and its path or glob there."""
    if filesystem is not None:
        local = isinstance(filesystem, fs.LocalFileSystem) and "://" not in source
        return filesystem, _absolute(source) if local else path_in(filesystem, source)
    if "://" not in source:
        return fs.LocalFileSystem(), _absolute(source)
    address, mark, query = with_credentials(source).partition("?")  # in a URI '?' begins the options, it is no wildcard
    fixed, pattern = _split_glob(address)
    store, path = open_store(fixed + mark + query)
    return store, "/".join([path.rstrip("/"), *pattern])


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path)).replace(os.sep, "/")


def _split_glob(path: str) -> tuple[str, list[str]]:
    """A path cut before the first part that has a wildcard."""
    parts = path.split("/")
    fixed = next((number for number, part in enumerate(parts) if _GLOB.search(part)), len(parts))
    return "/".join(parts[:fixed]), parts[fixed:]


def list_source(filesystem: fs.FileSystem, path: str, source: int) -> list[Listed]:
    """The files that one source names, at least one."""
    with filesystem_errors(f"look for data at {path}"):
        info = _infos(filesystem, [path])[0]
        root = path
        if info.type == fs.FileType.Directory:
            infos = _parquet_below(filesystem, path)
        elif info.type != fs.FileType.NotFound:
            root, infos = path.rpartition("/")[0], [info]
        else:
            root, pattern = _split_glob(path)
            if not pattern:
                raise NoInputError(f"no such file or directory: {path}. Check the path.")
            infos = []
            for match in _matches(filesystem, root, pattern):
                is_folder = match.type == fs.FileType.Directory
                infos += _parquet_below(filesystem, match.path) if is_folder else [match]
            if not infos:
                raise NothingThereError(f"no file matches {path}. Check the pattern.")
    if not infos:
        raise _no_parquet(filesystem, path)
    for info in infos:
        if _TEXT_ENDING.search(info.path):
            raise NoInputError(f"{info.path} is not Parquet. Convert it first: {_conversion(info.path, info.path)}")
        if info.type == fs.FileType.Unknown:
            raise NoInputError(
                f"{info.path} is not a regular file; Parquet is read from its end. Write it to a file first."
            )
    return [Listed(info, root, _below(info.path, root), source) for info in infos]


def _infos(filesystem: fs.FileSystem, what: fs.FileSelector | list[str]) -> list[fs.FileInfo]:
    place = what.base_dir if isinstance(what, fs.FileSelector) else what[0]
    return ask(filesystem, f"look for data at {place}", lambda: filesystem.get_file_info(what))


def _below(path: str, root: str) -> str:
    return path[len(root) :].lstrip("/")


def _passed_over(relative: str) -> bool:
    return any(part.startswith(("_", ".")) for part in relative.split("/"))


def _files_below(filesystem: fs.FileSystem, folder: str) -> list[fs.FileInfo]:
    infos = _infos(filesystem, fs.FileSelector(folder, recursive=True))
    return [info for info in infos if info.type != fs.FileType.Directory]


def _not_passed_over(files: list[fs.FileInfo], folder: str) -> list[fs.FileInfo]:
    return [info for info in files if not _passed_over(_below(info.path, folder))]


def _parquet_below(filesystem: fs.FileSystem, folder: str) -> list[fs.FileInfo]:
    files = _not_passed_over(_files_below(filesystem, folder), folder)
    return [info for info in files if info.path.lower().endswith(_PARQUET_ENDINGS)]


def _matches(filesystem: fs.FileSystem, folder: str, pattern: list[str]) -> Iterator[fs.FileInfo]:
    """What matches the parts of a glob below a folder, possibly twice if ``**`` occurs twice."""
    part, *rest = pattern
    if part == "**":
        if not rest:
            yield _infos(filesystem, [folder])[0]
            return
        yield from _matches(filesystem, folder, rest)
    for info in _infos(filesystem, fs.FileSelector(folder, allow_not_found=True)):
        is_folder = info.type == fs.FileType.Directory
        if _passed_over(info.base_name) and info.base_name[0] != part[0]:
            continue
        if part == "**":
            if is_folder:
                yield from _matches(filesystem, info.path, pattern)
        elif fnmatch.fnmatchcase(info.base_name, part):
            if not rest:
                yield info
            elif is_folder:
                yield from _matches(filesystem, info.path, rest)


def _no_parquet(filesystem: fs.FileSystem, folder: str) -> NoInputError:
    """The error for a directory without Parquet, with the way out if it holds text."""
    files = _files_below(filesystem, folder)
    others = _not_passed_over(files, folder)
    holds = count_noun(len(others), "other file")
    if len(files) > len(others):
        holds += f", and {len(files) - len(others):,} passed over for names that begin with . or _"
    found = f"no Parquet file (*.parquet, *.pq, *.parq) in {folder}, which holds {holds}."
    for info in others:
        ending = _TEXT_ENDING.search(info.path)
        if ending:
            levels = "/**/" if "/" in _below(info.path, folder) else "/"
            return NoInputError(f"{found} Convert them first: {_conversion(folder + levels + '*' + ending[0], folder)}")
    kind = NoInputError if others else NothingThereError
    return kind(f"{found} Name the files or a glob if they are Parquet under another ending.")


def _conversion(text: str, target: str) -> str:
    """The command that converts text files to Parquet."""
    text, target = text.replace("'", "''"), _TEXT_ENDING.sub("", target).replace("'", "''")
    return f"""duckdb -c "COPY (FROM '{text}') TO '{target}.parquet'\""""


def unique_relatives(items: list[Listed]) -> dict[str, Listed]:
    """Relative path -> file; where sources collide, their last folder's name goes before, until all differ."""
    # Different files have different whole paths, so this ends.
    depth: Counter[int] = Counter()
    while True:
        named: dict[str, list[Listed]] = {}
        for item in items:
            folders = item.root.strip("/").split("/")
            prefix = folders[max(0, len(folders) - depth[item.source]) :] if depth[item.source] else []
            named.setdefault("/".join([*prefix, item.relative]), []).append(item)
        colliding = {item.source for same in named.values() if len(same) > 1 for item in same}
        if not colliding:
            return {relative: same[0] for relative, same in named.items()}
        depth.update(colliding)
