"""``streamgd job``: the commands of the scheduled job, a thin face like the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamgd import completion
from streamgd.face import Commands, Output, json_option, quiet_option

if TYPE_CHECKING:
    from streamgd.jobs.config import JobConfig

file_argument = click.argument("file", metavar="FILE.toml", shell_complete=completion.paths)
names_argument = click.argument("names", nargs=-1, required=True, metavar="NAME...")


@click.group(cls=Commands, short_help="Learn what is new, night after night; judge and publish it.")
def job() -> None:
    """A scheduled job, described by a TOML file: new files are learned, judged and published."""


def _load(output: Output, file: str) -> JobConfig:
    from streamgd.jobs.config import load_job

    loaded = load_job(file)
    output.run_dir = loaded.state_dir.parent
    return loaded


def _show(output: Output, facts: dict[str, Any]) -> None:
    from streamgd.console import format_facts

    output.result(facts, lambda: format_facts(_known(facts)))


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts without those of which nothing is known."""
    told = {name: _known(value) if isinstance(value, dict) else value for name, value in facts.items()}
    return {name: value for name, value in told.items() if value not in (None, [], {})}


@job.command(home="streamgd.jobs.job", short_help="Learn what is new, and publish it if the gate lets it.")
@file_argument
@click.option("--restart", is_flag=True, help="Learn everything anew; what is published stays until that is.")
@json_option
@quiet_option
@click.pass_obj
def run(output: Output, /, file: str, restart: bool) -> None:
    """Learn the files that are new, judge the result, publish it. An interrupted night is made up for first."""
    from streamgd.jobs.job import run_job

    _show(output, run_job(_load(output, file), output.display, restart))


@job.command(short_help="Check FILE.toml, and say what the next run would learn.")
@file_argument
@json_option
@quiet_option
@click.pass_obj
def check(output: Output, /, file: str) -> None:
    """Check FILE.toml, and say what the next run would learn. Nothing is changed."""
    from streamgd.jobs.operations import check as check_job

    _show(output, check_job(_load(output, file)))


@job.command(short_help="Write a commented example to FILE.toml.")
@file_argument
@json_option
@quiet_option
@click.pass_obj
def init(output: Output, /, file: str) -> None:
    """Write a commented example to FILE.toml, which must not exist, and make the folder that it learns from."""
    from streamgd.jobs.example import write_example

    incoming = write_example(Path(file))
    first = f"put Parquet files into {incoming}, name their target in {file}, then: streamgd job check {file}"
    _show(output, {"written": file, "next": first})


@job.command(short_help="Last run, last publication, what waits and why.")
@file_argument
@json_option
@click.pass_obj
def status(output: Output, /, file: str) -> None:
    """Last run, last publication, newest data, and what waits and why. A job that works is not disturbed."""
    from streamgd.jobs.operations import status as status_of

    _show(output, status_of(_load(output, file)))


@job.command(short_help="Publish an older version again, with its ledger.")
@file_argument
@click.option("--to", "number", type=click.IntRange(1), metavar="N", help="Version [default: the one before].")
@click.option("--quarantine", is_flag=True, help="Pass over what was learned since, until it is released.")
@json_option
@quiet_option
@click.pass_obj
def rollback(output: Output, /, file: str, number: int | None, quarantine: bool) -> None:
    """Publish an older version again. Theta and ledger go back together: the next run goes on from there.

    Files learned since are new again, unless they are put in quarantine.
    """
    from streamgd.jobs.operations import rollback as roll_back

    _show(output, roll_back(_load(output, file), number, quarantine))


@job.command(short_help="Pass over files that are held or new.")
@file_argument
@names_argument
@json_option
@quiet_option
@click.pass_obj
def quarantine(output: Output, /, file: str, names: tuple[str, ...]) -> None:
    """Pass over files that are held or new, by their NAME in ``job status``, until they are released."""
    from streamgd.jobs.operations import quarantine as put_in_quarantine

    _show(output, put_in_quarantine(_load(output, file), list(names)))


@job.command(short_help="Take files back in that are held or in quarantine.")
@file_argument
@names_argument
@json_option
@quiet_option
@click.pass_obj
def release(output: Output, /, file: str, names: tuple[str, ...]) -> None:
    """Take files back in that are held or in quarantine: the next run learns them.

    NAME is that in ``job status``; the word ``all`` in its place takes all of them back in.
    """
    from streamgd.jobs.operations import release as release_files

    _show(output, release_files(_load(output, file), list(names)))
