"""What ``--method auto`` stands for: the rule in one place, which looks at nothing but options and data.

One epoch of mini-batches comes near the optimum, and from there Newton's method reaches it in a few passes over the
same blocks. Where such a pass would cost too much, or where the options speak of mini-batches, they go on instead.
"""

from __future__ import annotations

from streamgd.config import TrainConfig, option_name
from streamgd.errors import ConfigError
from streamgd.kinked_options import KINKED_LOSSES
from streamgd.training.certificate import MOST_HESSIAN_COLUMNS, hessian_is_affordable

#: Columns up to which a pass with a Hessian is cheap: its products grow with their square. Of a million rows, prepared
#: on two cores, epoch and passes took 1.1 times the processor's time of five epochs with 64 columns, 1.7 times with 128
#: (1.5 times on the clock) and 2.0 times with 256.
MOST_CHEAP_COLUMNS = 128
#: Options that are those of mini-batches and their epochs; with l1, Newton's method takes many more sweeps.
OF_MINIBATCHES = (
    "epochs", "optimizer", "learning_rate", "schedule", "batch_size", "average", "l1", "tol_loss", "tol_theta",
    "patience",
)  # fmt: skip


def why_minibatch(config: TrainConfig, order: str, n_columns: int, n_sparse: int = 0) -> str | None:
    """Why ``auto`` is nothing but mini-batches; None where passes to the optimum follow an epoch of them.

    The number of coefficients, which has a say too, is known later: see :func:`why_too_many`.

    Parameters
    ----------
    order : {"full", "window", "none"}
    n_columns : int
        Numeric and categorical ones.
    n_sparse : int
        Columns of lists and maps.
    """
    fields = TrainConfig.model_fields
    if config.loss in KINKED_LOSSES:
        return f"the {config.loss} loss has no curvature, and takes many passes to its optimum"
    given = [option_name(name) for name in OF_MINIBATCHES if getattr(config, name) != fields[name].default]
    if given:
        return f"{given[0]} is given"
    if order != "full":
        return f"rows in order {order} are not kept for passes"
    if n_sparse:
        return "lists and maps have many coefficients"
    if n_columns > MOST_CHEAP_COLUMNS:
        return f"{n_columns:,} columns are more than {MOST_CHEAP_COLUMNS:,}"
    return None


def why_too_many(n_dof: int) -> str | None:
    """The same, once the number of coefficients is known."""
    if hessian_is_affordable(n_dof):
        return None
    return f"{n_dof:,} coefficients are more than {MOST_HESSIAN_COLUMNS:,}"


def check_tolerances(config: TrainConfig, why: str) -> None:
    """Refuse tolerances of full batch where ``auto`` is mini-batches.

    Raises
    ------
    ConfigError
        One is given.
    """
    for name in ("tol_excess", "tol_gradient"):
        if getattr(config, name) is not None:
            raise ConfigError(
                f"{option_name(name)} is for full batch, and --method auto is minibatch here: {why}. Choose --method"
                f" batch, or --tol-loss."
            )
