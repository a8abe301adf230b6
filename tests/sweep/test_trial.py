"""What becomes of a trial, for each way its process can end; the processes are played, their folders are real."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import tomli
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nanogpt_kit.components.mlp import gelu
from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.graph_identity import compile_task
from nanogpt_kit.core.machine_choices import CALIBRATION
from nanogpt_kit.launch.slots import MachineSlot
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.machine_choices import FILE_NAME, ChoicesRecord
from nanogpt_kit.runs.metrics import MetricsReader, truncate_metrics
from nanogpt_kit.runs.status import Failure
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.records import TrialResult
from nanogpt_kit.sweep.study.search import SearchPlan
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.work import trial as trial_module
from nanogpt_kit.sweep.work.controller import Controller
from nanogpt_kit.sweep.work.outcome import MissingMetric, Outcome, failed_outcome
from nanogpt_kit.sweep.work.trial import TrialProcess
from nanogpt_kit.train.stop import StopSignals

BASE = Path(__file__).with_name("base.toml").read_text(encoding="utf-8")
SWEEP = """
[sweep]
{options}
[sweep.space]
"optimizer.lr" = {{ float = [1e-4, 1e-2], log = true }}
"""
METRIC = "val/loss"
WHOLE = MachineSlot(0)
HALF = MachineSlot(0, cores=(0,), threads=1)
Acts = tuple[Callable[[RunFolder], int | None], Failure | None]  # what a process does, and the record that it leaves


class Played:
    """A process that ends as the test says: `acts` gives the exit code, and may write into the run's folder."""

    def __init__(self, acts: Callable[[RunFolder], int | None], folder: RunFolder, left: Failure | None) -> None:
        self.acts, self.folder, self.left = acts, folder, left
        self.terminated = self.killed = False
        self.process = self
        self.pid = os.getpid()

    def poll(self) -> int | None:
        return self.acts(self.folder)

    def failure(self) -> Failure | None:
        return self.left

    def last_line(self) -> str:
        return "its last line"

    def terminate(self) -> None:
        self.terminated = True

    def kill(self) -> None:
        self.killed = True


class Scene:
    """A study of one trial, and the processes that its work starts, one after the other."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, options: str, batch_tokens: int, base: str = BASE
    ) -> None:
        path = folder / "exp.toml"
        text = base.replace("batch_tokens = 480", f"batch_tokens = {batch_tokens}") + SWEEP.format(options=options)
        path.write_text(text, encoding="utf-8")
        self.space = Space(Experiment.load(path, trust_code=True))
        self.study = self.make_study(InMemoryStorage(), folder / "sweep")
        self.measurements = [{"a task": "fast"}, {"a task": "slow"}]  # of the machines that open the study, in turn
        self.study.folder.mkdir()
        self.study.open()
        self.acts: list[Acts] = []
        self.started: list[Played] = []
        self.works: list[TrialProcess] = []
        self.slots: list[MachineSlot] = []
        self.choices: list[dict[str, str]] = []  # that each process is given
        self.specs: list[dict[str, Any]] = []
        self.min_tokens = 0  # as without a pruner's first rung
        monkeypatch.setattr(trial_module, "SlotProcess", self.start)

    def make_study(self, storage: InMemoryStorage, folder: Path) -> Study[SearchPlan]:
        plan = SearchPlan(self.space, {"optimizer.lr": 1e-3})
        return Study(plan, storage, folder, lambda: self.measurements.pop(0))

    def start(self, arguments: Sequence[str], slot: MachineSlot, log: Path, variables: Mapping[str, str]) -> Played:
        folder = RunFolder(Path(next(word for word in arguments if word.startswith("--into=")).removeprefix("--into=")))
        assert arguments[0] == "run"
        self.slots.append(slot)
        self.choices.append(json.loads(Path(variables[CALIBRATION]).read_text(encoding="utf-8"))["choices"])
        self.specs.append(tomli.loads(Path(arguments[1]).read_text(encoding="utf-8")))
        assert Experiment.load(Path(arguments[1])).name == "x"
        acts, left = self.acts.pop(0)
        self.started.append(Played(acts, folder, left))
        return self.started[-1]

    def work(self, trial: optuna.Trial | None = None, slot: MachineSlot = WHOLE) -> TrialProcess:
        trial = trial or self.study.claim()
        assert trial is not None
        lock = self.study.ownership.trial_lock(trial.number)
        lock.__enter__()
        work = TrialProcess(self.study, trial, slot, self.study.folder, lock)
        work.min_tokens = self.min_tokens
        self.works.append(work)
        return work

    def ends(self, *acts: Acts) -> Outcome:
        """How a trial ends whose processes act so; all of them are used."""
        self.acts = list(acts)
        work = self.work()
        outcome = None
        for _ in range(3 * len(acts) + 3):
            outcome = outcome or work.poll()
        assert outcome is not None, "it goes on"
        assert not self.acts, "it ended before"
        return outcome


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    scenes: list[Scene] = []

    def made(options: str = "trials = 3", batch_tokens: int = 480, base: str = BASE) -> Scene:
        scenes.append(Scene(tmp_path, monkeypatch, options, batch_tokens, base))
        return scenes[-1]

    yield made
    for one in scenes:
        for work in one.works:
            work.release()


def wrote(folder: RunFolder, state: str, *records: dict[str, Any], **details: Any) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.experiment.write_text("name = 'x'\n")
    with folder.metrics.open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    folder.set_status(state, **details)


def evaluated(step: int, value: float | None, name: str = METRIC, batch_tokens: int = 480) -> dict[str, Any]:
    return {"step": step, "tokens": step * batch_tokens, "seconds": step / 10, name: value}


def logged(step: int) -> dict[str, Any]:
    return {"step": step, "tokens": step * 480, "seconds": step / 10, "train/loss": 3.0, "perf/tokens_per_second": 9.0}


def finishes(value: float | None = 1.5, **details: Any) -> Acts:
    def acts(folder: RunFolder) -> int:
        wrote(folder, "finished", logged(20), evaluated(20, value), step=20, **details)
        return 0

    return acts, None


def fails(cause: str | None = "error", reason: str = "a bug", code: int = 1) -> Acts:
    def acts(folder: RunFolder) -> int:
        wrote(folder, "failed", logged(5), step=5, reason=reason, **({"cause": cause} if cause else {}))
        return code

    return acts, None


def dies(code: int, cause: str = "", reason: str = "", state: str | None = None) -> Acts:
    """Without a word of its run, but perhaps with a record of why."""

    def acts(folder: RunFolder) -> int:
        if state:
            wrote(folder, state)
        return code

    return acts, Failure.model_validate({"cause": cause, "reason": reason}) if cause else None


KILLED = dies(-9, state="running")
KILLED_EARLY = dies(-9)


# How it ends


@pytest.mark.parametrize(
    ("acts", "state", "cause", "reason"),
    [
        ([finishes(1.5)], "COMPLETE", "complete", ""),
        ([finishes(None)], "PRUNED", "not_finite", "val/loss"),
        ([fails("oom", "no room")], "PRUNED", "oom", "no room"),
        ([fails("not_finite", "the loss is nan")], "PRUNED", "not_finite", "the loss is nan"),
        ([fails("error", "a bug"), finishes(1.5)], "COMPLETE", "complete", ""),
        ([fails("error", "a bug"), fails("error", "a bug")], "FAIL", "error", "a bug"),
        ([fails(None, "a bug"), fails(None, "a bug")], "FAIL", "error", "a bug"),
        ([dies(2, "refused", "x = 3 cannot be")], "PRUNED", "refused", "x = 3 cannot be"),
        ([dies(2, "refused", "x = 3 cannot be", "running")], "PRUNED", "refused", "x = 3 cannot be"),
        ([dies(2)], "PRUNED", "refused", "its last line"),
        ([dies(2, "disk", "no room for the data")], "FAIL", "disk", "no room for the data"),
        ([dies(1, "oom", "3 GB; less is less")], "PRUNED", "oom", "3 GB"),
        ([dies(1, "error", "KeyError: 'x'")] * 2, "FAIL", "error", "KeyError: 'x'"),
        ([dies(1)] * 2, "FAIL", "error", "its last line"),
        ([KILLED, finishes()], "COMPLETE", "complete", ""),
        ([KILLED, KILLED_EARLY, KILLED, finishes()], "COMPLETE", "complete", ""),
        ([KILLED] * 4, "PRUNED", "died", "4 times"),
        ([dies(1, state="running")] * 4, "PRUNED", "died", "4 times"),  # of several ranks, one was killed
        ([fails("lost_rank")] * 4, "PRUNED", "lost_rank", ""),
        ([dies(-11), dies(130, state="interrupted"), dies(-6), dies(-9)], "PRUNED", "died", "4 times"),
        ([fails(code=-6), finishes()], "COMPLETE", "complete", ""),
        ([fails("oom", "no room", code=-6)], "PRUNED", "oom", "no room"),
        ([fails("disk", "no room")], "FAIL", "disk", "no room"),
        ([fails(), KILLED_EARLY, finishes()], "COMPLETE", "complete", ""),
        ([fails(), KILLED_EARLY, KILLED_EARLY, fails(reason="again")], "FAIL", "error", "again"),
        ([fails(), dies(1, "error", "ImportError: no x")], "FAIL", "error", "ImportError: no x"),
        ([fails(), dies(2, "refused", "another mistake")], "PRUNED", "refused", "another mistake"),
        ([dies(75), finishes()], "COMPLETE", "complete", ""),
        ([dies(75, "busy", "/r is at work in another process"), finishes()], "COMPLETE", "complete", ""),
        ([fails(), dies(1, "oom", "when built")], "PRUNED", "oom", "when built"),
        ([fails(reason="out of memory: x is at work in another process")] * 2, "FAIL", "error", "out of memory"),
    ],
)
def test_each_end_of_a_process_has_its_outcome(scene: Any, acts: Any, state: str, cause: str, reason: str) -> None:
    outcome = scene().ends(*acts)
    assert (outcome.state.name, outcome.cause) == (state, cause)
    assert reason in outcome.reason
    assert outcome.value == (1.5 if state == "COMPLETE" else None)


def test_a_process_that_ends_in_an_error_after_its_run_was_finished_has_done_its_work(scene: Any) -> None:
    def acts(folder: RunFolder) -> int:
        finishes()[0](folder)
        return -6  # as of a library, while Python shuts down

    assert scene().ends((acts, None)).value == 1.5


def test_what_a_trial_has_spent_is_noted(scene: Any) -> None:
    play = scene("trials = 3\nseeds = 2")
    budget = finishes(2.5, parameters=123, ended_by="max_seconds", reason="whatever it says")
    assert play.ends(finishes(1.5), budget).value == 2.0
    [work] = play.works
    work.store_result(Outcome(TrialState.COMPLETE, "complete", 2.0))
    told = TrialResult.of(play.study.trials()[0])
    assert told is not None
    assert (told.tokens, told.seconds, told.step, told.values) == (2 * 9600, 4.0, 20, (1.5, 2.5))
    assert told.parameters == 123
    assert told.ended_by == "max_seconds"
    assert [played.folder.path.name for played in play.started] == ["trial-0000-s1337", "trial-0000-s1338"]


def test_a_seed_that_fails_ends_the_trial_and_each_has_its_own_second_chance(scene: Any) -> None:
    play = scene("trials = 3\nseeds = 3")
    assert play.ends(fails(), finishes(), fails(), finishes(), fails(), finishes(2.5)).value == pytest.approx(5.5 / 3)
    assert play.ends(finishes(), fails("oom")).cause == "oom"
    assert play.ends(finishes(), finishes(None)).cause == "not_finite"


def test_a_metric_that_is_missing_is_told_with_the_nearest(scene: Any) -> None:
    def acts(folder: RunFolder) -> None:
        wrote(folder, "running", logged(5), evaluated(5, 1.0, "val/los"))

    with pytest.raises(MissingMetric, match="'val/loss'; did you mean 'val/los'"):
        scene().ends((acts, None))


def test_a_run_that_finished_without_any_evaluation_is_told(scene: Any) -> None:
    def acts(folder: RunFolder) -> int:
        wrote(folder, "finished", logged(20))
        return 0

    with pytest.raises(KitError, match="the metric 'val/loss'"):
        scene().ends((acts, None))


def test_a_sweep_may_go_by_what_is_logged_with_each_step(scene: Any) -> None:
    def acts(folder: RunFolder) -> int:
        wrote(folder, "finished", logged(1), evaluated(10, 1.0, "val/loss"), logged(20), evaluated(20, 1.0, "val/loss"))
        return 0

    assert scene("metric = 'train/loss'").ends((acts, None)).value == 3.0


# Stopping


def test_a_trial_that_is_stopped_is_asked_to_save_and_has_no_outcome(scene: Any) -> None:
    play = scene()
    play.acts = [dies(130, state="interrupted")]
    work = play.work()
    assert work.poll() is None
    work.stop()
    assert play.started[0].terminated
    for _ in range(3):
        assert work.poll() is None
    assert len(play.started) == 1, "and is not started again"


def test_a_trial_that_is_stopped_before_its_process_was_started_starts_none(scene: Any) -> None:
    play = scene()
    work = play.work()
    work.stop()
    assert work.poll() is None
    assert not play.started


# Pruning


class Bad(optuna.pruners.BasePruner):
    """Finds every trial bad."""

    def __init__(self) -> None:
        self.asked = 0

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        self.asked += 1
        return True


def measures(*records: dict[str, Any]) -> Acts:
    """A process that goes on; each look finds one record more."""
    left = list(records)

    def acts(folder: RunFolder) -> None:
        if left:
            wrote(folder, "running", left.pop(0))

    return acts, None


def pruning(play: Scene) -> Bad:
    play.study.optuna_study.pruner = bad = Bad()
    return bad


def test_a_bad_trial_is_asked_to_end_and_is_pruned_with_what_it_had(scene: Any) -> None:
    play = scene()
    pruning(play)
    play.acts = [measures(evaluated(5, 3.25))]
    work = play.work()
    assert work.poll() is None
    assert work.poll() is None
    assert play.started[0].terminated
    work.process.acts = dies(130, state="interrupted")[0]
    outcome = work.poll()
    assert (outcome.state, outcome.cause) == (TrialState.PRUNED, "pruned")
    assert outcome.reason == "val/loss 3.2500 at 2,400 tokens"


@pytest.mark.parametrize("code", [1, -9, 2])
def test_a_trial_that_breaks_while_it_is_pruned_is_pruned(scene: Any, code: int) -> None:
    play = scene()
    pruning(play)

    def acts(folder: RunFolder) -> int:
        wrote(folder, "failed", evaluated(5, 3.25), cause="error", reason="no room for the checkpoint")
        return code

    assert play.ends((acts, None)).cause == "pruned"


def test_a_trial_that_finished_while_it_was_pruned_is_complete(scene: Any) -> None:
    play = scene()
    pruning(play)

    def acts(folder: RunFolder) -> int:
        wrote(folder, "finished", evaluated(5, 3.25), evaluated(20, 1.5))
        return 0

    outcome = play.ends((acts, None))
    assert (outcome.state, outcome.value) == (TrialState.COMPLETE, 1.5)


def test_nothing_is_pruned_before_its_time_or_at_the_last_step(scene: Any) -> None:
    play = scene()
    bad = pruning(play)
    play.min_tokens = 11 * 480
    play.acts = [measures(evaluated(5, 3.0), evaluated(10, 2.5), evaluated(20, 2.0))]
    work = play.work()
    for _ in range(5):
        work.poll()
    assert bad.asked == 0
    assert not play.started[0].terminated
    assert play.study.trials()[0].intermediate_values == {2400: 3.0, 4800: 2.5, 9600: 2.0}


def test_seeds_after_the_first_are_neither_reported_nor_pruned(scene: Any) -> None:
    play = scene("trials = 3\nseeds = 2")
    play.acts = [finishes(), measures(evaluated(5, 3.0))]
    work = play.work()
    for _ in range(2):
        work.poll()
    bad = pruning(play)
    for _ in range(3):
        assert work.poll() is None
    assert work.run.value == 3.0
    assert bad.asked == 0
    assert play.study.trials()[0].intermediate_values == {9600: 1.5}


def test_a_value_that_is_no_number_is_not_reported(scene: Any) -> None:
    play = scene()
    bad = pruning(play)
    play.acts = [measures(evaluated(5, None), evaluated(10, math.inf))]
    work = play.work()
    for _ in range(3):
        work.poll()
    assert bad.asked == 0
    assert play.study.trials()[0].intermediate_values == {}


@pytest.mark.parametrize(("batch_tokens", "unit"), [(16 * 6_000_000, 1), (16 * 7_000_000, 1000)])
def test_reports_count_tokens_or_thousands_where_they_would_not_fit(scene: Any, batch_tokens: int, unit: int) -> None:
    play = scene(batch_tokens=batch_tokens)
    play.acts = [measures(evaluated(5, 3.0, batch_tokens=batch_tokens))]
    work = play.work()
    for _ in range(2):
        work.poll()
    [step] = play.study.trials()[0].intermediate_values
    assert step == 5 * batch_tokens // unit
    assert 20 * batch_tokens // unit < 2**31


def test_what_was_reported_is_not_reported_again_by_the_next_controller(scene: Any) -> None:
    play = scene()
    play.acts = [measures(evaluated(5, 3.0), evaluated(10, 2.5)), measures(evaluated(15, 2.0))]
    work = play.work()
    for _ in range(4):
        work.poll()
    work.release()
    again = play.work(optuna.Trial(play.study.optuna_study, work.trial._trial_id))
    bad = pruning(play)
    again.poll()
    assert again.run.value == 2.5, "it knows how far the run was"
    assert bad.asked == 0
    play.study.optuna_study.pruner = optuna.pruners.NopPruner()
    again.process.acts(again.run.folder)
    truncate_metrics(again.run.folder.metrics, 5)  # the run went on from a checkpoint before its last evaluation
    wrote(again.run.folder, "running", evaluated(10, 2.5), evaluated(15, 2.0))
    again.poll()
    assert play.study.trials()[0].intermediate_values == {2400: 3.0, 4800: 2.5, 7200: 2.0}
    assert again.run.step == 15


def test_a_trial_that_turns_out_bad_before_its_process_starts_again_starts_none(scene: Any) -> None:
    play = scene()
    pruning(play)
    work = play.work()
    wrote(work.run.folder, "interrupted", evaluated(5, 3.25))  # its controller was killed before it read that
    outcome = work.poll()
    assert outcome is not None
    assert outcome.cause == "pruned"
    assert not play.started


# A process that a killed controller has left


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_process_that_does_not_notice_that_its_controller_is_gone_is_killed(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "ORPHAN_SECONDS", 0.2)
    play = scene()
    work = play.work()
    folder = work.run.folder
    wrote(folder, "running")
    holder = "import sys, time; from nanogpt_kit.runs.lock import *\nwith Lock(Path(sys.argv[1]) / 'lock'): "
    holder += "print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", holder, str(folder.path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    (play.study.folder / "trials" / f"{folder.path.name}.pid").write_text(str(process.pid))
    began = time.monotonic()
    assert work.poll() is None
    assert process.poll() is None, "it has some time to notice"
    play.acts = [finishes()]
    while (outcome := work.poll()) is None:
        assert time.monotonic() - began < 10
        time.sleep(0.05)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert outcome.value == 1.5


def test_another_process_with_its_number_is_left_alone(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module, "ORPHAN_SECONDS", 0.0)
    play = scene()
    work = play.work()
    wrote(work.run.folder, "running")
    (play.study.folder / "trials" / f"{work.run.folder.path.name}.pid").write_text(str(os.getpid()))
    with work.run.folder.lock():
        assert work.poll() is None
        assert work.poll() is None
    assert not play.started


def test_what_was_finished_while_nobody_looked_is_complete_without_a_process(scene: Any) -> None:
    play = scene("trials = 3\nseeds = 2")
    work = play.work()
    for run in work.runs:
        finishes(1.5)[0](run.folder)
    outcome = work.poll()
    assert outcome is not None
    assert outcome.value == 1.5
    assert not play.started


def test_what_a_killed_controller_left_of_the_files_of_a_trial_is_removed(scene: Any) -> None:
    play = scene("trials = 3")
    trials = play.study.folder / "trials"
    left = [trials / f".trial-0000-s1337.{suffix}.0123456789abcdef.tmp" for suffix in ("toml", "pid")]
    other = trials / ".trial-0001-s1337.pid.0123456789abcdef.tmp"  # perhaps of a controller that lives
    for path in (*left, other):
        path.write_text("")
    play.work()
    assert not any(path.exists() for path in left)
    assert other.exists()


def test_checkpoints_of_what_was_given_up_go_and_the_rest_stays(scene: Any) -> None:
    play = scene()
    play.ends(fails("oom"))
    [work] = play.works
    (work.run.folder.checkpoints / "step-00000010").mkdir(parents=True)
    work.delete_checkpoints()
    work.delete_checkpoints()
    assert not work.run.folder.checkpoints.exists()
    assert work.run.folder.metrics.exists()


# The tail of a file


def steps(tail: MetricsReader) -> list[int]:
    return [record["step"] for record in tail.new_records()]


def test_a_tail_gives_each_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsReader(path)
    assert steps(tail) == []
    with path.open("ab", buffering=0) as file:
        file.write(b'{"step": 1}\n{"st')
        assert steps(tail) == [1]
        file.write(b'ep": 2')
        assert steps(tail) == []
        file.write(b"}\n")
        assert steps(tail) == [2]
        assert steps(tail) == []
        file.write(b'[]\nnull\n{"step": null}\n\n\xff\xfe\n\0\0\0\0\n{"step": 3}\n')
        assert steps(tail) == [3]


def test_a_tail_begins_again_where_a_resumed_run_has_written_the_file_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 6)))
    tail = MetricsReader(path)
    assert steps(tail) == [1, 2, 3, 4, 5]
    truncate_metrics(path, 3)
    assert steps(tail) == [1, 2, 3]
    with path.open("a") as file:
        file.write('{"step": 4}\n')
    assert steps(tail) == [4]
    truncate_metrics(path, 9)  # as long as before
    assert steps(tail) == [1, 2, 3, 4]
    path.write_text("")  # the same file, cut
    path.write_text('{"step": 1}\n')
    assert steps(tail) == [1]
    path.unlink()
    assert steps(tail) == []


# What it is started with


@pytest.mark.parametrize(("before", "after", "threads"), [(HALF, WHOLE, 1), (WHOLE, HALF, None)])
def test_a_trial_goes_on_with_the_threads_that_it_began_with(
    scene: Any, before: MachineSlot, after: MachineSlot, threads: int | None
) -> None:
    """As when --workers was changed: another number of threads rounds otherwise."""
    play = scene()
    play.acts = [KILLED, finishes()]
    trial = play.study.claim()
    first = play.work(trial, before)
    first.poll()
    first.release()
    second = play.work(trial, after)
    for _ in range(4):
        outcome = second.poll()
        if outcome is not None:
            second.store_result(outcome)
            break
    assert [spec["train"].get("threads") for spec in play.specs] == [threads, threads]
    assert play.slots[1] == (after if threads else WHOLE), "without a number it has the whole machine, as it began"
    result = TrialResult.of(play.study.trials()[0])
    assert result is not None
    assert result.threads == threads


def test_trials_run_the_component_files_as_they_were_when_the_sweep_began(scene: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    code = Path(gelu.__file__).read_text().replace("class GELU", "class Mine")
    file.write_text(code)
    play = scene(base='components = ["mine.py"]\n' + BASE.replace("n_layer = 2", 'n_layer = 2\nmlp = "mine"'))
    file.write_text(code + "\n# edited while the sweep is at work\n")
    play.acts = [finishes()]
    play.work().poll()
    [copy] = play.specs[0]["components"]
    assert Path(copy) == Path("components", "mine.py")
    assert (play.study.folder / "trials" / copy).read_text() == code


# What ends a sweep


def fails_alike(scene: Any, *outcomes: Outcome) -> int:
    """After how many of these, as ends of trials in a row, the sweep ends; 0 where it goes on."""
    play = scene()
    controller = Controller(play.study, [], StopSignals())
    work = play.work()
    work.index = 5  # trial 0 is told apart
    for count, outcome in enumerate(outcomes, start=1):
        try:
            controller.check_failures(work, outcome)
        except RunFailed:
            return count
    return 0


def running(play: Scene, *acts: Acts) -> Controller:
    """A controller whose processes act so."""
    play.acts = list(acts)
    return Controller(play.study, [WHOLE], StopSignals())


def test_a_controller_ends_when_three_trials_fail_alike_and_leaves_the_third_to_be_tried_again(scene: Any) -> None:
    play = scene("trials = 9")
    controller = running(play, *[fails(reason="a bug")] * 6)  # each trial is tried again once
    with pytest.raises(RunFailed, match=r"3 trials .*a bug.*\.log"):
        controller.run()
    assert not play.acts
    assert sum(trial.state.is_finished() for trial in play.study.trials()) == 2
    with play.study.ownership.trial_lock(2):
        pass  # it is free


def test_an_experiment_that_is_refused_as_it_is_written_ends_the_sweep(scene: Any) -> None:
    play = scene("trials = 9")
    with pytest.raises(KitError, match=r"trial 0.*x = 3 cannot be"):
        running(play, dies(2, "refused", "x = 3 cannot be")).run()
    assert not [trial for trial in play.study.trials() if trial.state.is_finished()]


def test_a_budget_ends_a_sweep_which_a_higher_one_continues(scene: Any, caplog: pytest.LogCaptureFixture) -> None:
    play = scene("trials = 9\nmax_tokens = 10_000")  # a run has 9,600
    caplog.set_level("INFO")
    running(play, finishes(), finishes()).run()
    assert not play.acts
    assert "sweep.max_tokens = 10000" in caplog.text
    play.study.options = play.study.options.model_copy(update={"max_tokens": 20_000})
    running(play, finishes()).run()
    assert [trial.state.is_finished() for trial in play.study.trials()] == [True] * 3 + [False] * 6


HERE, THERE = "ValueError at mine.py:3", "ValueError at mine.py:7"


@pytest.mark.parametrize(
    ("outcomes", "count"),
    [
        ([failed_outcome("error", f"a bug at step {step}", HERE) for step in (3, 17, 5)], 3),
        ([failed_outcome("error", "a bug", origin) for origin in (HERE, THERE, HERE)], 0),
        ([failed_outcome("error", "a bug", HERE), failed_outcome("refused", "a bug", HERE)] * 2, 0),
        ([failed_outcome("refused", f"x = {x} cannot be", HERE) for x in (0.25, 0.5, 0.75)], 3),
        ([failed_outcome("died", "without a word")] * 3, 3),
        ([failed_outcome("lost_rank", "rank 1 of 2 noticed it", HERE)] * 3, 3),
        ([*[failed_outcome("error", "a bug", HERE)] * 2, failed_outcome("oom", "3 GB", HERE)] * 2, 0),
        ([failed_outcome("oom", "3 GB", HERE)] * 4, 0),
        ([failed_outcome("disk", "in any words", HERE)], 1),
        ([failed_outcome("error", "No space left on device", HERE)], 0),
    ],
)
def test_three_failures_in_a_row_of_one_origin_and_a_full_disk_end_a_sweep(
    scene: Any, outcomes: list[Outcome], count: int
) -> None:
    assert fails_alike(scene, *outcomes) == count


def test_all_trials_use_the_choices_of_the_machine_that_created_the_study(scene: Any) -> None:
    one = scene("trials = 2\nseeds = 2")
    one.acts = [finishes()] * 4
    here = one.work()
    while here.poll() is None:
        pass
    elsewhere = one.make_study(one.study.storage, one.study.folder.with_name("elsewhere"))
    elsewhere.folder.mkdir()
    elsewhere.open()
    one.study = elsewhere
    there = one.work()
    while there.poll() is None:
        pass
    assert one.choices == [{"a task": "fast"}] * 4
    assert one.measurements == [{"a task": "slow"}]  # the other machine has measured nothing


def test_a_trial_waits_where_one_beside_it_decides_whether_their_graph_is_compiled(scene: Any) -> None:
    one = scene("trials = 3")
    one.acts = [(lambda folder: None, None)] * 3
    first, second = one.work(), one.work()
    task = compile_task(first.run.experiment)
    assert not first.is_choosing_for(second)  # it has not begun
    first.poll()
    assert first.is_choosing_for(second)
    second.poll(must_wait=True)
    assert len(one.started) == 1
    first.run.folder.path.mkdir(parents=True)
    ChoicesRecord(choices={task: "default"}).write(first.run.folder.path / FILE_NAME)
    assert not first.is_choosing_for(second)
    second.poll()
    assert one.choices == [{"a task": "fast"}, {"a task": "fast", task: "default"}]
    assert not second.is_choosing_for(one.work())  # it was told
    assert one.study.machine_choices()[task] == "default"  # also on other machines
