"""One trial at work: its runs, one after another, each a process and an ordinary run folder."""

from __future__ import annotations

import math
import os
import shutil
import signal
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import tomli
import tomli_w
from optuna.trial import TrialState

from nanogpt_kit.core.errors import BUSY, FAILED, MISTAKE, KitError, did_you_mean
from nanogpt_kit.core.writing import write_atomically
from nanogpt_kit.launch.slots import Child, Slot
from nanogpt_kit.runs.lock import Lock
from nanogpt_kit.runs.metrics import MetricsReader
from nanogpt_kit.runs.status import Cause, Status
from nanogpt_kit.sweep.study.runs import END, Run, copy_of, sign

CRASHES = 1  # of a run that are tried again
DEATHS = 3  # without a word that are tried again: the system's memory ran out, or somebody killed it
HEARTBEAT_SECONDS = 60.0  # between signs of life, for other machines
RELEASE_SECONDS = 10.0  # for the process of a controller that was killed, to end too


Ending = Literal["complete", "pruned"] | Cause  # of a trial


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. `reason` is for people; `origin` is the same for trials that fail alike, or empty."""

    state: TrialState
    cause: Ending
    value: float | None = None
    reason: str = ""
    origin: str = ""


# Memory that runs out and losses that are no number are answers about a place in the space. A pruned trial is a bad one
# to the sampler; a failed one it does not see, and goes there again.
PRUNED = ("oom", "not_finite", "refused", "died", "lost_rank")


def outcome_of(cause: Cause, reason: str, origin: str = "") -> Outcome:
    return Outcome(TrialState.PRUNED if cause in PRUNED else TrialState.FAIL, cause, reason=reason, origin=origin)


class WrongMetric(KitError):
    """That no evaluator gives what the sweep goes by."""


class TrialProcess:
    """A trial in its slot. `poll` says how it ended, or None while it has not."""

    def __init__(
        self,
        trial: optuna.Trial,
        runs: list[Run],
        slot: Slot,
        folder: Path,
        lock: Lock,
        metric: str,
        unit: int,
        min_tokens: int,
        nproc: int = 1,
    ) -> None:
        self.trial, self.runs, self.slot, self.folder, self.lock = trial, runs, slot, folder, lock
        self.metric, self.unit, self.min_tokens, self.nproc = metric, unit, min_tokens, nproc
        self.number = trial.number
        self.at = 0  # which of the runs
        self.child: Child | None = None
        self.pruned = self.stopping = False
        self.crashes = self.deaths = 0
        self.status_before: Status | None = None  # of the run, when its process was started
        self.waiting_since = time.monotonic()
        self.reported = dict(self.frozen().intermediate_values)
        self.tail = MetricsReader(self.run.folder.metrics)
        self.told: dict[str, Any] = {}  # what the study is to remember
        self.sign()

    @property
    def run(self) -> Run:
        return self.runs[self.at]

    def frozen(self) -> optuna.trial.FrozenTrial:
        return self.trial.storage.get_trial(self.trial._trial_id)

    def sign(self) -> None:
        self.signed = time.monotonic()
        sign(self.trial, self.folder)

    def poll(self) -> Outcome | None:
        if time.monotonic() - self.signed > HEARTBEAT_SECONDS:
            self.sign()
        if self.child is None:
            return self.begin()
        code = self.child.poll()
        self.look()
        if code is None:
            return None
        return self.ended(code)

    # A run

    def begin(self) -> Outcome | None:
        """Starts the process of the next run, unless that run has ended before."""
        if self.stopping:
            return None
        self.status_before = status = self.status()
        if status is not None and status.state == "running":  # its controller is gone, as it is about to notice
            self.end_orphan()
            return None
        self.look()
        spec = self.folder / "trials" / f"{self.run.folder.path.name}.toml"
        slot = self.slot
        if spec.exists():  # it goes on as it began: in another slot it may have had other threads
            threads = tomli.loads(spec.read_text(encoding="utf-8"))["train"].get("threads")
            slot = slot if threads else slot.whole()
        else:
            threads = self.run.experiment.train.threads
        self.told["threads"] = threads
        if status is not None and status.state == "finished":
            return self.finished(status)
        if self.pruned:
            return self.given_up()
        if not spec.exists():
            values = self.run.experiment.resolved()
            if self.run.experiment.component_files:
                copies = (copy_of(path, self.folder) for path in self.run.experiment.component_files)
                values["components"] = [os.path.relpath(copy, spec.parent) for copy in copies]
            write_atomically(spec, tomli_w.dumps(values))
        arguments = ["run", str(spec), f"--into={self.run.folder.path}"]
        if self.nproc > 1:
            arguments.append(f"--nproc={self.nproc}")
        self.child = Child(arguments, slot, spec.with_suffix(".log"))
        write_atomically(spec.with_suffix(".pid"), str(self.child.process.pid))
        return None

    def status(self) -> Status | None:
        """None where the run has not begun."""
        return self.run.folder.status() if self.run.folder.experiment.exists() else None

    def end_orphan(self) -> None:
        """Waits for it; one that does not notice that its controller has gone is killed."""
        if time.monotonic() - self.waiting_since < RELEASE_SECONDS:
            return
        with suppress(OSError, ValueError):
            pid = int((self.folder / "trials" / f"{self.run.folder.path.name}.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if os.fsencode(str(self.run.folder.path)) in command:  # and not somebody else's by now
                os.kill(pid, signal.SIGKILL)
        self.waiting_since = time.monotonic()

    def look(self) -> None:
        """At what the run has measured since the last time; perhaps it is not worth going on."""
        run = self.run
        for record in self.tail.new_records():
            run.step, run.tokens, run.seconds = record["step"], record.get("tokens", 0), record.get("seconds", 0.0)
            run.rate = record.get("perf/tokens_per_second") or run.rate
            run.found |= record.keys()
            if self.metric in record:
                value = record[self.metric]
                run.value = math.nan if value is None else float(value)
                self.report(run.tokens, run.value)
            elif "train/loss" not in record and self.metric not in run.found:  # the evaluators have spoken
                raise self.wrong_metric()

    def wrong_metric(self) -> WrongMetric:
        names = self.run.found - {"step", "tokens", "seconds"}
        return WrongMetric(f"sweep.metric: no run of it has a metric {self.metric!r}{did_you_mean(self.metric, names)}")

    def report(self, tokens: int, value: float) -> None:
        step = tokens // self.unit
        if self.at or step in self.reported or not math.isfinite(value):  # seeds after the first are not pruned
            return
        self.trial.report(value, step)
        self.reported[step] = value
        is_last = self.run.step >= self.run.experiment.total_steps
        if tokens >= self.min_tokens and not is_last and self.trial.should_prune() and not self.pruned:
            self.pruned = True
            if self.child is not None:
                self.child.terminate()

    def ended(self, code: int) -> Outcome | None:
        """The process has ended. None where the trial goes on."""
        assert self.child is not None, "a process has ended"
        child, self.child = self.child, None
        self.waiting_since = time.monotonic()
        if (status := self.status()) is not None and status.state == "finished":
            return self.finished(status)
        if self.pruned:
            return self.given_up()
        if self.stopping or code == BUSY:
            return None
        outcome = self.failure(code, status, child)
        if outcome.cause in ("died", "lost_rank"):
            self.deaths += 1
            return None if self.deaths <= DEATHS else outcome
        if outcome.cause == "error":
            self.crashes += 1
            return None if self.crashes <= CRASHES else outcome
        return outcome

    def failure(self, code: int, status: Status | None, child: Child) -> Outcome:
        """What a run failed of: as its status says, else as its process has left it, else by the exit code."""
        if status is not None and status.state == "failed" and status != self.status_before:
            return outcome_of(status.cause or "error", status.reason, status.origin)
        left = child.failure()  # it did not come so far as to write its status
        if left is not None:
            return outcome_of(left.cause, left.reason, left.origin)
        if code == MISTAKE:
            return outcome_of("refused", child.last_line())
        if code == FAILED and not (status is not None and status.cause == "died"):  # else one of its ranks was killed
            return outcome_of("error", child.last_line())
        return outcome_of("died", f"its process ended without a word {self.deaths + 1} times; perhaps memory ran out")

    def given_up(self) -> Outcome:
        run = self.run
        return Outcome(TrialState.PRUNED, "pruned", reason=f"{self.metric} {run.value:.4f} at {run.tokens:,} tokens")

    def finished(self, status: Status) -> Outcome | None:
        """Goes on with the next run, or ends the trial."""
        if self.run.value is None:
            raise self.wrong_metric()
        if not math.isfinite(self.run.value):
            return outcome_of("not_finite", f"{self.metric} is no number")
        self.told["parameters"], self.told["ended_by"] = status.parameters, status.ended_by
        if self.at + 1 < len(self.runs):
            self.at += 1
            self.tail = MetricsReader(self.run.folder.metrics)
            self.crashes = self.deaths = 0
            return self.begin()
        values = [run.value for run in self.runs if run.value is not None]
        return Outcome(TrialState.COMPLETE, "complete", statistics.fmean(values))

    # Its end

    def note(self, outcome: Outcome) -> None:
        """What the study remembers of it besides its value; before its state changes, since nothing can after."""
        self.told |= {"cause": outcome.cause, "reason": outcome.reason, "step": self.run.step}
        self.told["tokens"] = sum(run.tokens for run in self.runs)
        self.told["seconds"] = sum(run.seconds for run in self.runs)
        if len(self.runs) > 1:
            self.told["values"] = [run.value for run in self.runs]
        self.trial.set_user_attr(END, {key: value for key, value in self.told.items() if value is not None})

    def forget_checkpoints(self) -> None:
        """Of a trial that others are better than: nobody goes on with it."""
        for run in self.runs:
            shutil.rmtree(run.folder.checkpoints, ignore_errors=True)

    def stop(self) -> None:
        self.stopping = True
        if self.child is not None:
            self.child.terminate()

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()

    def release(self) -> None:
        self.lock.__exit__(None, None, None)
