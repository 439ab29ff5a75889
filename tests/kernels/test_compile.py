"""Loops are compiled when they are called, for the types of the call, and all at once if asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numba import types
from processes import python_path

from streamgd.errors import PausedError
from streamgd.kernels import compile as compiling
from streamgd.kernels.compile import Listener, Loop, compile_all, compiled, listening, pointwise

SIGNATURES = [types.float64(kind[::1]) for kind in (types.float32, types.float64)]


def total(values):  # type: ignore[no-untyped-def]
    found = 0.0
    for i in range(values.shape[0]):
        found += values[i]
    return found


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    """Of no cache, as where no folder for it can be written."""

    def without_folder(function: Any) -> None:
        raise RuntimeError("no locator available")

    monkeypatch.setattr(compiling, "_EVERY", [])
    monkeypatch.setattr(compiling, "_Cache", without_folder)
    return Loop(total, SIGNATURES)


def compiled_for(loop: Loop) -> list[str]:
    return [str(each.signatures[0][0].dtype) for each in loop._dispatchers if each is not None]


def test_a_call_compiles_for_its_own_types(loop: Loop) -> None:
    assert compiled_for(loop) == []
    for _ in range(2):
        assert loop(np.arange(4, dtype=np.float32)) == 6.0
        assert compiled_for(loop) == ["float32"]
    assert loop(np.arange(5.0)) == 10.0
    assert compiled_for(loop) == ["float32", "float64"]


def test_a_call_with_other_types_is_an_error_and_compiles_nothing(loop: Loop) -> None:
    with pytest.raises(TypeError, match="total is called with types that it is not made for"):
        loop(np.arange(4))
    assert compiled_for(loop) == []
    loop(np.arange(4.0))
    with pytest.raises(TypeError, match="types that it is not made for"):
        loop(np.arange(4))
    assert compiled_for(loop) == ["float64"]


def test_a_loop_that_calls_another_finds_all_its_types(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "inner", loop)

    @compiled(types.float64(types.float32[::1], types.float64[::1]))
    def outer(a, b):  # type: ignore[no-untyped-def]
        return inner(a) * inner(b)  # type: ignore[name-defined]  # noqa: F821

    assert outer(np.ones(3, np.float32), np.ones(4)) == 12.0


def test_threads_may_be_the_first_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """… with arrays that numba has to take for others, while the loop is compiled for another type."""
    monkeypatch.setattr(compiling, "_EVERY", [])
    readonly = [types.Array(kind, 1, "C", readonly=True) for kind in (types.float32, types.float64, types.int64)]
    rows = [np.ones(3, np.float32), np.ones(4), np.ones(5, np.int64)] * 20
    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(3):
            loop = Loop(total, [types.float64(kind) for kind in readonly])
            with ThreadPoolExecutor(6) as pool:
                assert list(pool.map(loop, rows)) == [3.0, 4.0, 5.0] * 20
    finally:
        sys.setswitchinterval(switch_s)


def test_a_compilation_is_told_once(loop: Loop) -> None:
    told: list[str | None] = []
    with listening(Listener(told.append, lambda: None)):
        assert told == []
        loop(np.ones(2, np.float32))
        loop(np.ones(2))
    assert told == [None]
    with listening(Listener(told.append, lambda: None)):
        loop(np.ones(3))
    assert told == [None]


def test_one_who_waits_may_stop_before_a_loop_is_compiled(loop: Loop) -> None:
    def stop() -> None:
        raise PausedError("stopped")

    with listening(Listener(lambda _: None, stop)), pytest.raises(PausedError):
        loop(np.ones(2))
    assert compiled_for(loop) == []
    assert loop(np.ones(2)) == 2.0
    with listening(Listener(lambda _: None, stop)):
        assert loop(np.ones(2)) == 2.0


def test_a_compilation_that_was_broken_off_is_taken_up_again(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_off(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(compiling, "njit", broken_off)
        with pytest.raises(KeyboardInterrupt):
            loop(np.ones(2))
    assert loop(np.ones(2)) == 2.0
    assert compiled_for(loop) == ["float64"]


def test_what_it_is_called_and_said_to_do_is_that_of_the_function(loop: Loop) -> None:
    assert (loop.__name__, loop.__module__) == ("total", __name__)  # type: ignore[attr-defined]


def test_all_can_be_compiled_beforehand(loop: Loop) -> None:
    function = pointwise(lambda y, raw, settings: y - raw + settings[0])
    assert compile_all() == (2, 2, {None})
    assert compiled_for(loop) == ["float32", "float64"]
    assert "_compiled" in vars(function)


def test_two_shares_of_all_are_all(loop: Loop) -> None:
    function = pointwise(lambda y, raw, settings: y - raw * settings[0])
    assert [compile_all(share, 2) for share in (0, 1)] == [(1, 1, {None}), (1, 1, {None})]
    assert compiled_for(loop) == ["float32", "float64"]
    assert "_compiled" in vars(function)


@pytest.mark.slow
def test_the_run_that_compiles_gives_the_bits_of_those_that_read_the_cache(flights: Path, tmp_path: Path) -> None:
    code = (
        f"import streamgd; result = streamgd.train({str(flights)!r}, 'late', run='run', restart=True, epochs=1,"
        " features='month,day,dep_time,distance,air_time,carrier,origin,dest')\n"
        "print(result.model.theta_sha256)"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": python_path()}
    found = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
        ).stdout
        for _ in range(2)
    ]
    assert len(found[0]) == 65
    assert found[0] == found[1]


def test_what_is_in_the_cache_by_itself_still_becomes_a_part_of_loops(tmp_path: Path) -> None:
    """A loop that called it instead would give other bits than the same loop where its cache was filled in turn."""
    program = (
        "from streamgd.kernels import coordinates\n"
        "coordinates.list_each_once.compile()\n"
        "code = coordinates.meet_levels._compiled(0).inspect_llvm().values()\n"
        "calls = [line for line in ''.join(code).splitlines() if ' call ' in line and 'list_each_once' in line]\n"
        "assert not calls, calls"
    )
    environment = {**os.environ, "PYTHONPATH": python_path(), "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_what_is_in_the_cache_is_read_without_what_numba_compiles_with(tmp_path: Path) -> None:
    """… nor SciPy's linear algebra, which that takes along: a run of few rows would take half as long again."""
    levels = ["a", "b", "a", "a", "c"] * 40
    data = pa.table({"x": [1.0, 2.0, 4.0, 3.0] * 50, "level": levels, "y": [0, 1, 1, 0] * 50})
    pq.write_table(data, tmp_path / "data.parquet")
    program = (
        "import sys, streamgd\n"
        "for method in ('minibatch', 'sgd', 'batch'):\n"
        "    streamgd.train('data.parquet', 'y', method=method, l2=0.1, run=f'runs/{method}', restart=True)\n"
        "print(sorted({'numba.np.arraymath', 'scipy.linalg'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": python_path()}
    found = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=tmp_path, text=True, capture_output=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert found[1] == "[]\n"


@pytest.mark.slow
def test_what_was_compiled_beforehand_is_there_for_runs(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}

    def compile_and_list() -> tuple[str, set[Path]]:
        command = [sys.executable, "-m", "streamgd.precompile"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        return said, set(tmp_path.rglob("*.nbc"))

    said, files = compile_and_list()
    n_loops = int(said.split()[0])
    assert n_loops > 100
    assert f"{n_loops} loops, {n_loops} of them compiled now, kept in {tmp_path}" in said
    assert len(files) > 150
    again, files_then = compile_and_list()
    assert f"{n_loops} loops, 0 of them compiled now" in again
    assert files_then == files


def test_an_import_of_the_kernels_compiles_nothing() -> None:
    code = (
        "import pkgutil, importlib, streamgd.kernels as k\n"
        "from streamgd.kernels import compile as c\n"
        "for each in pkgutil.iter_modules(k.__path__): importlib.import_module(f'{k.__name__}.{each.name}')\n"
        "print(len(c._EVERY), sum(any(e._dispatchers) for e in c._EVERY if isinstance(e, c.Loop)))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert int(found[0]) > 50
    assert found[1] == "0"


INNER = """
from streamgd.kernels.compile import UNARY, compiled
@compiled(UNARY)
def inner(x):
    return x + {number}
"""
OUTER = """
from streamgd.kernels.compile import UNARY, compiled
from streamgd.kernels.inner import inner
@compiled(UNARY)
def outer(x):
    return inner(x)
"""


def test_a_loop_in_the_cache_is_not_used_when_another_file_that_it_calls_has_changed(tmp_path: Path) -> None:
    package, script = tmp_path / "streamgd", tmp_path / "script.py"
    shutil.copytree(Path(compiling.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "kernels" / "inner.py").write_text(INNER.format(number=1))
    (package / "kernels" / "outer.py").write_text(OUTER)
    script.write_text(
        "from streamgd.kernels.outer import outer\nprint(outer(1.0), outer.compile()[0].cache_hits.total())\n"
    )

    def run() -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        return subprocess.run(
            [sys.executable, script], env=environment, text=True, capture_output=True, check=True
        ).stdout

    assert [run(), run()] == ["2.0 0\n", "2.0 1\n"]
    (package / "kernels" / "inner.py").write_text(INNER.format(number=2))
    assert [run(), run()] == ["3.0 0\n", "3.0 1\n"]
