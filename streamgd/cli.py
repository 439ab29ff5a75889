"""The command line: it translates arguments, calls the function of the same name, and shows what that gives.

Everything heavy is imported inside the commands, so that ``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from streamgd import completion
from streamgd.cli_job import job
from streamgd.face import Command, Face, Output, json_option, quiet_option


class ConfigCommand(Command):
    """A command whose options come from ``TrainConfig``, which is imported only when they are needed."""

    def __init__(self, *positional: Any, parameters: str, **keywords: Any):
        super().__init__(*positional, **keywords)
        self._parameters = parameters

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from streamgd import options

        return [*getattr(options, self._parameters)(), *super().get_params(ctx)]


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from streamgd.version import version

        click.echo(f"streamgd {version()}")
        ctx.exit()


def _threads(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) == 0:
        from streamgd.errors import ConfigError

        raise ConfigError(f"--threads: expected a whole number from 1 on, found {text!r}.")
    return int(text)


def _level(_: click.Context, __: click.Parameter, text: str) -> float:
    from streamgd.errors import ConfigError
    from streamgd.option_values import parse_fraction

    try:
        return float(parse_fraction(text))
    except ValueError as error:
        raise ConfigError(f"--level: {error}.") from None


data_argument = click.argument("data", nargs=-1, required=True, metavar="DATA...", shell_complete=completion.paths)
run_argument = click.argument("run", metavar="RUN", shell_complete=completion.paths)
part_option = click.option(
    "--part", default="all", metavar="all|train|holdout", help="Use the rows that the run held out, or not.",
    shell_complete=completion.one_of(("all", "train", "holdout")),
)  # fmt: skip
threads_option = click.option("--threads", metavar="N", callback=_threads, help="Decode threads [default: cores].")


@click.group(cls=Face, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version,
              help="Print the version.")  # fmt: skip
def main() -> None:
    """Linear models by gradient descent on Parquet data that do not fit in memory."""


@main.command(cls=ConfigCommand, parameters="train_parameters", home="streamgd.training.train",
              short_help="Train a model, or go on with a run.")  # fmt: skip
@click.option("--config", "config_file", metavar="FILE.toml", help="Options; those of the command line override.",
              shell_complete=completion.paths)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print what would be done: columns, order, disk, memory, passes.")
@click.option("--restart", is_flag=True, help="Start over; the old model stays until the new one is whole.")
@json_option
@quiet_option
@click.pass_obj
def train(output: Output, /, config_file: str | None, dry_run: bool, restart: bool, **values: Any) -> None:
    """Train a linear model on Parquet DATA (files, directories, globs or URIs).

    The same command goes on with a run that was stopped at any moment. DATA - is a stream in Arrow's IPC format on
    standard input, learned in one pass; it cannot be gone on with.
    """
    from streamgd.config import make_config
    from streamgd.console import format_facts
    from streamgd.options import file_options, given_options

    from_file = file_options(config_file) if config_file else {}
    options = from_file | given_options(values)
    if options.get("data") in ("-", ["-"]):
        _train_on_standard_input(output, options, dry_run, restart)
        return
    config = make_config(**options)
    output.run_dir = config.run_dir
    if dry_run:
        from streamgd.training.train import plan

        facts = plan(config, restart)
        output.result(facts, lambda: format_facts(facts))
        return
    from streamgd.training.train import run

    _show_run(output, run(config, output.display, restart=restart))


@main.command(cls=ConfigCommand, parameters="resume_parameters", home="streamgd.training.train",
              short_help="Go on with a run.")  # fmt: skip
@run_argument
@json_option
@quiet_option
@click.pass_obj
def resume(output: Output, /, run: str, **values: Any) -> None:
    """Go on with the run in directory RUN: unfinished, or finished with more --epochs."""
    from streamgd.config import make_config
    from streamgd.errors import NoInputError
    from streamgd.options import given_options
    from streamgd.training import train as training
    from streamgd.training.rundir import RunDirectory, current_folder

    output.run_dir = Path(run)
    stored = RunDirectory(output.run_dir).require_config()
    config = make_config(**stored["config"] | given_options(values) | {"run": run})
    try:
        result = training.run(config, output.display)
    except NoInputError as error:
        begun_in = stored.get("folder")
        if begun_in in (None, current_folder()):
            raise
        raise NoInputError(f"{error} The run was started in {begun_in}: resume it there.") from error
    _show_run(output, result)


@main.command(home="streamgd.prediction", short_help="Predict every row of DATA.")
@run_argument
@data_argument
@click.option("--out", required=True, metavar="DIR", help="Where the Parquet files go, under the input's names.",
              shell_complete=completion.paths)  # fmt: skip
@click.option("--keep", multiple=True, metavar="A,B", help="Columns to carry through, comma-separated.")
@threads_option
@json_option
@quiet_option
@click.pass_obj
def predict(
    output: Output, /, run: str, data: tuple[str, ...], out: str, keep: tuple[str, ...], threads: int | None
) -> None:
    """Predict every row of DATA with the model of RUN, in order, to Parquet files in DIR.

    No row is left out: where a file cannot be read the command ends, and the files before it are whole.
    """
    from streamgd.console import format_facts
    from streamgd.model import Model
    from streamgd.option_values import parse_names
    from streamgd.prediction import predict as predict_rows

    columns = [name for value in keep for name in parse_names(value)]
    facts = predict_rows(Model.load(run), list(data), out, columns, threads=threads, display=output.display)
    output.result(facts, lambda: format_facts(facts))


@main.command(home="streamgd.evaluation", short_help="Measure a model on DATA.")
@run_argument
@data_argument
@click.option("--by", metavar="COL", help="Also rows, actual, predicted and their ratio for each level of COL.")
@click.option("--where", metavar="EXPR", help="Use the rows for which this holds.")
@part_option
@threads_option
@json_option
@click.pass_obj
def evaluate(
    output: Output,
    /,
    run: str,
    data: tuple[str, ...],
    by: str | None,
    where: str | None,
    part: Any,
    threads: int | None,
) -> None:
    """Losses and metrics of the model of RUN on DATA, the base rate beside each.

    Of all rows: where a file cannot be read the command ends.
    """
    from streamgd.evaluation import evaluate as measure
    from streamgd.model import Model

    model = Model.load(run)
    facts = measure(model, list(data), by, where, part, threads=threads, display=output.display).to_json()
    output.result(facts, lambda: _evaluation_text(facts))


@main.command(
    cls=ConfigCommand,
    parameters="inspect_parameters",
    home="streamgd.inspection",
    short_help="Say what DATA hold and what each column would become.",
)
@data_argument
@json_option
@click.pass_obj
def inspect(output: Output, /, data: tuple[str, ...], on_bad_data: Any) -> None:
    """Schema, rows, row groups and sizes of DATA, and what each column would become."""
    from streamgd.inspection import format_inspection
    from streamgd.inspection import inspect as inspect_data

    facts = inspect_data(list(data), on_bad_data or "error")
    output.result(facts, lambda: format_inspection(facts))


@main.command(short_help="Tell how a run stands and what it learnt.")
@run_argument
@click.option("--all", "show_all", is_flag=True, help="Every coefficient, not only the intercept and the 30 largest.")
@click.option("--csv", "as_csv", is_flag=True, help="Only the coefficients, all of them, as CSV.")
@click.option("--relativities", "as_factors", is_flag=True, help="With --csv: the relativities instead.")
@click.option("--path", "as_path", is_flag=True, help="With --csv: the penalties of a --path instead.")
@click.option("--errors", metavar="classical|robust", help="Kind of errors [default: what the run was asked for].",
              shell_complete=completion.one_of(("classical", "robust")))  # fmt: skip
@click.option("--level", default="0.95", metavar="FRACTION", callback=_level, help="Of intervals [default: 0.95].")
@json_option
@click.pass_obj
def show(
    output: Output, /, run: str, show_all: bool, as_csv: bool, as_factors: bool, as_path: bool, errors: Any,
    level: float,
) -> None:  # fmt: skip
    """State, history, coefficients in original units with their errors, and checkpoints of RUN."""
    from streamgd.errors import UsageError
    from streamgd.show import format_csv, format_show, points_of_path
    from streamgd.show import show as show_run

    if as_csv:
        from streamgd.model import Model
        from streamgd.relativities import NAMES, relativities

        model = Model.load(run)
        if as_factors and as_path:
            raise UsageError("--relativities and --path are two tables. Ask for one of them.")
        if as_path:
            from streamgd.training.path_points import NAMES as POINT_NAMES

            output.csv(format_csv(points_of_path(model), POINT_NAMES))
            return
        rows = relativities(model, errors, level) if as_factors else model.coefficient_rows(errors, level)
        output.csv(format_csv(rows, NAMES))
        return
    for option, given in (("--relativities", as_factors), ("--path", as_path)):
        if given:
            raise UsageError(f"{option} is for --csv; show tells it in its text. Add --csv, or leave it out.")
    facts = show_run(run, show_all, errors, level)
    output.result(facts, lambda: format_show(facts))


@main.command(short_help="Write the report of a run: one HTML page.")
@run_argument
@click.option("--out", metavar="F.html", help="The page [default: RUN/report.html].")
@click.option("--data", multiple=True, metavar="DATA", help="Evaluate on these data too; may be given again.")
@click.option("--where", metavar="EXPR", help="Of --data, use the rows for which this holds.")
@part_option
@threads_option
@json_option
@quiet_option
@click.pass_obj
def report(output: Output, /, run: str, data: tuple[str, ...], **options: Any) -> None:
    """Write what is known of RUN to one HTML page that needs no network.

    With --data also calibration, ROC or residuals, and actual against predicted by feature, in one pass over them.
    """
    from streamgd.console import format_facts
    from streamgd.report.page import write_report

    facts = write_report(run, data=data, display=output.display, **options)
    output.result(facts, lambda: format_facts(facts))


@main.command(home="streamgd.comparison", short_help="Set two models side by side on DATA.")
@click.argument("run1", metavar="RUN1", shell_complete=completion.paths)
@click.argument("run2", metavar="RUN2", shell_complete=completion.paths)
@click.option("--on", "data", required=True, multiple=True, metavar="DATA", shell_complete=completion.paths,
              help="Files, directories, globs or URIs.")  # fmt: skip
@click.option("--where", metavar="EXPR", help="Use the rows for which this holds.")
@part_option
@threads_option
@json_option
@click.pass_obj
def compare(
    output: Output, /, run1: str, run2: str, data: tuple[str, ...], where: str | None, part: Any, threads: int | None
) -> None:
    """Metrics of the models of RUN1 and RUN2 on the same rows, and how far apart their losses are, with its error."""
    from streamgd.comparison import compare as compare_models

    found = compare_models(run1, run2, list(data), where, part=part, threads=threads, display=output.display)
    facts = found.to_json()
    output.result(facts, lambda: _comparison_text(facts, run1, run2))


@main.command(short_help="Write a model for other programs.")
@run_argument
@click.option("--to", required=True, metavar="onnx|sklearn|json", help="The format.",
              shell_complete=completion.one_of(("onnx", "sklearn", "json")))  # fmt: skip
@click.option("--out", required=True, metavar="FILE", help="Where it is written; - is standard output.",
              shell_complete=completion.paths)  # fmt: skip
@json_option
@quiet_option
@click.pass_obj
def export(output: Output, /, run: str, to: str, out: str) -> None:
    """Write the model of RUN as ONNX, as a fitted scikit-learn Pipeline (joblib), or as JSON.

    Inputs are columns of the data as they stand, but parts of a date, COL.epoch (seconds), COL.hour and the like, are
    inputs of their own.
    """
    from streamgd.console import format_facts
    from streamgd.exports.export import exported_bytes, remarks
    from streamgd.model import Model
    from streamgd.state import write_atomically

    model = Model.load(run)
    written = exported_bytes(model, to)
    for text in remarks(model, to):
        output.display.warn(text)
    if out == "-":
        output.binary(written)
        return
    write_atomically(Path(out), written)
    facts = {"to": to, "out": out, "bytes": Path(out).stat().st_size}
    output.result(facts, lambda: format_facts(facts))


def _train_on_standard_input(output: Output, options: dict[str, Any], dry_run: bool, restart: bool) -> None:
    import sys

    import pyarrow as pa

    from streamgd.errors import DataError, UsageError
    from streamgd.training.parts import stream_config, train_stream

    if dry_run:
        raise UsageError("--dry-run needs data that can be read again, and - is read once. Leave it out.")
    config = stream_config(**{name: value for name, value in options.items() if name != "data"})
    output.run_dir = config.run_dir
    if sys.stdin.isatty():
        raise UsageError("DATA - reads standard input, which is a terminal. Pipe a stream in Arrow's IPC format in.")
    try:
        reader = pa.ipc.open_stream(sys.stdin.buffer)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"standard input is no Arrow IPC stream ({str(error).rstrip('.')}). Write it with"
            " pyarrow.ipc.new_stream, or name Parquet files."
        ) from error
    _show_run(output, train_stream(reader, config, output.display, restart))


def _show_run(output: Output, result: Any) -> None:
    """The closing summary of a run, without what was told while it went."""
    from streamgd.console import format_facts

    facts = result.to_json()
    told = ("history", "warnings", "key", "no_errors", "path")
    empty = [name for name, value in facts.items() if value is None or (isinstance(value, dict) and not value)]
    brief = {name: value for name, value in facts.items() if name not in (*told, *empty)}

    def text() -> str:
        if "path" not in facts:
            return format_facts(brief)
        from streamgd.show import format_path

        return f"{format_path(facts['path'])}\n\n{format_facts(brief)}"

    output.result(facts, text)


def _evaluation_text(facts: dict[str, Any]) -> str:
    """Each metric with the base rate beside it, and the table by level."""
    from streamgd.console import format_facts, format_table
    from streamgd.data.vocabulary import level_name

    about = ("rows", "weight", "dropped")
    tables = ("by", "levels", "classes", "confusion")
    metrics = [name for name in facts if name not in (*about, *tables) and not name.startswith("base_")]
    rows = [[name.replace("_", " "), facts[name], facts.get(f"base_{name}")] for name in metrics]
    parts = [format_facts({name: facts[name] for name in about}), format_table(["metric", "model", "base rate"], rows)]
    if facts.get("levels"):
        names = [name for name in facts["levels"][0] if name != "level"]
        levels = [[level_name(level["level"]), *(level[name] for name in names)] for level in facts["levels"]]
        parts.append(format_table([facts["by"], *names], levels))
    if facts.get("classes"):
        shown = ("class", "actual", "predicted", "recall", "precision", "f1", "auc")
        classes = [[str(each["class"]), *(each[name] for name in shown[1:])] for each in facts["classes"]]
        labels = [each[0] for each in classes]
        confusion = [[label, *row] for label, row in zip(labels, facts["confusion"], strict=True)]
        parts += [format_table(list(shown), classes), format_table(["actual \\ predicted", *labels], confusion)]
    return "\n\n".join(parts)


def _comparison_text(facts: dict[str, Any], first: str, second: str) -> str:
    """The metrics of both with the base rate beside them, and the difference of their losses."""
    from streamgd.console import format_facts, format_table

    metrics = [name for name in facts["first"] if not name.startswith("base_")]
    sides = (facts["first"], facts["second"])
    rows = [
        [name.replace("_", " "), *(side[name] for side in sides), facts["first"].get(f"base_{name}")]
        for name in metrics
    ]
    about = format_facts({name: facts[name] for name in ("rows", "weight", "dropped")})
    difference = format_facts(facts["second_less_first"], indent="  ")
    table = format_table(["metric", first, second, "base rate"], rows)
    return f"{about}\n\n{table}\n\nloss of {second} less that of {first}, row by row\n{difference}"


main.add_command(job)
