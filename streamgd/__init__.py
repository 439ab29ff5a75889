"""streamgd: linear models by gradient descent on Parquet data that do not fit in memory.

The layers, each importing only those above it:

    console, notebook         how work is shown: bars, lines, tables
    errors, config, state     the face's words; nested state <-> arrays and JSON
    stopwatch                 where the time goes
    kernels                   all compiled loops
    data                      source, plan, reader, encoder, scaler, blocks: the way of a row
    objective                 losses, penalties, their mean over rows
    optim                     stochastic and full-batch optimizers, schedules
    inference                 errors, tests and intervals of coefficients
    model                     the frozen result
    training                  the loops, checkpoints, and ``train()``
    exports                   the model for other programs: ONNX, scikit-learn, JSON
    prediction, evaluation, comparison, inspection, show
    jobs                      the scheduled job: learn what is new, judge, publish
    report                    the HTML page of a run, and its figures in matplotlib
    fitting, estimators       scikit-learn's conventions (extra sklearn)
    face, cli_job, cli        thin faces

>>> import streamgd
>>> streamgd.__all__  # doctest: +NORMALIZE_WHITESPACE
['Model', 'Result', 'TrainConfig', 'compare', 'diagnose', 'errors', 'evaluate', 'export', 'inspect', 'load',
'plot_calibration', 'plot_coefficients', 'plot_features', 'plot_loss', 'plot_residuals', 'plot_roc', 'predict', 'train',
'write_report']
"""

from __future__ import annotations

from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from streamgd import errors
    from streamgd.comparison import compare
    from streamgd.config import TrainConfig
    from streamgd.evaluation import evaluate
    from streamgd.exports.export import export
    from streamgd.inspection import inspect
    from streamgd.model import Model, load
    from streamgd.prediction import predict
    from streamgd.report.diagnosis import diagnose
    from streamgd.report.page import write_report
    from streamgd.report.plots import (
        plot_calibration,
        plot_coefficients,
        plot_features,
        plot_loss,
        plot_residuals,
        plot_roc,
    )
    from streamgd.training.train import Result, train

__all__ = [
    "Model", "Result", "TrainConfig", "compare", "diagnose", "errors", "evaluate", "export", "inspect", "load",
    "plot_calibration", "plot_coefficients", "plot_features", "plot_loss", "plot_residuals", "plot_roc", "predict",
    "train", "write_report",
]  # fmt: skip

_HOMES = {
    "Model": "streamgd.model",
    "Result": "streamgd.training.train",
    "TrainConfig": "streamgd.config",
    "compare": "streamgd.comparison",
    "diagnose": "streamgd.report.diagnosis",
    "evaluate": "streamgd.evaluation",
    "export": "streamgd.exports.export",
    "inspect": "streamgd.inspection",
    "load": "streamgd.model",
    "predict": "streamgd.prediction",
    "train": "streamgd.training.train",
    "write_report": "streamgd.report.page",
}
_HOMES |= {name: "streamgd.report.plots" for name in __all__ if name.startswith("plot_")}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``streamgd --help`` answers at once."""
    from importlib import import_module

    if name == "errors":
        return import_module("streamgd.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'streamgd' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__doc__", "__name__", "__path__"]
