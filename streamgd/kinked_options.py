"""What losses with a kink (``--loss quantile``, ``hinge``) do not have: curvature, and a gradient everywhere."""

from __future__ import annotations

from typing import Any

from streamgd.errors import ConfigError

#: Losses that have a kink, and no curvature.
KINKED_LOSSES = ("quantile", "hinge")


def check_kinked_options(config: Any) -> None:
    """Refuse options of a ``TrainConfig`` that its loss has no use for.

    Raises
    ------
    ConfigError
        Names the option and the way out.
    """
    if config.loss not in KINKED_LOSSES:
        if config.optimizer == "band":
            raise ConfigError(f"--optimizer band is for losses with a kink: {', '.join(KINKED_LOSSES)}. Leave it out.")
        return
    lacks_curvature = f"needs curvature, and the {config.loss} loss has none"
    lacks_gradient = f"needs a gradient, and at a kink of the {config.loss} loss J has none"
    batch = config.method == "batch"
    useless = (
        (f"--optimizer {config.optimizer}", batch and config.optimizer not in ("auto", "band"), lacks_gradient,
         "Choose --optimizer band, or leave it out."),
        ("--learning-rate", batch and config.learning_rate != "auto", lacks_gradient, "Leave it out."),
        ("--tol-gradient", config.tol_gradient is not None, lacks_gradient, "Choose --tol-excess."),
        ("--certify", config.certify and not batch, lacks_curvature, "Choose --method batch."),
        ("--non-negative", batch and bool(config.non_negative), lacks_curvature, "Choose --method minibatch."),
        ("--path", config.path is not None,
         f"begins with the gradient at the best constant, and J of the {config.loss} loss has none there",
         "Choose --l1 or --l2, or another loss."),
    )  # fmt: skip
    for option, given, why, way_out in useless:
        if given:
            raise ConfigError(f"{option} {why}. {way_out}")
