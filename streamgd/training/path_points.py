"""What is known of a path of penalties: plain values and arrays, a part of the checkpoint.

strengths       float64, (n_points,)                        of all penalties, the largest first
points          list of dict                                what was found, one for each penalty that was solved
pending         float64, (n_pending, n_dof, n_outputs)      thetas whose holdout loss is not known yet, the last ones
chosen          index of the point with the least holdout loss, or None
begun           whether the penalty after the last point has begun, and ``epoch_before`` passes that were before
reason          what ended its passes, or None
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: Of a point, in units of the original target. ``lambda`` is the strength; ``passes`` are those over all rows.
NAMES = (
    "lambda", "l1", "l2", "objective", "train_loss", "holdout_loss", "nonzero", "passes", "gradient", "stopped_by",
)  # fmt: skip


def new_path(strengths: np.ndarray, shape: tuple[int, int]) -> dict[str, Any]:
    """A path before its first penalty; ``shape`` is that of theta."""
    return {
        "strengths": strengths, "points": [], "pending": np.empty((0, *shape)), "chosen": None, "begun": False,
        "epoch_before": 0, "reason": None,
    }  # fmt: skip


def check_path(path: dict[str, Any], shape: tuple[int, int]) -> None:
    """Raise ValueError or KeyError where it is not one of a run whose theta has this shape."""
    strengths, points, pending, chosen = (path[name] for name in ("strengths", "points", "pending", "chosen"))
    if strengths.ndim != 1 or strengths.dtype != np.float64 or len(strengths) < len(points):
        raise ValueError(f"a path of {strengths.dtype} {strengths.shape} with {len(points)} points")
    if pending.shape[1:] != shape or pending.dtype != np.float64 or len(pending) > len(points):
        raise ValueError(f"thetas of a path of {pending.dtype} {pending.shape}")
    if any(set(point) != set(NAMES) for point in points):
        raise ValueError("a path of other points than a run writes")
    if not (chosen is None or (isinstance(chosen, int) and 0 <= chosen < len(points))):
        raise ValueError(f"the point {chosen} of {len(points)} is chosen")
    if not (isinstance(path["begun"], bool) and isinstance(path["epoch_before"], int)):
        raise ValueError("a path that does not tell where it stands")
    if not isinstance(path["reason"], str | None):
        raise ValueError("a path that was ended by no reason")


def hint_of_path(path: dict[str, Any]) -> str | None:
    """What the user should know of how far the path came."""
    solved, number = len(path["points"]), len(path["strengths"])
    if solved < number:
        return f"{solved} of {number} penalties of the path are solved; the same command goes on"
    short = sum(point["stopped_by"] == "epochs" for point in path["points"])
    if short:
        return f"not converged under {short} of {number} penalties of the path. Raise --epochs with --restart"
    if path["chosen"] == number - 1:
        return "the last penalty of the path has the least holdout loss: a lower --path-to may do better"
    return None
