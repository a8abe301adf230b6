"""The processes of a run: started, ended and started again, on one machine and on two."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.launch import processes
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.train import session

RUN = [sys.executable, "-m", "nanogpt_kit", "run"]
QUIET = ("callback=[]", "sample.num_samples=0")


def newest(tiny: Path) -> RunFolder:
    return runs.runs_of_experiment(tiny.parent / "runs" / "tiny")[-1]


def losses(folder: RunFolder) -> list[float]:
    return [line["train/loss"] for line in read_metrics(folder.metrics) if "train/loss" in line]


def wait_for_step(tiny: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a line of it is in the metrics."""
    for _ in range(1200):
        assert process.poll() is None, process.communicate()[1]
        root = tiny.parent / "runs" / "tiny"
        found = runs.runs_of_experiment(root) if root.exists() else []
        if (
            found
            and found[-1].metrics.exists()
            and any(line["step"] >= step for line in read_metrics(found[-1].metrics))
        ):
            return
        time.sleep(0.05)
    raise AssertionError("it does not come that far")


def ranks_of(folder: Path) -> list[int]:
    """Processes with this folder in their environment, some seconds after they should have ended."""
    found: list[int] = []
    for _ in range(60):
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                told = (path / "environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(str(folder)) in told and b"WORLD_SIZE" in told and int(path.name) != os.getpid():
                found.append(int(path.name))
        if not found:
            break
        time.sleep(0.1)
    return found


def test_the_first_exit_code_that_is_not_zero_is_the_answer() -> None:
    def ended(*codes: str) -> int:
        commands = [[sys.executable, "-c", f"import os, time; {code}"] for code in codes]
        return processes.wait_for_ranks([subprocess.Popen(command) for command in commands])

    assert ended("pass", "pass") == 0
    assert ended("time.sleep(60)", "os._exit(3)") == 3
    assert ended("os.kill(os.getpid(), 9)", "time.sleep(60)") == 1
    began = time.monotonic()
    assert (
        ended("import signal; signal.signal(15, signal.SIG_IGN); time.sleep(0.3)", "time.sleep(0.1); os._exit(2)") == 2
    )
    assert time.monotonic() - began < 8


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ranks_end_with_the_process_that_started_them(tiny: Path) -> None:
    options = ["train.steps=100000", "schedule=constant", "checkpoint.every_steps=100000", "--nproc", "2"]
    process = subprocess.Popen([*RUN, str(tiny), *QUIET, *options], stderr=subprocess.PIPE, text=True)
    wait_for_step(tiny, 2, process)
    process.kill()
    process.communicate()
    assert ranks_of(tiny.parent) == []
    assert newest(tiny).status().state in ("interrupted", "failed")  # by who notices first


@pytest.mark.slow
def test_notes_are_printed_once_however_many_processes_there_are(tiny: Path) -> None:
    options = ["optimizer=sgd", "optimizer.lr=0.1", "train.steps=1", "--nproc", "3"]
    done = subprocess.run([*RUN, str(tiny), *QUIET, *options], stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr.count("note: optimizer: 'sgd'") == 1


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGHUP", marks=pytest.mark.slow)])
def test_a_signal_to_the_command_ends_all_its_ranks_in_order(tiny: Path, name: str) -> None:
    options = ["train.steps=100000", "schedule=constant", "checkpoint.every_steps=100000", "--nproc", "2"]
    process = subprocess.Popen([*RUN, str(tiny), *QUIET, *options], stderr=subprocess.PIPE, text=True)
    wait_for_step(tiny, 2, process)
    process.send_signal(getattr(signal, name))
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130, told
    assert "Traceback" not in told
    folder = newest(tiny)
    step = folder.status().step
    assert (folder.status().state, len(losses(folder))) == ("interrupted", step)
    assert (folder.checkpoints / f"step-{step:08d}").exists()


DYING = """\
import os, signal
from nanogpt_kit.api import Callback, hookimpl

class Dying(Callback):
    at: int

    def build(self, run):
        return Listener(self.at)

class Listener:
    def __init__(self, at):
        self.at = at

    @hookimpl
    def step_finished(self, run, step):
        if step == self.at and run.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_torchrun_starts_again_and_the_run_goes_on(tiny: Path) -> None:
    (tiny.parent / "dying.py").write_text(DYING)
    options = ['components=["dying.py"]', "callback=[{use='dying', at=13}]", "sample.num_samples=0", "parallel=ddp"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "--max-restarts", "3", "-m", "nanogpt_kit", "run", str(tiny), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = runs.runs_of_experiment(tiny.parent / "runs" / "tiny")
    assert folder.status().state == "finished"
    steps = [line["step"] for line in read_metrics(folder.metrics) if "train/loss" in line]
    assert steps == list(range(1, 21))


@pytest.fixture
def two_machines() -> Iterator[list[list[str]]]:
    """Commands that enter one of two network namespaces, which a cable connects: 10.77.0.1 and 10.77.0.2."""
    names = [f"kit{os.getpid()}{letter}" for letter in "ab"]
    commands = [
        *(f"ip netns add {name}" for name in names),
        f"ip link add {names[0]} netns {names[0]} type veth peer name {names[1]} netns {names[1]}",
        *(f"ip -n {name} addr add 10.77.0.{number}/24 dev {name}" for number, name in enumerate(names, start=1)),
        *(f"ip -n {name} link set {device} up" for name in names for device in (name, "lo")),
    ]
    try:
        for command in commands:
            made = subprocess.run(command.split(), capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("ip"), reason="needs iproute2")
def test_two_machines_train_one_run_and_one_of_them_may_die(
    tiny: Path, two_machines: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with two processes; the second machine is killed in the middle, and started again.

    TORCH_DISABLE_SHARE_RDZV_TCP_STORE, since torch 2.13 does not tell a node that joins later where rank 0 is.
    """
    options = [*QUIET, "parallel=ddp", "train.steps=400", "checkpoint.every_steps=20", "evaluate.every_steps=200"]
    options += ["model.dropout=0.0"]
    torchrun = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2", "--max-restarts", "3"]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "10.77.0.1:29577", "--rdzv-id", "kit"]

    def node(number: int) -> subprocess.Popen[str]:
        device = two_machines[number][-1]
        own = ["--local-addr", f"10.77.0.{number + 1}", "--rdzv-conf", f"is_host={number == 0},join_timeout=60"]
        program = [sys.executable, *torchrun, *rendezvous, *own, "-m", "nanogpt_kit", "run", str(tiny), *options]
        return subprocess.Popen(
            [*two_machines[number], *program],
            env={**os.environ, "GLOO_SOCKET_IFNAME": device, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    nodes = [node(0), node(1)]
    try:
        wait_for_step(tiny, 90, nodes[1])
        os.killpg(nodes[1].pid, signal.SIGKILL)
        for path in Path("/proc").glob("[0-9]*"):  # the ranks are in sessions of their own
            try:
                inside = (path / "environ").read_bytes()
                if f"GLOO_SOCKET_IFNAME={two_machines[1][-1]}".encode() in inside:
                    os.kill(int(path.name), signal.SIGKILL)
            except OSError:
                continue
        nodes[1].communicate()
        nodes[1] = node(1)
        told = [process.communicate(timeout=200)[1] for process in nodes]
    finally:
        for process in nodes:
            process.kill()
            process.communicate()
    assert [process.returncode for process in nodes] == [0, 0], told
    (folder,) = runs.runs_of_experiment(tiny.parent / "runs" / "tiny")
    assert folder.status().state == "finished"
    monkeypatch.setenv("WORLD_SIZE", "1")
    whole = session.run(Experiment.load(tiny, [*options[:2], "name=whole", *options[3:]]))
    assert losses(folder) == pytest.approx(losses(whole), abs=1e-4)


def test_nothing_is_imported_from_a_current_folder_that_this_process_does_not_import_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "click.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    assert processes.run_ranks(1, ["--version"]) == 0
    assert not (tmp_path / "canary").exists()
