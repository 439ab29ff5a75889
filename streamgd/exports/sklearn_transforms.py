"""Transforms of columns as scikit-learn has them: functions of numpy, so that a pipeline needs no streamgd."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PPoly
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from streamgd.data.transforms.bins import Bins
from streamgd.data.transforms.clip import Clip
from streamgd.data.transforms.cycle import Cycle
from streamgd.data.transforms.log import Log
from streamgd.data.transforms.numbers import Steps
from streamgd.data.transforms.spline import Spline
from streamgd.errors import ConfigError


def steps_of(steps: Steps) -> list[FunctionTransformer]:
    """The steps, of float64 in which NaN is null."""
    made = []
    for step in steps:
        if isinstance(step, Clip):
            made.append(FunctionTransformer(np.clip, kw_args={"a_min": step.low, "a_max": step.high}))
        elif isinstance(step, Log):
            made.append(FunctionTransformer(np.log))
        elif isinstance(step, Cycle):
            start = np.pi / 2.0 if step.cosine else 0.0
            made += [FunctionTransformer(PPoly([[step.factor], [start]], [0.0, 1.0])), FunctionTransformer(np.sin)]
        elif isinstance(step, Spline):
            made.append(FunctionTransformer(_polynomials(step)))
        else:
            raise ConfigError(
                f"--to sklearn: there is nothing there for the transform '{step.kind}'. Choose --to onnx or json."
            )
    return made


def _polynomials(spline: Spline) -> PPoly:
    """The spline as scipy has it; its first and last pieces go on without end."""
    _, width, *coefficients = spline.pieces.T
    ends = [spline.knots[0] - width[0], *spline.knots, spline.knots[-1] + width[-1]]
    powers = np.array(coefficients) / width ** np.arange(4)[:, None]
    # scipy counts the first piece from its beginning, which lies before the first knot.
    powers[0, 0] -= powers[1, 0] * width[0]
    return PPoly(powers[::-1], ends)


def places_of(bins: Bins) -> list[FunctionTransformer | OneHotEncoder]:
    """Indicators of the bins, ascending, that of null last."""
    # NaN is put behind every number, so behind an edge that none reaches.
    edges = [*bins.edges, np.inf]
    place = FunctionTransformer(np.digitize, kw_args={"bins": edges})
    return [*steps_of(bins.steps), place, OneHotEncoder(categories=[np.arange(len(edges) + 1)])]
