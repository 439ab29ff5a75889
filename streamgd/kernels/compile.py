"""How loops are compiled: ahead of use where the types are known, cached on disk, without the GIL.

Full ``fastmath`` would delete every check for NaN and inf; the four flags below let sums be reordered and
multiply-adds be fused, and keep the checks. Division is that of numpy: Python's, which raises for a divisor of zero,
would keep every loop with a division from being vectorised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit, types

FASTMATH = {"reassoc", "contract", "nsz", "arcp"}

Function = TypeVar("Function", bound=Callable[..., Any])

#: The type of a loss's value, derivative and curvature per row: ``f(y_true, raw_prediction)``.
POINTWISE = types.float64(types.float64, types.float64)
POINTWISE_FUNCTION = types.FunctionType(POINTWISE)

#: The type of the same of many rows at once: ``f(y_true, raw_prediction, out)``.
ROWS = types.void(types.float64[::1], types.float64[::1], types.float64[::1])
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


def pointwise(function: Function) -> Function:
    """Compile ``f(y_true, raw_prediction) -> float`` so that the training loops can take it as an argument."""
    return compiled(POINTWISE)(function)


def over_rows(function: Function) -> Function:
    """Compile ``f(y_true, raw_prediction, out)``, which works on many rows at once, for the mini-batch loop."""
    return compiled(ROWS)(function)


def update_rule(function: Function) -> Function:
    """Compile an optimizer's update so that the training loops can take it as an argument."""
    return compiled(UPDATE)(function)
