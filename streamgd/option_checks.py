"""Which options go together; what a loss with a kink and a path of penalties need has a module of its own."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

from streamgd.errors import ConfigError, UsageError, did_you_mean
from streamgd.kinked_options import check_kinked_options
from streamgd.path_options import check_path_options

#: Losses whose prediction is exp of the raw one.
LOG_LINK_LOSSES = ("poisson", "gamma", "tweedie")
#: Powers of tweedie that are nearer to 1 or 2 are one of these, or refused.
NEAREST_POWER = 1e-9
#: The default of l2: above it, coefficients are no estimates by maximum likelihood.
MOST_L2_WITH_ERRORS = 1e-6
#: Why coefficients have no errors where no pass over all rows was made at the result.
NO_CLOSING_PASS = "they come from the closing pass of --method batch"


def check_combinations(config: Any) -> None:
    """Refuse options of a ``TrainConfig`` that contradict each other, naming both.

    Raises
    ------
    UsageError
        No data.
    ConfigError
        Names the options and the way out.
    """
    if not config.data:
        raise UsageError(f"missing DATA: {type(config).model_fields['data'].description}")
    if config.features is not None and config.exclude:
        both = sorted(set(config.features) & set(config.exclude))
        if both:
            raise ConfigError(f"--features and --exclude both name {', '.join(both)}. Name each column in one of them.")
    for name in {*(config.bins or ())} & {*(config.spline or ())}:
        raise ConfigError(f"--bins and --spline both name '{name}'. Choose one of them for each column.")
    if config.validation and config.holdout:
        raise ConfigError("--validation and --holdout both given. Choose one source of the holdout loss.")
    if config.patience and not (config.validation or config.holdout):
        raise ConfigError("--patience needs a holdout loss. Add --holdout 0.1 or --validation DATA.")
    if config.null_indicators and config.nulls != "impute":
        raise ConfigError(f"--null-indicators: with --nulls {config.nulls} no row with a null is used. Leave one out.")
    if config.from_ is not None and config.init != "best":
        raise ConfigError(f"--from and --init {config.init} both say where theta starts. Leave one out.")
    _check_optimizer(config)
    check_path_options(config)
    for option, loss in (("power", "tweedie"), ("delta", "huber"), ("quantile", "quantile")):
        if config.loss != loss and getattr(config, option) != type(config).model_fields[option].default:
            raise ConfigError(f"--{option} is for --loss {loss}, the loss is {config.loss}. Leave one of them out.")
    if 0.0 < min(config.power - 1.0, 2.0 - config.power) < NEAREST_POWER:
        raise ConfigError(
            f"--power {config.power!r} is too near to {config.power:.0f}: of a loss so large digits are lost. Choose"
            f" {config.power:.0f} itself, or a power that is {NEAREST_POWER:g} away."
        )
    if config.exposure is not None and config.loss not in LOG_LINK_LOSSES:
        raise ConfigError(
            f"--exposure: the prediction of the {config.loss} loss is not proportional to it. Choose --loss"
            f" {'|'.join(LOG_LINK_LOSSES)}, or leave it out."
        )
    if config.errors == "robust" and config.no_errors:
        ways = [
            way
            for way, needed in (
                ("--method batch", config.no_errors == NO_CLOSING_PASS and config.method != "auto"),
                ("--shuffle full", config.no_errors == NO_CLOSING_PASS and config.method == "auto"),
                ("--l1 0", config.l1 > 0),
                ("a run without --path", config.path is not None),
                ("--class-weight none", config.class_weight != "none"),
                (f"--l2 {MOST_L2_WITH_ERRORS:g}", config.l2 > MOST_L2_WITH_ERRORS),
            )
            if needed and config.has_likelihood
        ]
        chosen = f", or choose {' and '.join(ways)}" if ways else ""
        raise ConfigError(f"--errors robust: there would be none: {config.no_errors}. Leave it out{chosen}.")
    if config.method == "batch" and config.schedule not in ("auto", "constant"):
        raise ConfigError(f"--schedule {config.schedule} is not for --method batch. Leave it out.")
    if config.method == "batch" and config.shuffle not in ("auto", "none"):
        raise ConfigError(f"--shuffle {config.shuffle} has no meaning for --method batch. Leave it out.")
    if config.average == "on" and config.method == "batch":
        raise ConfigError("--average on is not for --method batch, which goes to the optimum itself. Leave it out.")
    if config.average == "on" and config.l1 > 0:
        raise ConfigError(
            f"--average on contradicts --l1 {config.l1:g}: averages have no zeros. Leave one of the two out."
        )
    _check_workers(config)
    cycles = {"hour", "weekday", "month", "yearday"}
    parts = {"epoch", *cycles, *(f"{part}-cycle" for part in cycles)}
    unknown = [part for part in config.timestamps if part not in parts]
    if unknown:
        raise ConfigError(f"--timestamps: no such part {unknown[0]!r}. {did_you_mean(unknown[0], sorted(parts))}")


def _check_optimizer(config: Any) -> None:
    """Refuse an optimizer that is not for the method, the loss, the penalty or a learning rate."""
    batch_only, stochastic_only = (
        {"backtracking", "newton", "lbfgs", "normal", "band"},
        {"momentum", "adagrad", "ftrl", "rmsprop", "adam"},
    )
    name = config.optimizer
    if config.method == "batch" and name in stochastic_only:
        raise ConfigError(
            f"--optimizer {name} is not for --method batch. Choose newton, lbfgs, normal, backtracking or plain."
        )
    if config.method != "batch" and name in batch_only:
        raise ConfigError(f"--optimizer {name} is for --method batch only. Choose plain, momentum, adagrad, …")
    if name in batch_only and config.learning_rate != "auto":
        raise ConfigError(f"--learning-rate has no meaning for {name}. Choose --optimizer plain, or leave it out.")
    if name in ("lbfgs", "normal") and config.has_l1:
        option = "--l1" if config.l1 > 0 else f"l1 (--l1-ratio {config.l1_ratio:g})"
        raise ConfigError(f"--optimizer {name} knows no {option}. Choose newton, backtracking or plain.")
    if name == "normal" and config.non_negative:
        raise ConfigError("--optimizer normal knows no --non-negative. Choose newton.")
    if name == "normal" and config.loss not in ("auto", "squared"):
        raise ConfigError("--optimizer normal solves the squared loss alone. Choose newton.")
    _check_tolerances(config)
    check_kinked_options(config)


def _check_tolerances(config: Any) -> None:
    """Refuse a tolerance of what the optimizer does not tell."""
    epochs_only = config.method in ("minibatch", "sgd")
    if epochs_only and config.tol_gradient is not None:
        raise ConfigError("--tol-gradient is for --method batch only. Choose --tol-loss or --tol-theta.")
    if config.tol_excess is None or config.method == "auto":
        return
    if epochs_only:
        raise ConfigError(
            "--tol-excess is for --method batch with newton or lbfgs. Choose --tol-loss or --tol-theta, or --method"
            " batch."
        )
    given = config.learning_rate != "auto"
    name = "plain" if config.optimizer == "auto" and given else config.optimizer
    if name in ("plain", "backtracking"):
        raise ConfigError(
            f"--tol-excess is for --method batch with newton or lbfgs: {name} does not estimate how far the optimum is."
            f" Choose --tol-gradient, or --optimizer newton."
        )


def _check_workers(config: Any) -> None:
    if not config.on_workers:
        return
    option = "--workers" if config.workers is not None else "--cluster"
    if config.workers is not None and config.cluster is not None:
        raise ConfigError("--workers and --cluster both given. Start processes here, or name a cluster that is there.")
    if config.method != "batch":
        raise ConfigError(
            f"{option} is for --method batch only: the other methods make one update after another. Add --method batch,"
            f" or leave it out."
        )
    if config.cluster is not None and not re.fullmatch(r"(tcp|tls|ucx)://\S+:\d+", config.cluster):
        raise ConfigError(f"--cluster: expected an address such as tcp://10.0.0.1:8786, found {config.cluster!r}.")
    if importlib.util.find_spec("distributed") is None:
        raise ConfigError(f"{option} needs the package 'distributed'. Install it: pip install 'streamgd[cluster]'.")
