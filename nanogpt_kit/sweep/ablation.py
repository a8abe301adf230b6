"""An ablation as a question: the experiment is the base, and each change of its [ablate] table makes a contender."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from nanogpt_kit.comparison.arms import changes_between
from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.sections import Ablate
from nanogpt_kit.launch.slots import allocate_slots
from nanogpt_kit.sweep.arms.assembly import ArmAssembly, ChangedExperiment
from nanogpt_kit.sweep.arms.changes import ChangeReader, ExperimentChange
from nanogpt_kit.sweep.arms.matching import (
    MAX_DIFFERENCE,
    Match,
    count_of_model,
    match_arm,
    uncountable,
    whole_number,
)
from nanogpt_kit.sweep.arms.vary_option import EXAMPLE
from nanogpt_kit.sweep.space.space import is_key_within
from nanogpt_kit.sweep.study.storage import check_storage_form
from nanogpt_kit.train.before_data import ASSUMED_VOCABULARY, check_without_running
from nanogpt_kit.train.metric_names import check_study_metric
from nanogpt_kit.train.precision import choose_device


def ablation_options(experiment: Experiment) -> Ablate:
    """The [ablate] table of an experiment; its defaults where there is none."""
    return experiment.ablate or Ablate()


def has_changes(experiment: Experiment) -> bool:
    """Whether the experiment lists changes, so that it can be ablated without `--vary`."""
    options = ablation_options(experiment)
    return bool(options.vary or options.changes)


def ablation_seeds(experiment: Experiment) -> range:
    """The values of train.seed with which every arm runs."""
    return range(experiment.train.seed, experiment.train.seed + ablation_options(experiment).seeds)


def ablation_question(experiment: Experiment, vary: Sequence[str] = (), nproc: int = 1) -> Question:
    """The arms of an ablation: the experiment as written, then one arm for each change, or for each combination.

    `vary` are texts of the command line such as "model.mlp=gelu,swiglu", which replace the table's values of that key.
    Each run has `nproc` processes. Raises KitError with all that is wrong: the changes, the experiments that they make,
    what cannot be matched, the metric and the machine.
    """
    if not (has_changes(experiment) or vary):
        raise KitError(nothing_to_ablate(experiment))
    options = ablation_options(experiment)
    known = faults_of(lambda: check_without_running(experiment, nproc))
    faults = [*known, *faults_of_study(experiment, options, nproc)]

    def check(arm: Experiment) -> None:
        new = [fault for fault in faults_of(lambda: check_without_running(arm, nproc)) if fault not in known]
        if new:
            raise KitError(*new)

    reader = ChangeReader(experiment, options)
    changes = reader.read(vary)
    assembly = ArmAssembly(experiment, check)
    singles = assembly.single_arms(changes)
    arms = assembly.combined_arms(singles) if options.factorial and not assembly.faults else singles
    faults += [*reader.faults, *assembly.faults]
    matching = ArmMatching(experiment, options, assembly)
    if options.match != "none":
        arms = matching.match(arms, changes)
        faults += matching.faults
    if faults:
        raise KitError(*dict.fromkeys(faults))
    if not arms:
        location = experiment.layers.location(("ablate", "vary")) if options.vary else "command line"
        message = "every value is the experiment's own, so there is nothing to compare; add another value"
        raise KitError(Fault(message, "ablate.vary", location))
    return make_question(assembly, options, arms, matching.notes)


def make_question(
    assembly: ArmAssembly, options: Ablate, arms: Sequence[ChangedExperiment], notes: Sequence[str]
) -> Question:
    base = assembly.base
    found = [Arm(base.name, base, levels=assembly.base_levels)]
    for arm in arms:
        changes = changes_between(base, arm.experiment)
        found.append(Arm(arm.change.label, arm.experiment, changes, levels=arm.levels))
    return Question("ablate", tuple(found), options.metric, options.direction, base.note, tuple(notes))


class ArmMatching:
    """Adjusts one option of each arm so that it has as many parameters, or FLOPs, as the base."""

    def __init__(self, base: Experiment, options: Ablate, assembly: ArmAssembly) -> None:
        self.base, self.options, self.assembly = base, options, assembly
        self.faults: list[Fault] = []
        self.notes: list[str] = []

    def match(self, arms: Sequence[ChangedExperiment], changes: Sequence[ExperimentChange]) -> list[ChangedExperiment]:
        """The arms that can be matched; `notes` and `faults` describe what was done and what was not possible."""
        key, what = self.options.match_with, self.options.match
        setting = next((change for change in changes if any(is_key_within(one, key) for one in change.options)), None)
        if setting:
            message = f"{key} is itself changed by {setting.label} ({setting.location}); match with another option"
            self._refuse("match_with", message)
            return []
        try:
            whole_number(self.base, key)
        except KitError as error:
            self._refuse("match_with", str(error))
            return []
        target = count_of_model(self.base, what)
        if target is None:
            self._refuse("match", uncountable(what))
            return []
        found = [self._match_one(arm, target) for arm in arms]
        if self.notes and any(self._is_assumed(arm.experiment) for arm in arms):
            self.notes.append(f"arms were matched with an assumed vocabulary of {ASSUMED_VOCABULARY} tokens")
        return [arm for arm in found if arm is not None]

    def _match_one(self, arm: ChangedExperiment, target: float) -> ChangedExperiment | None:
        key, what, label = self.options.match_with, self.options.match, arm.change.label

        def make(value: int) -> Experiment:
            return self.assembly.experiment(arm.change, {key: value})

        try:
            match = match_arm(arm.experiment, make, key, what, target)
            experiment = arm.experiment if match.value == match.before else make(match.value)
            self.assembly.check(experiment)
        except KitError as error:
            for fault in error.faults:
                self._refuse("match_with", f"{label}: {fault.message}")
            return None
        self._note(label, match)
        return replace(arm, experiment=experiment)

    def _note(self, label: str, match: Match) -> None:
        text = match.describe(self.options.match)
        setting = f"{self.options.match_with} = {match.value}"
        if abs(match.difference) > MAX_DIFFERENCE:
            remedy = "write another match_with, or change another option of the arm as well"
            self._refuse("match", f"{label}: the nearest is {setting} with {text}; {remedy}")
        elif match.value != match.before:
            self.notes.append(f"{label}: {setting} instead of {match.before}: {text}")
        elif match.difference:
            self.notes.append(f"{label}: {text}")

    def _is_assumed(self, experiment: Experiment) -> bool:
        return experiment.tokenizer.known_vocab_size() is None

    def _refuse(self, option: str, message: str) -> None:
        key = ("ablate", option)
        fault = Fault(message, ".".join(key), self.base.layers.location(key))
        if fault not in self.faults:
            self.faults.append(fault)


def faults_of_study(experiment: Experiment, options: Ablate, nproc: int) -> list[Fault]:
    """What is wrong with the metric, and what this machine or the storage cannot do."""
    device = faults_of(lambda: choose_device(experiment.train.device))
    found = faults_of(lambda: check_study_metric(experiment, options.metric, ("ablate", "metric")))
    found += device or faults_of(lambda: allocate_slots(options.workers, choose_device(experiment.train.device), nproc))
    found += faults_of(lambda: check_storage_form(options.storage))
    return [at_option_of_ablation(experiment, fault) for fault in found]


def at_option_of_ablation(experiment: Experiment, fault: Fault) -> Fault:
    """A fault of an option that sweeps have too, at the line of [ablate]."""
    section, _, option = fault.key.partition(".")
    if section != "sweep":
        return fault
    return Fault(fault.message, f"ablate.{option}", experiment.layers.location(("ablate", option)))


def faults_of(check: Callable[[], object]) -> list[Fault]:
    try:
        check()
    except KitError as error:
        return list(error.faults)
    return []


def nothing_to_ablate(experiment: Experiment) -> Fault:
    table = '[ablate.vary] with lines such as "model.mlp" = ["gelu", "swiglu"]'
    message = f"there is nothing to compare: add {table}, or write --vary {EXAMPLE}"
    return Fault(message, location=experiment.layers.location(()))
