"""The command line: `python -m data_gen --out DIR --rows N --features D`.

Exit codes: 0 done, 2 a wrong option or value, 74 input/output failed, 130 Ctrl-C, 143 SIGTERM. An error is one line on
stderr.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

from data_gen.generator import Population
from data_gen.writer import DEFAULT_ROW_GROUP_ROWS, generate


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--out", required=True, metavar="DIR", help="Directory for part-*.parquet and truth.json.")
@click.option("--rows", required=True, type=int, metavar="N", help="Number of rows.")
@click.option("--features", required=True, type=int, metavar="D", help="Number of numeric columns x0, x1, …")
@click.option("--categorical", default=Population.categorical, metavar="C", help="Number of text columns c0, c1, …")
@click.option("--levels", default=Population.levels, metavar="L", help="Levels of each text column, by Zipf's law.")
@click.option("--active", default=Population.active, metavar="A", help="Indices in each row's list s, if not 0.")
@click.option("--sparse-columns", default=Population.sparse_columns, metavar="M", help="Columns that lists name.")
@click.option("--loss", type=click.Choice(["logistic", "squared"]), default=Population.loss, help="Kind of target y.")
@click.option("--files", default=1, metavar="F", help="Number of Parquet files.")
@click.option("--row-group-rows", default=DEFAULT_ROW_GROUP_ROWS, metavar="R", help="Rows of a row group.")
@click.option("--seed", default=Population.seed, metavar="S", help="The same seed gives the same values.")
@click.option("--sorted", is_flag=True, help="The same rows, sorted by the target over the whole data set.")
@click.option("--badly-scaled", is_flag=True, help="Units from 1e-6 to 1e6, with large offsets.")
@click.option("--imbalance", type=float, metavar="P", help="Probability of y = 1 (logistic).")
@click.option("--nulls", default=Population.nulls, metavar="P", help="Share of nulls in each feature column.")
@click.option("--outliers", default=Population.outliers, metavar="P", help="Share of rows with one value times 1,000.")
@click.option("--drift", is_flag=True, help="The means of the numeric columns move by two standard deviations.")
@click.option("--correlation", default=Population.correlation, metavar="R", help="Between any two numeric columns.")
@click.option("--overwrite", is_flag=True, help="Replace the data set in the directory.")
def command(out: str, **options: Any) -> None:
    """Write a data set with known truth to Parquet, in constant memory."""
    try:
        truth = generate(out, **options)
    except FileExistsError:
        raise
    except OSError as error:
        raise error if error.filename else OSError(f"{out}: {error}") from error
    counts = {"row": truth["rows"], "feature": len(truth["columns"]) - 1, "file": len(truth["files"])}
    click.echo(
        f"{out}: {', '.join(f'{n:,} {noun}' + 's' * (n != 1) for noun, n in counts.items())}, "
        f"{truth['loss']} loss {truth['loss_at_truth']:.6g} at the truth, {truth['base_loss']:.6g} at the best constant"
    )


def main() -> int:
    """Run the command and return the exit code."""
    try:
        command.main(prog_name="data_gen", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("data_gen: interrupted; the data set is not whole", err=True)
        return 130
    except click.ClickException as error:
        click.echo(f"data_gen: {' '.join(error.format_message().split())}", err=True)
        return error.exit_code
    except (ValueError, FileExistsError) as error:
        click.echo(f"data_gen: {error}", err=True)
        return 2
    except OSError as error:
        click.echo(f"data_gen: writing failed: {error}", err=True)
        return 74
    return 0


def _stop(number: int, _: Any) -> None:
    """Leave by an exception, so that the part of a file that is being written is removed."""
    signal.signal(number, signal.SIG_IGN)
    click.echo("data_gen: stopped by a signal; the data set is not whole", err=True)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
