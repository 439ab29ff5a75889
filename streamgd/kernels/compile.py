"""How loops are compiled: for types that are told, at the first call, cached on disk, without the GIL.

A run needs a few of all loops, and one type of features: what it does not call is neither compiled nor read.

Full ``fastmath`` would delete every check for NaN and inf; the four flags below let sums be reordered and
multiply-adds be fused, and keep the checks. Division is that of numpy: Python's, which raises for a divisor of zero,
would keep every loop with a division from being vectorised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit, types
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.runtime import rtsys
from numba.np.numpy_support import as_dtype

FASTMATH = {"reassoc", "contract", "nsz", "arcp"}

Function = TypeVar("Function", bound=Callable[..., Any])

#: The type of a function of one number.
UNARY = types.float64(types.float64)

#: The type of a loss's value, derivative and curvature per row: ``f(y_true, raw_prediction, settings)``.
POINTWISE = types.float64(types.float64, types.float64, types.float64[::1])
POINTWISE_FUNCTION = types.FunctionType(POINTWISE)

#: The type of the same of many rows at once: ``f(y_true, raw_prediction, settings, out)``.
ROWS = types.void(types.float64[::1], types.float64[::1], types.float64[::1], types.float64[::1])
ROWS_FUNCTION = types.FunctionType(ROWS)

#: The type of an optimizer's update; see ``streamgd.optim.stochastic``.
UPDATE = types.void(
    types.float64[::1],  # theta
    types.float64[::1],  # gradient
    types.float64[:, ::1],  # slots of the optimizer, one row each, which may be longer
    types.float64[::1],  # rate of each coordinate, written by the update
    types.float64[::1],  # settings of the optimizer
    types.float64,  # learning rate
    types.int64,  # number of this step, from 1
)
UPDATE_FUNCTION = types.FunctionType(UPDATE)


def _digest_of_sources() -> str:
    """Of the files that have loops and what loops call."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for folder in ("kernels", "objective/losses"):
        for path in sorted((package / folder).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


#: A loop in the cache has in it what it calls, of other files too, but numba looks at its own file alone (0.68 at its
#: content). So it is kept by a name that goes with all files: no version reads what another one has left.
_SOURCES = _digest_of_sources()


class _Cache(FunctionCache):
    """The cache of a loop, of which most processes only read.

    Numba would first fetch whatever it can compile, and SciPy with it where that is installed: a third of the time in
    which a small run starts. What compiles fetches all of that by itself.
    """

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)  # What loops allocate memory with; ``refresh`` would do that too.
        target_context.refresh = lambda: None
        try:
            return super().load_overload(signature, target_context)
        finally:
            del target_context.refresh


def _jit(function: Any, signature: Any = None, nogil: bool = True) -> Any:
    """The dispatcher of a function; where no folder for a cache can be written, without a cache.

    What is called by loops becomes a part of each. Else there would be a copy beside each of them, by the same name, of
    which a process uses the one it meets first; and these sum in different orders. A process that compiles meets others
    than one that reads the cache. So it is with all: a loop finds what it calls in the cache by its name, which does
    not say whether it was made to become a part of others.
    """
    options: dict[str, Any] = {"nogil": nogil, "fastmath": FASTMATH, "error_model": "numpy", "forceinline": True}
    if not function.__qualname__.endswith(_SOURCES):
        function.__qualname__ += f"_{_SOURCES}"
    dispatcher = njit(**options)(function)
    with suppress(RuntimeError):  # numba: no locator available
        cache = _Cache(function)
        dispatcher.enable_caching()  # numba's own, should it keep it elsewhere one day
        dispatcher._cache = cache
    if signature is not None:
        for each in signature if isinstance(signature, list) else [signature]:
            dispatcher.compile(each)
        dispatcher.disable_compile()
    return dispatcher


#: All loops whose types are told, and all functions that loops take as arguments.
_EVERY: list[Loop | Argument] = []


def compiled(signature: Any = None, nogil: bool = True) -> Callable[[Function], Function]:
    """Compile a loop: with ``signature`` (one or a list) as :class:`Loop`, else where the loops that call it are.

    Without ``nogil``, other threads wait for it: of loops that take less time than to become the one that runs again.
    """
    if signature is None:
        return _jit
    signatures = signature if isinstance(signature, list) else [signature]

    def of(function: Function) -> Function:
        return cast("Function", Loop(function, signatures, nogil))

    return of


def compile_all(share: int = 0, n_shares: int = 1) -> tuple[int, int, set[str | None]]:
    """Compile everything that has been imported, for all types, or read it from the cache.

    Of several processes, each may do one share of ``n_shares``.

    Returns
    -------
    tuple
        How many there are, how many of these were compiled for some type, and the folders of the cache; None stands
        for those that no cache keeps.
    """
    stats = [each.compile() for each in _EVERY[share::n_shares]]
    folders = {str(Path(one.cache_path).parent) if one.cache_path else None for found in stats for one in found}
    return len(stats), sum(any(one.cache_misses for one in found) for found in stats), folders


@dataclass(frozen=True, eq=False)
class Listener:
    """Somebody who waits for loops.

    Attributes
    ----------
    tell : function of the folder of the cache, None if there is none
        Called once, if a loop is compiled that is not in the cache: more of them will follow.
    check : function
        Called before a loop is compiled or read; raises to stop.
    """

    tell: Callable[[str | None], None]
    check: Callable[[], None]


#: Those who wait, with whether they were told.
_listeners: dict[Listener, bool] = {}


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside, ``listener`` is told and asked."""
    _listeners[listener] = False
    try:
        yield
    finally:
        del _listeners[listener]


def _tell(folder: str | None) -> None:
    for listener, told in list(_listeners.items()):
        if not told:
            _listeners[listener] = True
            listener.tell(folder)


class Loop:
    """A loop that is compiled, or read from the cache, by its first call with the types of each signature.

    It is called by position. Each signature has a dispatcher of its own, which is whole when threads first see it:
    numba takes one that may still compile for other types than its own to be called with.
    """

    def __init__(self, function: Any, signatures: list[Any], nogil: bool = True):
        update_wrapper(self, function)
        self._function = function
        self._signatures = signatures
        self._nogil = nogil
        self._telling_types = _telling_types(signatures)
        self._dispatchers: list[Any] = [None] * len(signatures)
        _EVERY.append(self)

    def __call__(self, *arguments: Any) -> Any:
        number = 0 if len(self._signatures) == 1 else self._number_of(arguments)
        dispatcher = self._dispatchers[number]
        if dispatcher is None:
            for listener in list(_listeners):
                listener.check()
            dispatcher = self._compiled(number)
        return dispatcher(*arguments)

    def __reduce__(self) -> str:
        """Of a loop that is a part of another, the name: by it, numba knows the other one again."""
        return str(self.__qualname__)

    def compile(self) -> list[Any]:
        """Compile it for all types; returns what numba knows of them."""
        return [self._compiled(number).stats for number in range(len(self._signatures))]

    @cached_property
    def _for_all(self) -> Any:
        """The dispatcher for all types, of which loops that call it choose when they are compiled."""
        return _jit(self._function, self._signatures)

    @property
    def _numba_type_(self) -> Any:
        return self._for_all._numba_type_

    def _number_of(self, arguments: tuple[Any, ...]) -> int:
        """The signature whose arrays have elements of the same types."""
        for number, telling in enumerate(self._telling_types):
            if all(getattr(arguments[position], "dtype", None) == dtype for position, dtype in telling):
                return number
        raise TypeError(f"{self._function.__name__} is called with types that it is not made for")

    def _compiled(self, number: int) -> Any:
        with global_compiler_lock:
            if self._dispatchers[number] is None:
                dispatcher = _jit(self._function, self._signatures[number], self._nogil)
                if dispatcher.stats.cache_misses:
                    _tell(dispatcher.stats.cache_path)
                self._dispatchers[number] = dispatcher
        return self._dispatchers[number]


def _telling_types(signatures: list[Any]) -> list[list[tuple[int, np.dtype]]]:
    """For each signature, the positions of arrays in which signatures differ, and the types of their elements.

    All have arrays at the same positions.
    """
    found = [
        {
            position: as_dtype(kind.dtype)
            for position, kind in enumerate(signature.args)
            if isinstance(kind, types.Array)
        }
        for signature in signatures
    ]
    assert all(each.keys() == found[0].keys() for each in found)
    differing = [at for at in found[0] if any(each[at] != found[0][at] for each in found)]
    return [[(at, each[at]) for at in differing] for each in found]


class Argument(types.WrapperAddressProtocol):
    """A function that compiled loops take as an argument, compiled at first use: most runs need one loss of many.

    They would take the compiled function itself too, but its address would be looked up at each call of the loop.
    """

    def __init__(self, function: Any, signature: Any):
        self._function = function
        self._signature = signature
        self._numba_type_ = types.FunctionType(signature)
        _EVERY.append(self)

    def __call__(self, *arguments: Any) -> Any:
        return self._compiled(*arguments)

    def compile(self) -> list[Any]:
        """Compile it, or read it from the cache; returns what numba knows of it."""
        return [self._compiled.stats]

    @cached_property
    def _compiled(self) -> Any:
        return _jit(self._function, self._signature)

    @cached_property
    def _address(self) -> int:
        result = self._compiled.get_compile_result(self._signature)
        return int(result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name))

    def __wrapper_address__(self) -> int:
        return self._address

    def signature(self) -> Any:
        return self._signature


def pointwise(function: Any) -> Argument:
    """Make of ``f(y_true, raw_prediction, settings) -> float`` what loops can take as an argument."""
    return Argument(function, POINTWISE)


def over_rows(function: Any) -> Argument:
    """Make such an argument of ``f(y_true, raw_prediction, settings, out)``, which works on many rows at once."""
    return Argument(function, ROWS)


def update_rule(function: Any) -> Argument:
    """Make such an argument of an optimizer's update."""
    return Argument(function, UPDATE)
