"""One trial in a machine slot: its runs, one after another, each a process and an ordinary run folder."""

from __future__ import annotations

import math
import os
import shutil
import signal
import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import optuna
import tomli
from optuna.trial import TrialState

from nanogpt_kit.core.errors import BUSY, FAILED, MISTAKE, Fault, did_you_mean
from nanogpt_kit.core.graph_identity import compile_task
from nanogpt_kit.core.machine_choices import CALIBRATION
from nanogpt_kit.core.runs_to_come import RUNS_TO_COME
from nanogpt_kit.launch.slot_process import SlotProcess
from nanogpt_kit.launch.slots import MachineSlot
from nanogpt_kit.runs.lock import Lock
from nanogpt_kit.runs.machine_choices import FILE_NAME as MACHINE_CHOICES
from nanogpt_kit.runs.machine_choices import ChoicesRecord, compile_choices
from nanogpt_kit.runs.metrics import MetricsReader
from nanogpt_kit.runs.status import Status
from nanogpt_kit.sweep.study.ownership import HEARTBEAT_SECONDS, send_heartbeat
from nanogpt_kit.sweep.study.plan import Plan
from nanogpt_kit.sweep.study.records import TrialResult
from nanogpt_kit.sweep.study.runs import TrialRun, write_run_experiment
from nanogpt_kit.sweep.study.sampler import first_rung_tokens, report_unit
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.work.outcome import MissingMetric, Outcome, failed_outcome
from nanogpt_kit.system.writing import remove_temporary_files, write_atomically

CRASH_RETRIES = 1  # of a run that reports an error
DEATH_RETRIES = 3  # of a run whose process dies without a status: out of memory, or killed
ORPHAN_SECONDS = 10.0  # for the process of a controller that was killed to notice, and end


class TrialProcess:
    """A trial in its slot. `poll` returns how it ended, or None while it has not."""

    def __init__(self, study: Study[Plan], trial: optuna.Trial, slot: MachineSlot, folder: Path, lock: Lock) -> None:
        """`folder` is the sweep's that has the trial's runs, and `lock` the trial's, to be released with it.

        Raises KitError if the trial's values are not valid together.
        """
        self.study, self.trial, self.slot, self.folder, self.lock = study, trial, slot, folder, lock
        self.index, self.label, self.row_label = trial.number, study.plan.label(trial), study.plan.row_label(trial)
        self.runs = study.runs(trial, slot, folder)
        self.config = study.config(trial)
        self.metric = study.options.metric
        self.report_unit = report_unit(study.plan.trial_tokens)
        self.min_tokens = first_rung_tokens(study.options, study.plan.trial_tokens)  # before it may be pruned
        self.run_index = 0  # of the runs
        self.process: SlotProcess | None = None
        self.is_pruned = self.is_stopping = False
        self.crashes = self.deaths = 0
        self.status_before: Status | None = None  # of the run, when its process was started
        self.waiting_since = time.monotonic()
        self.reported = dict(trial.storage.get_trial(trial._trial_id).intermediate_values)
        self.tail = MetricsReader(self.run.folder.metrics)
        self.threads: int | None = None
        self.given: Mapping[str, str] = {}  # choices with which its process was started
        self.last_status: Status | None = None  # of the newest run that finished
        self.remove_temporary_files()
        self.send_heartbeat()

    @property
    def run(self) -> TrialRun:
        return self.runs[self.run_index]

    def remove_temporary_files(self) -> None:
        """Those that a killed controller left; with the trial's lock nobody else writes them."""
        for run in self.runs:
            for suffix in (".toml", ".pid"):
                remove_temporary_files(self.folder / "trials", of=run.folder.path.name + suffix)

    def send_heartbeat(self) -> None:
        """Raises Optuna's UpdateFinishedTrialError if another controller has taken over the trial and ended it."""
        self.heartbeat_at = time.monotonic()
        send_heartbeat(self.trial, self.folder)

    def poll(self, must_wait: bool = False) -> Outcome | None:
        """`must_wait`: a run that has not begun does not begin now."""
        if time.monotonic() - self.heartbeat_at > HEARTBEAT_SECONDS:
            self.send_heartbeat()
        if self.process is None:
            return None if must_wait else self.start_run()
        code = self.process.poll()
        self.read_metrics()
        return None if code is None else self.process_ended(code)

    # A run

    def start_run(self) -> Outcome | None:
        """Starts the process of the current run, unless that run has ended already."""
        if self.is_stopping:
            return None
        self.status_before = status = self.status()
        if status is not None and status.state == "running":  # its controller was killed, which it will notice
            self.kill_orphan()
            return None
        self.read_metrics()
        slot, spec = self.slot, self.run_file(".toml")
        if spec.exists():  # it continues with the threads it began with, also in another slot
            self.threads = tomli.loads(spec.read_text(encoding="utf-8"))["train"].get("threads")
            slot = slot if self.threads else slot.without_cores()
        else:
            self.threads = self.run.experiment.train.threads
        if status is not None and status.state == "finished":
            return self.run_finished(status)
        if self.is_pruned:
            return self.pruned_outcome()
        if not spec.exists():
            write_run_experiment(self.run, spec, self.folder)
        arguments = ["run", str(spec), f"--into={self.run.folder.path}", "--verbose"]  # its output is a log file
        if self.study.plan.nproc > 1:
            arguments.append(f"--nproc={self.study.plan.nproc}")
        variables = {CALIBRATION: str(self.write_choices()), RUNS_TO_COME: str(self.runs_to_come())}
        self.process = SlotProcess(arguments, slot, self.run_file(".log"), variables)
        write_atomically(self.run_file(".pid"), str(self.process.process.pid))
        return None

    def write_choices(self) -> Path:
        """Writes the choices of the study for its runs on this machine, each of which records those that it uses.

        Whether a graph is compiled is chosen by the first run that has it.
        """
        file = self.folder / "trials" / MACHINE_CHOICES
        compiled = compile_choices(sorted(self.folder.glob(self.study.plan.run_folders)))
        self.given = self.study.add_choices(compiled)
        ChoicesRecord(choices=self.given).write(file)
        return file.absolute()

    def is_choosing_for(self, other: TrialProcess) -> bool:
        """Whether its run has still to choose if it is compiled, and the next run of `other` has the same graph."""
        run, task = self.run, compile_task(self.run.experiment)
        if self.process is None or run.experiment.train.compile != "auto" or task in self.given:
            return False
        return task == compile_task(other.run.experiment) and not compile_choices([run.folder.path])

    def runs_to_come(self) -> int:
        """The runs of this study that follow the current one, or run beside it, and compile the same graph."""
        others = [trial.number for trial in self.study.unfinished() if trial.number != self.index]
        later = len(self.runs) - self.run_index - 1
        return later + self.study.plan.runs_of_graph(self.run.experiment, others)

    def run_file(self, suffix: str) -> Path:
        """A file of the sweep about the current run."""
        return self.folder / "trials" / f"{self.run.folder.path.name}{suffix}"

    def status(self) -> Status | None:
        """None if the run has not begun."""
        return self.run.folder.status() if self.run.folder.experiment.exists() else None

    def kill_orphan(self) -> None:
        """Gives the process of a killed controller time to notice and end; then kills it."""
        if time.monotonic() - self.waiting_since < ORPHAN_SECONDS:
            return
        with suppress(OSError, ValueError):
            pid = int(self.run_file(".pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if os.fsencode(str(self.run.folder.path)) in command:  # the process id may have been reused
                os.kill(pid, signal.SIGKILL)
        self.waiting_since = time.monotonic()

    def read_metrics(self) -> None:
        """Reads what the run has measured since the last time, and reports it to the pruner."""
        run = self.run
        for record in self.tail.new_records():
            run.step, run.tokens, run.seconds = record["step"], record.get("tokens", 0), record.get("seconds", 0.0)
            run.tokens_per_second = record.get("perf/tokens_per_second") or run.tokens_per_second
            run.metric_names |= record.keys()
            if self.metric in record:
                value = record[self.metric]
                run.value = math.nan if value is None else float(value)
                self.report(run.tokens, run.value)
            elif "train/loss" not in record and self.metric not in run.metric_names:  # an evaluation without it
                raise self.missing_metric()

    def missing_metric(self) -> MissingMetric:
        names = self.run.metric_names - {"step", "tokens", "seconds"}
        hint = did_you_mean(self.metric, names)
        key = f"{self.study.plan.option_prefix}metric"
        what = f"no run of this {self.study.plan.undertaking} has the metric {self.metric!r}{hint}"
        return MissingMetric(Fault(what, key))

    def report(self, tokens: int, value: float) -> None:
        step = tokens // self.report_unit
        if self.run_index or step in self.reported or not math.isfinite(value):  # only the first seed is pruned
            return
        self.trial.report(value, step)
        self.reported[step] = value
        is_last = self.run.step >= self.run.experiment.total_steps
        if tokens >= self.min_tokens and not is_last and self.trial.should_prune() and not self.is_pruned:
            self.is_pruned = True
            if self.process is not None:
                self.process.terminate()

    def process_ended(self, code: int) -> Outcome | None:
        """The outcome, or None if the trial continues: with another run, or the same one again."""
        assert self.process is not None, "a process has ended"
        process, self.process = self.process, None
        self.waiting_since = time.monotonic()
        if (status := self.status()) is not None and status.state == "finished":
            return self.run_finished(status)
        if self.is_pruned:
            return self.pruned_outcome()
        if self.is_stopping or code == BUSY:
            return None
        outcome = self.failure(code, status, process)
        if outcome.cause in ("died", "lost_rank"):
            self.deaths += 1
            return None if self.deaths <= DEATH_RETRIES else outcome
        if outcome.cause == "error":
            self.crashes += 1
            return None if self.crashes <= CRASH_RETRIES else outcome
        return outcome

    def failure(self, code: int, status: Status | None, process: SlotProcess) -> Outcome:
        """Why a run failed: by its status, else by the record that its process left, else by its exit code."""
        if status is not None and status.state == "failed" and status != self.status_before:
            return failed_outcome(status.cause or "error", status.reason, status.origin)
        record = process.failure()  # it failed before there was a run folder for a status
        if record is not None:
            return failed_outcome(record.cause, record.reason, record.origin)
        if code == MISTAKE:
            return failed_outcome("refused", process.last_line())
        if code == FAILED and not (status is not None and status.cause == "died"):  # otherwise one of its ranks died
            return failed_outcome("error", process.last_line())
        reason = f"its process exited {self.deaths + 1} times without reporting a status; perhaps memory ran out"
        return failed_outcome("died", reason)

    def pruned_outcome(self) -> Outcome:
        reason = f"{self.metric} {self.run.value:.4f} at {self.run.tokens:,} tokens"
        return Outcome(TrialState.PRUNED, "pruned", reason=reason)

    def run_finished(self, status: Status) -> Outcome | None:
        """Continues with the next run, or ends the trial."""
        if self.run.value is None:
            raise self.missing_metric()
        if not math.isfinite(self.run.value):
            return failed_outcome("not_finite", f"{self.metric} is not finite")
        self.last_status = status
        if self.run_index + 1 < len(self.runs):
            self.run_index += 1
            self.tail = MetricsReader(self.run.folder.metrics)
            self.crashes = self.deaths = 0
            return self.start_run()
        values = [run.value for run in self.runs if run.value is not None]
        return Outcome(TrialState.COMPLETE, "complete", statistics.fmean(values))

    # Its end

    def store_result(self, outcome: Outcome) -> None:
        """Stores the result before the state of the trial changes: afterwards nothing can be stored."""
        TrialResult(
            cause=outcome.cause,
            reason=outcome.reason,
            step=self.run.step,
            tokens=sum(run.tokens for run in self.runs),
            seconds=sum(run.seconds for run in self.runs),
            values=tuple(run.value for run in self.runs) if len(self.runs) > 1 else (),
            parameters=self.last_status.parameters if self.last_status else None,
            ended_by=self.last_status.ended_by if self.last_status else None,
            threads=self.threads,
            **self.study.plan.result_fields(self.run, outcome.cause, outcome.reason),
        ).store(self.trial)

    def delete_checkpoints(self) -> None:
        """Deletes the checkpoints of a pruned trial, which is never resumed."""
        for run in self.runs:
            shutil.rmtree(run.folder.checkpoints, ignore_errors=True)

    def stop(self) -> None:
        """Asks the run to save and end; the trial has no outcome then."""
        self.is_stopping = True
        if self.process is not None:
            self.process.terminate()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def release(self) -> None:
        self.lock.__exit__(None, None, None)
