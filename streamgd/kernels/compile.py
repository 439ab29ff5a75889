"""How loops are compiled: for types that are told, at the first call, cached on disk, without the GIL.

A run needs a few of all loops, and one type of features: what it does not call is neither compiled nor read.

Full ``fastmath`` would delete every check for NaN and inf; the four flags below let sums be reordered and
multiply-adds be fused, and keep the checks. Division is that of numpy: Python's, which raises for a divisor of zero,
would keep every loop with a division from being vectorised.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit, types
from numba.core.compiler_lock import global_compiler_lock
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


_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": FASTMATH, "error_model": "numpy"}

#: All loops whose types are told, and all functions that loops take as arguments.
_EVERY: list[Loop | Argument] = []


def compiled(signature: Any = None) -> Callable[[Function], Function]:
    """Compile a loop: with ``signature`` (one or a list) as :class:`Loop`, else where the loops that call it are."""
    if signature is None:
        return cast("Callable[[Function], Function]", njit(**_OPTIONS))
    signatures = signature if isinstance(signature, list) else [signature]

    def of(function: Function) -> Function:
        return cast("Function", Loop(function, signatures))

    return of


def compile_all() -> int:
    """Compile everything that has been imported, for all types, or read it from the cache; returns how many it was."""
    for each in _EVERY:
        each.compile()
    return len(_EVERY)


class Loop:
    """A loop that is compiled, or read from the cache, by its first call with the types of each signature."""

    def __init__(self, function: Any, signatures: list[Any]):
        update_wrapper(self, function)
        self._function = function
        self._dispatcher = njit(**_OPTIONS)(function)
        #: Those that are not compiled yet, each with the types of its arrays by their positions.
        self._waiting = [(signature, _array_types(signature)) for signature in signatures]
        _EVERY.append(self)

    def __call__(self, *arguments: Any) -> Any:
        for waiting in self._waiting:
            if all(getattr(arguments[position], "dtype", None) == dtype for position, dtype in waiting[1]):
                self._compile([waiting])
                break
        if not self._dispatcher.overloads:
            raise TypeError(f"{self._function.__name__} is called with types that it is not made for")
        return self._dispatcher(*arguments)

    def compile(self) -> None:
        """Compile it for all types."""
        self._compile(list(self._waiting))

    @property
    def _numba_type_(self) -> Any:
        """What it is to loops that call it, which are being compiled."""
        self.compile()
        return self._dispatcher._numba_type_

    def _compile(self, those: list[tuple[Any, list[tuple[int, np.dtype]]]]) -> None:
        with global_compiler_lock:
            self._dispatcher.disable_compile(False)
            for signature, _ in those:
                self._dispatcher.compile(signature)
            # What is called with other types is an error, and no reason to compile for seconds.
            self._dispatcher.disable_compile()
            self._waiting = [each for each in self._waiting if each not in those]


def _array_types(signature: Any) -> list[tuple[int, np.dtype]]:
    """The positions of a signature's arrays, and the types of their elements."""
    kinds = enumerate(signature.args)
    return [(position, as_dtype(kind.dtype)) for position, kind in kinds if isinstance(kind, types.Array)]


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

    def compile(self) -> None:
        """Compile it, or read it from the cache."""
        assert self._compiled is not None

    @cached_property
    def _compiled(self) -> Any:
        return njit(self._signature, **_OPTIONS)(self._function)

    @cached_property
    def _address(self) -> int:
        result = self._compiled.get_compile_result(self._signature)
        return int(result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name))

    def __wrapper_address__(self) -> int:
        return self._address

    def signature(self) -> Any:
        return self._signature


def pointwise(function: Any) -> Argument:
    """Make of ``f(y_true, raw_prediction, settings) -> float`` what training loops can take as an argument."""
    return Argument(function, POINTWISE)


def over_rows(function: Any) -> Argument:
    """Make such an argument of ``f(y_true, raw_prediction, settings, out)``, which works on many rows at once."""
    return Argument(function, ROWS)


def update_rule(function: Any) -> Argument:
    """Make such an argument of an optimizer's update."""
    return Argument(function, UPDATE)
