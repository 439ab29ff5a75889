"""What a path of penalties (``--path``) has no use for, and what it lacks."""

from __future__ import annotations

from typing import Any

from streamgd.errors import ConfigError


def check_path_options(config: Any) -> None:
    """Refuse options of a ``TrainConfig`` that contradict a path, or need one.

    Raises
    ------
    ConfigError
        Names the option and the way out.
    """
    if config.path is None:
        for option, name in (("--path-to", "path_to"), ("--l1-ratio", "l1_ratio")):
            if getattr(config, name) != type(config).model_fields[name].default:
                raise ConfigError(f"{option} is for --path N. Add it, or leave {option} out.")
        return
    if config.method != "batch":
        raise ConfigError(
            f"--path is for --method batch: it goes from optimum to optimum, and --method {config.method} does not. Add"
            f" --method batch."
        )
    if not (config.validation or config.holdout):
        raise ConfigError("--path chooses by a holdout loss. Add --holdout 0.1 or --validation DATA.")
    if config.optimizer in ("plain", "normal"):
        raise ConfigError(f"--optimizer {config.optimizer} is not for --path. Choose newton or backtracking.")
    _refuse_what_is_useless(config)


def _refuse_what_is_useless(config: Any) -> None:
    begins = "a path begins at the best constant"
    useless = (
        ("--l1", config.l1 > 0.0, "the path says how large it is; its part is --l1-ratio"),
        ("--patience", config.patience > 0, "a path ends with its last penalty; choose --path-to"),
        ("--init", config.init != "best", begins),
        ("--from", config.from_ is not None, begins),
        ("--learning-rate", config.learning_rate != "auto", "each penalty would need its own"),
    )
    for option, given, why in useless:
        if given:
            raise ConfigError(f"{option} has no meaning with --path: {why}. Leave it out.")
