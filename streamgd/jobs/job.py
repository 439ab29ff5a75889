"""A run of a job: its lock, its telemetry and its signals around what a night does."""

from __future__ import annotations

from typing import Any

from streamgd.jobs.config import JobConfig
from streamgd.jobs.statedir import StateDirectory
from streamgd.jobs.telemetry import Telemetry
from streamgd.training.display import Display
from streamgd.training.interrupt import Interrupt


def run_job(job: JobConfig, display: Display, restart: bool = False) -> dict[str, Any]:
    """Learn what is new, and publish the result if the gate lets it.

    Parameters
    ----------
    restart : bool
        Learn everything anew, from nothing; what is published stays until the new version is.

    Returns
    -------
    dict
        Plain values: ``outcome`` (``"published"`` or ``"nothing new"``), ``version``, ``files``, ``rows``, ``metrics``.

    Raises
    ------
    GateError
        The gate refused the candidate; what is published stays.
    RunLockedError
        Another process works on this job.
    NoInputError
        The source does not exist, or nothing new came for longer than ``expect_new_within``.
    DataError
        Of one of its kinds: a file that was learned has changed, new files lack a column or cannot be read.
    PausedError, InterruptedRunError
        A signal, ``pause_after``, or storage that stayed unavailable: the next run goes on.
    """
    # The lock first: whoever finds it taken has nothing to tell but that.
    with StateDirectory(job.state_dir) as state:
        telemetry = Telemetry(job, display)
        with telemetry.run(), Interrupt(job.pause_after) as interrupt:
            from streamgd.jobs.night import Night  # takes two seconds, in which a second job has long ended

            return Night(job, state, interrupt, display, telemetry).run(restart)
