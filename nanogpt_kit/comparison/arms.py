"""The arms of a comparison from the words of a user: experiments, changes of the base, groups of runs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import tomli_w

from nanogpt_kit.comparison.groups import RunGroup, find_group, run_below
from nanogpt_kit.comparison.question import Arm
from nanogpt_kit.core.errors import Fault, KitError, dotted
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.identity import DECIDE_NOTHING
from nanogpt_kit.core.override_text import inline_toml
from nanogpt_kit.core.overrides import COMMAND_LINE
from nanogpt_kit.core.shipped import find_experiment, path_in_messages
from nanogpt_kit.core.toml_lines import MalformedToml, parse_toml
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.recorded_experiment import load_recorded, warn_of_other_versions
from nanogpt_kit.runs.resume_command import kit_command

QUOTES = ("'", '"')
BLANKS = re.compile(r"\s+")


@dataclass(frozen=True)
class NamedArm:
    """An arm, and what its argument was taken as."""

    arm: Arm
    meaning: str  # one line for people
    notes: tuple[str, ...] = ()  # of its experiment, see `Experiment.notes`


def read_arms(
    arguments: Sequence[str | os.PathLike[str] | Experiment], trust_code: bool = False, n_processes: int = 1
) -> list[NamedArm]:
    """The arm of each argument; the first is the base.

    An argument is an experiment (a file, a name or an Experiment), a change of the base such as
    "model.mlp=swiglu optimizer.lr=2e-3", or a group of runs (see `find_group`). What is both an experiment and a group
    is the experiment. The other parameters are those of `Experiment.load`. Raises KitError with the faults of all
    contenders.
    """
    first, *others = (one if isinstance(one, Experiment) else os.fspath(one) for one in arguments)
    if isinstance(first, str) and is_change(first):
        raise change_without_base(first)
    base = read_arm(first, trust_code, n_processes)
    arms, faults = [base], dict[Fault, None]()
    for argument in others:
        try:
            if isinstance(argument, str) and is_change(argument):
                arms.append(changed_arm(base.arm, argument, trust_code))
            else:
                arms.append(with_changes(base.arm, read_arm(argument, trust_code, n_processes)))
        except KitError as error:
            faults |= dict.fromkeys(error.faults)
    if faults:
        raise KitError(*faults)
    return arms


def is_change(argument: str) -> bool:
    """Whether it is KEY=VALUE, and not a path: folders of runs have the names of their changes."""
    key, equals, _ = argument.partition("=")
    return bool(equals) and "/" not in key and not os.path.exists(argument)


def change_without_base(argument: str) -> KitError:
    example = kit_command("compare", "quickstart", argument)
    message = f"{argument!r} is a change, and the base that it changes comes first, as in: {example}"
    return KitError(Fault(message, location=COMMAND_LINE))


def read_arm(argument: str | Experiment, trust_code: bool = False, n_processes: int = 1) -> NamedArm:
    """The arm of an experiment or of a group of runs. Raises KitError where the argument is neither."""
    if isinstance(argument, Experiment):
        return NamedArm(Arm(argument.name, argument), f"{argument.name}: an experiment", argument.notes)
    try:
        file = find_experiment(argument)
    except KitError as error:
        group = find_group(argument)
        if group is None:
            raise unknown_argument(argument, error) from None
        return arm_of_group(argument, group, trust_code)
    experiment = Experiment.load(argument, (), trust_code, n_processes)
    meaning = f"{argument}: the experiment {path_in_messages(file)}"
    return NamedArm(Arm(argument, experiment), meaning, experiment.notes)


def unknown_argument(argument: str, error: KitError) -> KitError:
    below = run_below(argument)
    if below is not None:
        reason = f"{argument!r} is neither an experiment nor a folder of runs"
        message = f"{reason}, as {one_line(str(below.parent))} is; name a folder such as that, or a run"
    else:
        message = f"{error}; nor are there runs of that name: `nanogpt-kit runs list` shows all"
    return KitError(Fault(message, location=COMMAND_LINE))


def arm_of_group(argument: str, group: RunGroup, trust_code: bool) -> NamedArm:
    """The seed of its experiment is the smallest of the group's seeds, so that further seeds continue from there."""
    recorded = load_recorded(group.newest, (), trust_code, needs=("evaluator",))  # the others have trained already
    warn_of_other_versions(recorded)
    experiment = recorded.with_({"train.seed": min(group.seeds)})
    return NamedArm(Arm(argument, experiment, runs=group.runs), f"{argument}: {group.describe()}")


def changed_arm(base: Arm, argument: str, trust_code: bool) -> NamedArm:
    """The base with the overrides of one argument."""
    layers = base.experiment.layers.copy()
    layers.override(split_overrides(argument))
    experiment = type(base.experiment).of(layers, base.experiment.folder, trust_code)
    arm = Arm(argument, experiment, changes_between(base.experiment, experiment))
    return NamedArm(arm, f"{argument}: {base.label} with this change", experiment.notes)


def split_overrides(argument: str) -> list[str]:
    """ "model.mlp=swiglu optimizer.lr=2e-3" as two overrides.

    Blanks within a TOML list, table or string separate nothing, nor do those of an override in quotes. What is never
    closed is one override, which is refused as such.
    """
    found, rest = [], argument.strip()
    while rest:
        ends = (*(blank.start() for blank in BLANKS.finditer(rest)), len(rest))
        end = next((end for end in ends if is_override(rest[:end])), len(rest))
        text, rest = rest[:end], rest[end:].lstrip()
        found.append(text[1:-1] if text[0] in QUOTES and is_override(text) else text)
    return found


def is_override(text: str) -> bool:
    """Whether it has a value, and no quote or bracket that this begins with is left open."""
    if text[0] in QUOTES:
        return len(text) > 1 and text[-1] == text[0]
    key, equals, value = text.partition("=")
    if not equals or (not value and key[-1:].isspace()):  # "key = value" has blanks, too
        return False
    if value.strip()[:1] not in (*QUOTES, "[", "{"):
        return True
    try:
        parse_toml(f"value = {value}")
    except MalformedToml:
        return False
    return True


def with_changes(base: Arm, named: NamedArm) -> NamedArm:
    changes = changes_between(base.experiment, named.arm.experiment)
    return replace(named, arm=replace(named.arm, changes=changes))


def changes_between(base: Experiment, other: Experiment) -> dict[str, tuple[str | None, str | None]]:
    """Dotted keys whose values decide results and differ, with both values as TOML; None where one has no value."""
    left_out = tuple(f"{dotted(key)}." for key in DECIDE_NOTHING)
    return {
        key: (as_toml_text(before), as_toml_text(after))
        for key, (before, after) in base.differences(other).items()
        if not f"{key}.".startswith(left_out)
    }


def as_toml_text(value: object) -> str | None:
    """A value as it is written in TOML, on one line; None stays."""
    if value is None:
        return None
    if isinstance(value, list | dict):
        return inline_toml(value)
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()
