"""The plan of a comparison: a run for each arm and seed that nothing answers yet."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import optuna
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.comparison.measurement import measure_run
from nanogpt_kit.comparison.question import Question
from nanogpt_kit.comparison.record import Measurement
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.graph_identity import graph_identity
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.runs.folder import PROVENANCE, RunFolder, relative_to_cwd
from nanogpt_kit.runs.status import Cause
from nanogpt_kit.sweep.study.cells import Cell
from nanogpt_kit.sweep.study.ownership import is_on_this_machine
from nanogpt_kit.sweep.study.plan import Plan, QueuedTrial
from nanogpt_kit.sweep.study.records import CellRecord, Ending, Generation, Owner, TrialResult
from nanogpt_kit.sweep.study.runs import TrialRun
from nanogpt_kit.system.reading import read_text
from nanogpt_kit.system.writing import write_atomically

RECORDS = (PROVENANCE, "status.json")  # of a run, which are judged with its measurement
MAX_SLUG = 60  # characters of a label in the name of a folder


class ComparisonPlan(Plan):
    """A trial for each cell of a comparison, in their order.

    A generation is what one `--again` asks for: in it nothing answers a cell but its own trials. It ends when its
    comparison is recorded, so that a command which was killed continues it, and a later one begins the next.
    """

    kind = "comparison"
    undertaking = "comparison"
    noun = "run"
    row_noun = "arm"
    option_prefix = "--"
    other_study = "set another --storage"
    run_folders = "*-s*"
    required = "the base of the comparison"
    names_unused_folders = True
    ranks_trials = False

    def __init__(self, question: Question, cells: Sequence[Cell], options: Sweep, again: bool, nproc: int = 1) -> None:
        """`cells` are those to be run, or with `again` all."""
        super().__init__(options, nproc)
        self.question, self.cells, self.again = question, cells, again
        self.generation = 0
        self.base_configuration = question.base.configuration
        self.chosen: dict[int, Cell] = {}  # by the index of its trial

    @property
    def study_name(self) -> str:
        return f"{self.question.base.experiment.name}-{self.question.kind}-{self.question.id()}"

    @property
    def trial_tokens(self) -> int:
        return max(arm.experiment.total_tokens for arm in self.question.arms)

    def facts(self) -> dict[str, Any]:
        arms = [[arm.label, arm.configuration] for arm in self.question.arms]
        return {**super().facts(), "metric": self.question.metric, "arms": arms, "nproc": self.nproc}

    def check_facts(self, stored: Mapping[str, Any]) -> None:
        super().check_facts(stored)
        if stored.get("nproc") != self.nproc:
            before = stored.get("nproc")
            raise KitError(Fault(f"was {before} when the comparison began and is {self.nproc} now", "--nproc"))

    # Generations

    def begin(self, study: optuna.Study) -> None:
        newest = Generation.of_study(study)
        if self.again and not newest.is_open:
            newest = Generation(index=newest.index + 1, is_open=True)
            newest.store_in(study)
        self.generation = newest.index

    def end(self, study: optuna.Study) -> None:
        """The comparison is recorded: the next `--again` begins another generation."""
        newest = Generation.of_study(study)
        if self.again and newest == Generation(index=self.generation, is_open=True):
            Generation(index=self.generation, is_open=False).store_in(study)

    # Trials

    def missing_trials(self, queued: Sequence[FrozenTrial]) -> list[QueuedTrial]:
        names = {record.run for trial in queued if (record := CellRecord.of(trial))}
        names |= {path.name for path in self.question.folder().glob("*")}  # also of a study that was removed
        missing = []
        for cell in self.cells:
            if self.find(cell, queued) is None:
                name = unused_name(f"{slug(cell.arm.label)}-s{cell.seed}", names)
                names.add(name)
                record = CellRecord(identity=cell.identity, seed=cell.seed, generation=self.generation, run=name)
                missing.append(QueuedTrial(attributes={record.attribute: record.stored()}))
        return missing

    def find(self, cell: Cell, queued: Sequence[FrozenTrial]) -> FrozenTrial | None:
        """The trial of a cell: one that has ended, the newest generation first; else the one of this generation.

        If two machines queued it at once it is the first of them, for both. With `again`, other generations are
        ignored.
        """
        found: dict[int, FrozenTrial] = {}
        for trial in reversed(queued):
            record = CellRecord.of(trial)
            is_cell = record and (record.identity, record.seed) == (cell.identity, cell.seed)
            if record and is_cell and not is_removed(trial, record):
                found[record.generation] = trial
        own = found.get(self.generation)
        if self.again or (own and own.state.is_finished()):
            return own
        ended = [found[index] for index in sorted(found, reverse=True) if found[index].state.is_finished()]
        return ended[0] if ended else own

    def indices(self, queued: Sequence[FrozenTrial]) -> Collection[int]:
        trials = [(self.find(cell, queued), cell) for cell in self.cells]
        self.chosen = {trial.number: cell for trial, cell in trials if trial}
        return self.chosen

    def runs(self, trial: optuna.Trial, threads: int | None, folder: Path) -> list[TrialRun]:
        record = CellRecord.of(trial)
        assert record is not None, "each trial of a comparison was queued with its cell"
        cell = self.chosen[trial.number]
        experiment = seeded(cell.arm.experiment, cell.seed, threads)
        return [TrialRun(RunFolder(folder / record.run), experiment, copies=cell.copies)]

    def runs_of_graph(self, experiment: Experiment, others: Collection[int]) -> int:
        """Arms that change the data, the optimizer or its options have the graph of the base."""
        graph, arms = graph_identity(experiment), [self.chosen[index].arm for index in others]
        equal = {id(arm): graph_identity(arm.experiment) == graph for arm in {id(arm): arm for arm in arms}.values()}
        return sum(equal[id(arm)] for arm in arms)

    def component_sources(self) -> dict[str, bytes]:
        """Two arms may have components of one file name, so each configuration has its own folder."""
        return {
            f"{cell.copies}/{path.name}": source
            for cell in self.cells
            for path, source in cell.arm.experiment.component_sources.items()
        }

    def label(self, trial: optuna.Trial) -> str:
        cell = self.chosen[trial.number]
        return f"{cell.arm.label}, seed {cell.seed}"

    def row_label(self, trial: optuna.Trial) -> str:
        return self.chosen[trial.number].arm.label

    def is_base(self, index: int) -> bool:
        return self.chosen[index].configuration == self.base_configuration

    def is_required(self, index: int) -> bool:
        return self.is_base(index)

    def counts_failure(self, index: int) -> bool:
        """Without the base there is no pair; a contender that fails may still be judged by its other seeds."""
        return self.is_base(index)

    # Measurements

    def result_fields(self, run: TrialRun, cause: Ending, reason: str) -> dict[str, Any]:
        """The run's measurement; also its records, since its folder is here, and other machines may judge it."""
        paths = {name: run.folder.path / name for name in RECORDS}
        files = {name: read_text(path) for name, path in paths.items() if path.exists()}
        return {"measurement": self.measure(run, cause, reason), "files": files}

    def measure(self, run: TrialRun, cause: Ending, reason: str) -> Measurement:
        """A run that did not finish has no value; nor has one that was refused before it had a folder."""
        if run.folder.experiment.exists():
            measurement = measure_run(run.folder, self.question.metric)
            if measurement.state in ("finished", "failed"):
                return measurement
        return failed_measurement(run.experiment.train.seed, run.folder.path, cause, reason)

    def measurement(self, cell: Cell, queued: Sequence[FrozenTrial], folder: Path) -> Measurement:
        """The measurement of a cell whose trial has ended, here or on another machine; `folder` is the comparison's."""
        trial = self.find(cell, queued)
        assert trial is not None, "it was queued"
        result, record, owner = TrialResult.of(trial), CellRecord.of(trial), Owner.of(trial)
        assert record is not None, "found by it"
        if result is None or result.measurement is None:
            cause, reason = (result.cause, result.reason) if result else ("error", "")
            return failed_measurement(cell.seed, folder / record.run, cause, reason)
        if owner is None or is_on_this_machine(owner):
            run = relative_to_cwd(Path(owner.folder) / record.run) if owner else result.measurement.run
            return result.measurement.model_copy(update={"run": str(run)})  # stored relative to another folder, perhaps
        copy = folder / "trials" / "other-machines" / record.run  # not a run
        copy.mkdir(parents=True, exist_ok=True)
        for name, text in result.files.items():
            write_atomically(copy / name, text)
        return result.measurement.model_copy(update={"run": str(copy)})


def is_removed(trial: FrozenTrial, record: CellRecord) -> bool:
    """Whether its run had ended, and the user has removed it from this machine."""
    owner, result = Owner.of(trial), TrialResult.of(trial)
    had_folder = trial.state == TrialState.COMPLETE or (result is not None and result.files)
    if not had_folder or owner is None or not is_on_this_machine(owner):
        return False
    return not RunFolder(Path(owner.folder) / record.run).experiment.exists()


def failed_measurement(seed: int, folder: Path, cause: Ending, reason: str) -> Measurement:
    known = cast(Cause, cause) if cause in get_args(Cause) else None
    return Measurement(arm=0, seed=seed, run=str(folder), state="failed", cause=known, reason=reason)


def seeded(experiment: Experiment, seed: int, threads: int | None = None) -> Experiment:
    """The experiment with this seed. Its samples are not used.

    `threads` of a machine slot are recorded, since another number of threads rounds differently.
    """
    train = {"seed": seed} if experiment.train.threads or not threads else {"seed": seed, "threads": threads}
    sections = {
        "train": experiment.train.model_copy(update=train),
        "sample": experiment.sample.model_copy(update={"num_samples": 0}),
    }
    return experiment.model_copy(update=sections)


def slug(label: str) -> str:
    """A label as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._=+-]+", "-", label)[:MAX_SLUG].strip("-.") or "arm"


def unused_name(name: str, used: Collection[str]) -> str:
    """`name`, or with a count where other code or data, an earlier generation or an arm of this label has it."""
    count, unused = 1, name
    while unused in used:
        count += 1
        unused = f"{name}-{count}"
    return unused
