"""A commented example of a job file."""

from __future__ import annotations

from pathlib import Path

from streamgd import state as states
from streamgd.errors import ConfigError

EXAMPLE = """\
# A scheduled job of streamgd. Run it as often as you like: streamgd job run {name}
# Paths are relative to the folder of this file.

source = "incoming"            # directory, glob or URI that Parquet files arrive in
state = "state"                # what the job remembers: ledger, theta, versions

# continue: go on from the last theta with the new files, each once
# window:   train afresh on the latest window_files files
# retrain:  train afresh on all files
mode = "continue"
# window_files = 30

on_changed = "error"           # a file that was learned has other content now: error, ignore or retrain
# min_age = "5m"               # leave younger files for next time: they may not be whole yet
# success_marker = true        # take files only from folders that hold a file _SUCCESS
# expect_new_within = "36h"    # nothing new for longer than this ends in exit 66
# pause_after = "2h"           # time budget: stop at a checkpoint (exit 75), the next run goes on
# retry_for = "5m"             # how long storage that does not answer is asked again

[train]                        # options of streamgd train, see streamgd train --help
target = "late"
# features = "month,day,distance,carrier"
# categorical = "carrier"
# on_bad_data = "skip"         # leave files that cannot be read for later, rather than end with 65

[gate]                         # what a candidate must reach; refused: exit 3, what is published stays
on = "holdout"                 # judge on rows held out by hash; "newest": on the newest file before it is learned
holdout = "10%"
# max_log_loss = 0.5
# min_auc = 0.6
max_worse = "5%"               # than the published model, on files that it has learned (some loss is usual there)
# min_rows = 1000
on_fail = "hold"               # hold: try its files again next time; quarantine: pass over until released

[publish]
# dir = "published"            # default: in the state directory; the model is at DIR/current/model.safetensors
keep = 5                       # versions kept

# [drift]                      # of new files against what was learned
# warn_mean = 0.5              # mean moved by more than so many standard deviations
# fail_nulls = "20%"           # share of nulls moved by more than this
# warn_new_levels = "5%"       # share of rows with a level that was not known

[telemetry]
log = "late.jsonl"             # JSON lines, one for each event
# prometheus = "/var/lib/node_exporter/textfile/late.prom"
# mlflow = "sqlite:///mlflow.db"
"""


def write_example(path: Path) -> Path:
    """Write the example, unless there is such a file, and make the folder that its source names; returns that.

    Raises
    ------
    ConfigError
        The file is there already.
    """
    if path.exists():
        raise ConfigError(f"{path} is there already. Name another file.")
    incoming = path.absolute().parent / "incoming"
    states.make_folder(incoming)
    states.write_atomically(path.absolute(), EXAMPLE.format(name=path.name).encode())
    return incoming
