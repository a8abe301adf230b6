"""Starts one run with the options of `nanogpt-kit run`, in this process or in several."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.run_result import EarlierRuns, RunResult
from nanogpt_kit.cli.texts import print_generated
from nanogpt_kit.cli.verbose import is_verbose
from nanogpt_kit.core.errors import FAILED, KitError, printable
from nanogpt_kit.system.garbage_collection import without_garbage_collection

if TYPE_CHECKING:
    from nanogpt_kit.core.experiment import Experiment
    from nanogpt_kit.runs.folder import RunFolder

STDERR = 2  # the descriptor


class FailedProcesses(SystemExit):
    """A run in several processes failed; one of them has printed why."""


@dataclass(frozen=True)
class RunLauncher:
    """Starts runs with the options of the command."""

    path: str
    overrides: tuple[str, ...]
    resume: str | None  # "": the newest unfinished run
    into: str | None
    nproc: int
    trust_code: bool
    accept_versions: bool = False
    as_json: bool = False  # standard output is for the result alone
    follows_seed: bool = False  # a run that differs in its seed came before, and printed what both have in common
    precedes_seed: bool = False  # such a run follows, and will print which command generates more text

    def train(self, experiment: Experiment) -> RunResult:
        """Trains one run. A failure is part of the result; a mistake and an interruption are raised."""
        names = experiment.name, experiment.train.seed
        if self.into:
            from nanogpt_kit.runs.folder import RunFolder
            from nanogpt_kit.train.resume import has_done_run

            if has_done_run(RunFolder(Path(self.into)), experiment, self.trust_code):
                print_lines(f"already finished: {self.into}", err=True)
                return RunResult(*names, RunFolder(Path(self.into)), is_resumed=True, is_reused=True)
        before = EarlierRuns(experiment, self.resume, self.into)
        error: BaseException | None = None
        try:
            folder = self.train_here(experiment) if self.nproc == 1 else self.start_processes(before)
        except KitError:
            raise
        except (Exception, FailedProcesses) as failure:
            folder, error = before.find_ended(), failure
        return RunResult(*names, folder, is_resumed=folder is not None and before.has(folder), error=error)

    def train_here(self, experiment: Experiment) -> RunFolder:
        """Trains in this process, and prints the samples and the outcome."""
        import rich

        with without_garbage_collection():
            from nanogpt_kit.cli.outcome import outcome_text
            from nanogpt_kit.runs import samples
            from nanogpt_kit.train import session
            from nanogpt_kit.train.extension import extension_hint

        rich.reconfigure(stderr=True)  # progress goes to stderr, generated text to stdout
        into = Path(self.into) if self.into else None
        folder = session.run(experiment, self.resume, self.trust_code, into, self.follows_seed, self.accept_versions)
        if int(os.environ.get("RANK", "0")):
            return folder
        if folder.samples.exists():
            print_generated(samples.newest_samples(folder.samples), err=self.as_json)
        print_lines(outcome_text(folder, with_next=not self.precedes_seed), err=True)
        if folder.status().ended_by == "max_seconds":
            click.echo(printable(extension_hint(folder, experiment, folder.status())), err=True)
        return folder

    def start_processes(self, before: EarlierRuns) -> RunFolder | None:
        """Runs the same command in `nproc` processes; if one fails, this process exits with its code.

        The storage of studies is left out: a run does not use it, and the list of processes would show its password.
        """
        from nanogpt_kit.core.overrides import parse_override
        from nanogpt_kit.launch.processes import run_ranks

        studies = ("sweep", "ablate")
        overrides = [one for one in self.overrides if parse_override(one)[0][0] not in studies or "storage" not in one]
        arguments = ["run", self.path, *overrides, *(["--trust-code"] if self.trust_code else [])]
        arguments += ["--accept-versions"] if self.accept_versions else []
        arguments += ["--verbose"] if is_verbose() else []
        if self.resume is not None:
            arguments += [f"--resume={self.resume}"]
        if self.into:
            arguments.append(f"--into={self.into}")
        code = run_ranks(self.nproc, arguments, stdout=STDERR if self.as_json else None)
        if code == FAILED:
            raise FailedProcesses(code)
        if code:
            sys.exit(code)
        return before.find_ended()
