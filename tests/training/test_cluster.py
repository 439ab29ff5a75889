"""Full batch on worker processes gives the bits that threads give, whoever works, dies, comes late or is slow.

Schedulers and workers are real processes on loopback; every worker is slowed down at random.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from clusters import DELAYS, Cluster, wait_until
from conftest import Generated
from hypothesis import given
from hypothesis import strategies as st

from streamgd.errors import ClusterLostError, ConfigError, DataError, NoInputError, StreamgdError
from streamgd.training import cluster as cluster_module
from streamgd.training import reduce
from streamgd.training.checkpoint import CheckpointStore
from streamgd.training.cluster import assigned
from streamgd.training.display import Silent
from streamgd.training.interrupt import Interrupt
from streamgd.training.train import train
from streamgd.training.workers import Part

OPTIONS: dict[str, Any] = {"method": "batch", "epochs": 5, "holdout": 0.1}


@pytest.fixture(scope="module")
def data(generated: Generated) -> str:
    """30 chunks, once a chunk may be small."""
    return str(generated(rows=60_000, features=5, categorical=2, nulls=0.01, row_group_rows=2_000, seed=11))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduce, "SMALLEST_CHUNK_VALUES", 1_000)


@pytest.fixture(scope="module")
def on_threads(data: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduce, "SMALLEST_CHUNK_VALUES", 1_000)
        return outcome(data, tmp_path_factory.mktemp("threads") / "run", threads=1)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two slow workers, who do not finish a pass alone while somebody is ``expected``."""
    folder = tmp_path_factory.mktemp("cluster")
    waits = (
        "def around(work, start, common):\n"
        "    time.sleep(random.uniform(0.0, 0.02))\n"
        f"    start < 20 or not Path('{folder}/expected').exists() or until(Path('{folder}/came').exists)\n"
        "    return work()"
    )
    with Cluster(folder) as made:
        made.add(waits)
        made.add(waits)
        made.wait(2)
        yield made


def outcome(data: str, run: Path, **options: Any) -> dict[str, Any]:
    """What must not depend on who worked."""
    result = train(data, "y", run=str(run), **{**OPTIONS, **options})
    losses = [(line["objective"], line["holdout_loss"]) for line in result.history if line["event"] == "pass"]
    return {"theta": result.model.theta_sha256, "losses": losses, "facts": {**result.facts, "seconds": None}}


class Hooked(Silent):
    """Does something when the run has come to a phase."""

    def __init__(self, phase: str, strike: Callable[[], Any]):
        self._phase = phase
        self._strike: Callable[[], Any] | None = strike

    def message(self, text: str) -> None:
        self._told(text)

    def progress(self, phase: str, *_: Any) -> None:
        self._told(phase)

    def _told(self, text: str) -> None:
        if self._strike is not None and text.startswith(self._phase):
            strike, self._strike = self._strike, None
            strike()


def tasks(cluster: Cluster) -> list[str]:
    """What the scheduler keeps, and for whom."""

    def of(dask_scheduler: Any) -> list[str]:
        return [f"{key} {task.state} {task.who_wants}" for key, task in dask_scheduler.tasks.items()]

    return list(cluster.on_scheduler(of))


# The same bits


def test_three_threads_and_two_workers_give_the_bits_of_one_thread(
    data: str, on_threads: dict[str, Any], running: Cluster, tmp_path: Path
) -> None:
    assert outcome(data, tmp_path / "threads", threads=3) == on_threads
    assert outcome(data, tmp_path / "workers", cluster=running.address) == on_threads


def test_workers_take_the_first_steps_on_the_sample_that_threads_take(
    generated: Generated, running: Cluster, tmp_path: Path
) -> None:
    data = str(generated(rows=20_000, features=5, row_group_rows=1_000, seed=11))
    on_threads = outcome(data, tmp_path / "threads")
    assert len(on_threads["losses"]) <= 4
    assert outcome(data, tmp_path / "workers", cluster=running.address) == on_threads


@pytest.mark.parametrize("options", [{"loss": "poisson"}, {"loss": "multinomial"}], ids=str)
def test_counts_and_classes_are_summed_on_workers_as_on_threads(
    options: dict[str, Any], generated: Generated, running: Cluster, tmp_path: Path
) -> None:
    folder = generated(rows=12_000, features=3, categorical=1, levels=4, row_group_rows=1_000, seed=12)
    data = tmp_path / "data.parquet"
    table = ds.dataset(sorted(folder.glob("*.parquet"))).to_table()
    y = pc.add(table["y"], pc.cast(pc.greater(table["x0"], 0.8), pa.int8()))
    pq.write_table(table.set_column(table.column_names.index("y"), "y", y), data, row_group_size=1_000)
    on_threads = outcome(str(data), tmp_path / "threads", threads=1, **options)
    assert outcome(str(data), tmp_path / "workers", cluster=running.address, **options) == on_threads


@pytest.mark.slow
def test_a_path_of_penalties_on_workers_has_the_bits_of_threads(data: str, running: Cluster, tmp_path: Path) -> None:
    path: dict[str, Any] = {"path": 11, "path_to": 0.05}
    expected = outcome(data, tmp_path / "threads", **path)
    assert outcome(data, tmp_path / "workers", cluster=running.address, **path) == expected


@pytest.mark.slow
def test_one_two_and_four_workers_give_the_bits_of_threads(
    data: str, on_threads: dict[str, Any], tmp_path: Path
) -> None:
    with Cluster(tmp_path / "cluster") as cluster:
        for workers in (1, 2, 4):
            while len(cluster.workers) < workers:
                cluster.add()
            cluster.wait(workers)
            assert outcome(data, tmp_path / f"{workers}", cluster=cluster.address) == on_threads


def test_processes_of_our_own_give_the_bits_of_threads_and_leave_nothing(
    data: str, on_threads: dict[str, Any], tmp_path: Path
) -> None:
    left = tmp_path / "run" / "blocks" / "workers" / "of a start that was killed"
    left.mkdir(parents=True)
    assert outcome(data, tmp_path / "run", workers=2) == on_threads
    assert not (tmp_path / "run" / "blocks").exists()


@pytest.mark.parametrize("options", [{"blocks_max": "500KB"}, {"workers": None}], ids=str)
def test_blocks_on_the_disks_of_workers_change_no_bit_and_stay_within_their_bound(
    options: dict[str, Any], data: str, on_threads: dict[str, Any], running: Cluster, tmp_path: Path
) -> None:
    kept: list[int] = []
    most = len(running.workers) * 2_000_000

    def look() -> None:
        kept.append(sum(path.stat().st_blocks * 512 for path in running.blocks()))

    result = train(
        data, "y", run=str(tmp_path / "run"), cluster=running.address, display=Hooked("pass 4", look),
        **OPTIONS, **options,
    )  # fmt: skip
    assert result.model.theta_sha256 == on_threads["theta"]
    bound = 500_000 if "blocks_max" in options else most
    assert 0 < kept[0] <= bound
    wait_until(lambda: not running.blocks())


def test_a_worker_that_comes_in_the_middle_of_a_pass_takes_part_and_may_die_in_the_next(
    data: str, on_threads: dict[str, Any], running: Cluster, tmp_path: Path
) -> None:
    came, expected = running.folder / "came", running.folder / "expected"
    newcomer = (
        "def around(work, start, common):\n"
        f"    if not once('{came}') and not Path('{expected}').exists():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return work()"
    )

    def call() -> None:
        expected.touch()
        # Dask removes what a killed worker left when the next one starts there.
        running.add(newcomer, False, "--local-directory", str(tmp_path / "newcomer"))

    class Hooks(Silent):
        def progress(self, phase: str, *_: Any) -> None:
            if phase == "pass 1":
                call()
            if phase == "pass 2":
                expected.unlink()

    found = train(data, "y", run=str(tmp_path / "run"), cluster=running.address, display=Hooks(), **OPTIONS)
    assert came.exists()
    assert running.workers.pop().wait(30) == -signal.SIGKILL
    assert found.model.theta_sha256 == on_threads["theta"]


@pytest.mark.slow
def test_a_worker_that_dies_in_every_pass_changes_no_bit(data: str, on_threads: dict[str, Any], tmp_path: Path) -> None:
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    # The tasks of a pass have its theta in common.
    faults = (
        "import hashlib\n"
        "def around(work, start, common):\n"
        f"    name = f'{deaths}/' + hashlib.sha256(common._data).hexdigest()[:16]\n"
        "    if start == 11 and once(name):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return work()"
    )
    with Cluster(tmp_path / "cluster") as cluster:
        cluster.add(faults, nanny=True)
        cluster.add(faults, nanny=True)
        cluster.wait(2)
        found = outcome(data, tmp_path / "run", cluster=cluster.address)
    assert found == on_threads
    assert len(list(deaths.iterdir())) >= 2 * OPTIONS["epochs"]  # the survey, passes, and their holdout losses


# Endings


@pytest.mark.slow
def test_a_killed_client_leaves_nothing_on_the_cluster_and_the_run_goes_on(
    data: str, on_threads: dict[str, Any], running: Cluster, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    client = streamgd(data, run, "--cluster", running.address, "--checkpoint-every", "1ms")
    wait_until(lambda: passes(run) >= 2)
    wait_until(running.blocks)
    client.kill()
    client.wait()
    wait_until(lambda: not running.blocks())
    assert running.on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0
    assert outcome(data, run, cluster=running.address)["theta"] == on_threads["theta"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_stops_workers_at_a_checkpoint_within_seconds(
    number: int, code: int, data: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # Fixed steps have no end of their own.
    plain: dict[str, Any] = {"optimizer": "plain", "learning_rate": 1e-3, "tol_gradient": 0.0}
    options = ["--optimizer", "plain", "--learning-rate", "1e-3", "--tol-gradient", "0"]
    client = streamgd(data, run, "--workers", "1", "--epochs", "100000", *options)
    wait_until(lambda: passes(run) >= 2)
    began_s = time.monotonic()
    # Ctrl-C comes to the whole group.
    os.killpg(client.pid, number) if number == signal.SIGINT else client.send_signal(number)
    output = client.communicate(timeout=30)
    assert time.monotonic() - began_s < 5.0
    assert client.returncode == code, output
    assert len(output[1].splitlines()) == 1
    error = json.loads(output[0])["error"]
    assert "The same command goes on from the last checkpoint." in error["message"]
    assert not (run / "blocks").exists()
    latest = CheckpointStore(run / "checkpoints").latest()
    assert latest is not None
    plain["epochs"] = latest.state["epoch"] + 2
    straight = outcome(data, tmp_path / "straight", threads=2, **plain)
    assert outcome(data, run, threads=2, **plain)["theta"] == straight["theta"]


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.15, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_lost_scheduler_ends_in_a_checkpoint_from_which_threads_go_on(
    after_s: float, data: str, on_threads: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with Cluster(tmp_path / "cluster") as cluster:
        cluster.add("def around(work, start, common):\n    time.sleep(0.01)\n    return work()")
        cluster.wait(1)
        # In the middle of the third pass, which takes twice as long, or before it begins.
        strike = threading.Timer(after_s, cluster.scheduler.kill).start if after_s else cluster.scheduler.kill
        hook = Hooked("pass 2", strike)
        with pytest.raises(ClusterLostError, match=r"the scheduler of the cluster was lost\. .*same command") as lost:
            train(data, "y", run=str(run), cluster=cluster.address, display=hook, **OPTIONS)
    one_line(lost.value, 75)
    latest = CheckpointStore(run / "checkpoints").latest()
    assert latest is not None
    assert latest.state["epoch"] == 2
    assert outcome(data, run)["theta"] == on_threads["theta"]


# What is refused


def test_no_scheduler_at_the_address(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_S", 0.2)
    with pytest.raises(ClusterLostError, match=r"--cluster tcp://127.0.0.1:9: no scheduler answers there") as error:
        train(data, "y", run=str(tmp_path / "run"), cluster="tcp://127.0.0.1:9", **OPTIONS)
    one_line(error.value, 75)


def test_a_cluster_without_workers(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "NO_WORKERS_S", 0.2)
    with (
        Cluster(tmp_path / "cluster") as cluster,
        pytest.raises(ClusterLostError, match="the cluster has no workers") as error,
    ):
        train(data, "y", run=str(tmp_path / "run"), cluster=cluster.address, **OPTIONS)
    one_line(error.value, 75)


def test_a_folder_for_workers_that_cannot_be_made(data: str, tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="cannot make folder /proc/nothing/") as error:
        train(data, "y", run=str(tmp_path / "run"), workers=1, blocks_dir="/proc/nothing", **OPTIONS)
    one_line(error.value, 66)


@pytest.mark.parametrize("error", [RuntimeError("Nanny failed\nto start."), TimeoutError("60 s"), OSError(11, "fork")])
def test_processes_of_our_own_that_do_not_start(
    error: Exception, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_local_cluster(error, monkeypatch)
    with pytest.raises(ClusterLostError, match=r"^--workers 2: the processes did not start \(.*\)\. Ask") as told:
        train(data, "y", run=str(tmp_path / "run"), workers=2, **OPTIONS)
    one_line(told.value, 75)
    assert not (tmp_path / "run" / "blocks").exists()


@pytest.mark.parametrize("workers", [3, 4])
def test_more_workers_than_processors_are_warned_of(
    workers: int, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []

    class Warned(Silent):
        def warn(self, text: str) -> None:
            warned.append(text)

    monkeypatch.setattr(cluster_module, "usable_cores", lambda: 3)
    no_local_cluster(RuntimeError("not wanted here"), monkeypatch)
    with pytest.raises(ClusterLostError):
        train(data, "y", run=str(tmp_path / "run"), workers=workers, display=Warned(), **OPTIONS)
    told = [text for text in warned if text.startswith("--workers 4: more than the processors here, which are 3;")]
    assert len(told) == (workers == 4)


def test_versions_that_differ_are_refused_with_both(data: str, running: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other" / "numba-0.1.2.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numba\nVersion: 0.1.2\n")
    running.add(f"{DELAYS}\nsys.path.insert(0, {str(other.parent)!r})")
    running.wait(3)
    here = r"the versions of worker tcp://127.0.0.1:\d+ differ: numba [\d.]+ here, 0.1.2 there\. Install the same"
    with pytest.raises(ConfigError, match=here) as error:
        train(data, "y", run=str(tmp_path / "run"), cluster=running.address, **OPTIONS)
    one_line(error.value, 78)
    running.workers[-1].kill()
    running.workers.pop().wait()
    wait_until(lambda: running.on_scheduler(lambda dask_scheduler: len(dask_scheduler.workers)) == 2)


def test_workers_with_too_little_memory_are_refused(data: str, running: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"worker tcp\S+ may use .* need 100.*TB by --memory\. Start it") as error:
        train(data, "y", run=str(tmp_path / "run"), cluster=running.address, memory="100TB", **OPTIONS)
    one_line(error.value, 78)


def test_data_that_a_worker_does_not_see(data: str, running: Cluster, tmp_path: Path) -> None:
    moved = shutil.copytree(data, tmp_path / "data")
    hook = Hooked("workers:", lambda: moved.rename(tmp_path / "elsewhere"))
    with pytest.raises(NoInputError, match=r"worker tcp://127.0.0.1:\d+: .*data/\S+parquet is not there\.") as error:
        train(str(moved), "y", run=str(tmp_path / "run"), cluster=running.address, display=hook, **OPTIONS)
    one_line(error.value, 66)


def test_bad_data_end_in_the_message_of_threads_and_are_not_tried_again(
    running: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, closed = cluster_module._close_client, []

    def close_when_the_pass_is_gone(client: Any) -> None:
        def of_pass() -> list[str]:
            return [task for task in tasks(running) if "-spec'" not in task and "-held'" not in task]

        wait_until(lambda: not of_pass(), found=of_pass)
        close(client)
        closed.append(client)

    monkeypatch.setattr(cluster_module, "_close_client", close_when_the_pass_is_gone)
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=20_000), "z": rng.normal(size=20_000), "y": rng.integers(0, 2, 20_000)}
    columns["x"][13_500] = np.inf
    file = tmp_path / "bad.parquet"
    pq.write_table(pa.table(columns), file, row_group_size=1_000)
    said = []
    for options in ({"threads": 1}, {"cluster": running.address}):
        with pytest.raises(DataError, match="row group 13, row 500") as error:
            train(str(file), "y", run=str(tmp_path / "run"), **OPTIONS, **options)
        one_line(error.value, 65)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert closed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": 2, "method": "minibatch"}, "--workers is for --method batch only"),
        ({"cluster": "tcp://a:1", "method": "sgd"}, "--cluster is for --method batch only"),
        ({"cluster": "tcp://a:1", "workers": 1}, "--workers and --cluster both given"),
        ({"cluster": "somewhere"}, r"--cluster: expected an address such as tcp://10.0.0.1:8786, found 'somewhere'"),
        ({"workers": 0}, "--workers: "),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], said: str, data: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        train(data, "y", run=str(tmp_path / "run"), **{"method": "batch", **options})
    one_line(error.value, 78)
    assert not (tmp_path / "run").exists()


def test_without_the_package_the_extra_is_named(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'streamgd\[cluster\]'") as error:
        train(data, "y", run=str(tmp_path / "run"), method="batch", workers=1)
    one_line(error.value, 78)


# The graph


@pytest.mark.parametrize("n_passes", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_graph_and_scheduler_stay_flat_over_passes(n_passes: int, data: str, running: Cluster, tmp_path: Path) -> None:
    found: list[int] = []

    class Looks(Silent):
        def progress(self, phase: str, *_: Any) -> None:
            if phase in (f"pass {n_passes // 2}", f"pass {n_passes}"):
                # Two specs, and what each worker has of them; the tasks of the pass are let go of in a moment.
                few = 2 + 2 * len(running.workers)
                wait_until(lambda: len(tasks(running)) <= few, found=lambda: tasks(running))
                found.append(resident_bytes(running.scheduler.pid))

    wait_until(lambda: not tasks(running), found=lambda: tasks(running))  # of runs before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = train(
            data, "y", run=str(tmp_path / "run"), cluster=running.address, method="batch", optimizer="plain",
            learning_rate=1e-3, epochs=n_passes, tol_gradient=0.0, display=Looks(),
        )  # fmt: skip
    assert result.facts["epochs"] == n_passes
    assert found[1] - found[0] < 8_000_000


def test_who_comes_in_the_middle_of_a_pass_is_soon_told_to_keep_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "LOOK_S", 0.0)
    held: list[tuple[str, dict[str, int]]] = []

    class Sum:
        """Done when all have been told."""

        status, type = "finished", Part

        def add_done_callback(self, callback: Callable[[Any], None]) -> None:
            self.end = lambda: callback(self)

        def result(self) -> Part:
            return Part(1.0, {})

    class Told:
        def workers(self) -> dict[str, int]:
            return {"tcp://newcomer:1": 1}

        def hold(self, *told: Any) -> None:
            held.append(told)
            total.end()

    total: Any = Sum()
    cluster: Any = Told()
    context: Any = SimpleNamespace(interrupt=Interrupt())
    one_pass = cluster_module._ClusterPass(cluster, "key", total, (), context)
    assert one_pass._wait(total, {}, None).value == 1.0
    assert held[0] == ("key", {"tcp://newcomer:1": 1})


@given(
    homes=st.lists(st.sampled_from(["", "a", "b", "c", "d"]), max_size=40),
    threads=st.dictionaries(st.sampled_from(["a", "b", "c", "e"]), st.integers(1, 3), min_size=1),
)
def test_chunks_stay_at_home_as_far_as_shares_are_equal(homes: list[str], threads: dict[str, int]) -> None:
    found = assigned(homes, threads)
    counts, slots = Counter(found), sum(threads.values())
    assert len(found) == len(homes)
    assert set(found) <= threads.keys()
    for worker, own in threads.items():
        assert len(homes) // slots * own <= counts[worker] <= (len(homes) // slots + 1) * own
    assert assigned(found, threads) == found


# Helpers


def one_line(error: StreamgdError, code: int) -> None:
    assert error.exit_code == code
    assert len(str(error).splitlines()) == 1


def no_local_cluster(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of our own do not start."""

    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cluster_module, "LocalCluster", fail)


def resident_bytes(pid: int) -> int:
    return 1024 * int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])


def passes(run: Path) -> int:
    history = run / "history.jsonl"
    return history.read_text().count('"event": "pass"') if history.exists() else 0


def streamgd(data: str, run: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, with chunks as small as here."""
    code = (
        "from streamgd.training import reduce\n"
        "from streamgd.cli import main\n"
        "if __name__ == '__main__':\n"
        "    reduce.SMALLEST_CHUNK_VALUES = 1_000\n"
        "    main(prog_name='streamgd')\n"
    )
    script = run.with_suffix(".py")
    script.write_text(code)
    options = ["--method", "batch", "--epochs", "5", "--holdout", "0.1", "--target", "y", "--json", "--quiet"]
    return subprocess.Popen(
        [sys.executable, str(script), "train", data, *options, "--run", str(run), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
