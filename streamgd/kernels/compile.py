"""How loops are compiled: ahead of use where the types are known, cached on disk, without the GIL.

Full ``fastmath`` would delete every check for NaN and inf; the four flags below let sums be reordered and
multiply-adds be fused, and keep the checks. Division is that of numpy: Python's, which raises for a divisor of zero,
would keep every loop with a division from being vectorised.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar, cast

from numba import njit, types

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


def compiled(signature: Any = None) -> Callable[[Function], Function]:
    """Compile a loop; with ``signature`` (one or a list) at import or from the cache, else at first use."""
    options: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": FASTMATH, "error_model": "numpy"}
    return cast("Callable[[Function], Function]", njit(signature, **options) if signature else njit(**options))


class Argument(types.WrapperAddressProtocol):
    """A function that compiled loops take as an argument, compiled at first use: most runs need one loss of many.

    They would take the compiled function itself too, but its address would be looked up at each call of the loop.
    """

    def __init__(self, function: Any, signature: Any):
        self._function = function
        self._signature = signature
        self._numba_type_ = types.FunctionType(signature)

    def __call__(self, *arguments: Any) -> Any:
        return self._compiled(*arguments)

    @cached_property
    def _compiled(self) -> Any:
        return compiled(self._signature)(self._function)

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
