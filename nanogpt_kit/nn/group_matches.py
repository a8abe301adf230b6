"""Which parameters the groups of an optimizer match: by role, or by a regular expression of names and roles.

A tied parameter has several names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import get_args

from torch import nn

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import ParameterGroup, Role
from nanogpt_kit.nn.roles import role_by_parameter

MAX_NAMES = 3  # in one message
CLOSE = 0.8  # of the likeness of the nearest name: others that are shown beside it


def names_of_parameters(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Every name of each parameter, by its name in `named_parameters()`, which is the first."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {found[0]: tuple(found) for found in names.values()}


def match_groups(experiment: Experiment, model: nn.Module) -> dict[str, int]:
    """The index in `optimizer.group` of each parameter that a group matches, by its name in `named_parameters()`.

    Raises KitError where a group matches no parameter, or only those of earlier groups, and where all are frozen.
    """
    groups = experiment.optimizer.group
    if not groups:
        return {}
    roles: Mapping[nn.Parameter, Role] = role_by_parameter(model)
    role_of = {name: roles[parameter] for name, parameter in model.named_parameters()}
    names = names_of_parameters(model)
    taken: dict[str, int] = {}
    faults = []
    for index, group in enumerate(groups):
        matched = [name for name, all_names in names.items() if is_match(group, all_names, role_of[name])]
        free = [name for name in matched if name not in taken]
        taken |= dict.fromkeys(free, index)
        if not free:
            reason = taken_text(matched, names, taken) if matched else missing_text(group.match, names, role_of)
            faults.append(group_fault(experiment, index, "match", f"{group.match!r} {reason}"))
    learnt = [name for name, parameter in model.named_parameters() if parameter.requires_grad]  # by the model itself
    trained = [name for name in learnt if name not in taken or not groups[taken[name]].freeze]
    if not trained and not faults:
        last = max(index for index, group in enumerate(groups) if group.freeze)
        reason = "all parameters are frozen, and there is nothing to train; let a group match fewer"
        faults.append(group_fault(experiment, last, "freeze", reason))
    if faults:
        raise KitError(*faults)
    return taken


def freeze_parameters(experiment: Experiment, model: nn.Module) -> None:
    """Freezes the parameters of groups with `freeze`; called before the model is distributed."""
    group_of = match_groups(experiment, model)
    for name, parameter in model.named_parameters():
        if name in group_of and experiment.optimizer.group[group_of[name]].freeze:
            parameter.requires_grad_(False)


def is_match(group: ParameterGroup, names: Sequence[str], role: Role) -> bool:
    """Whether the pattern is in a name, or is the whole role; what is a role itself is not searched in names."""
    if group.match in get_args(Role):
        return group.match == role
    return bool(re.fullmatch(group.match, role)) or any(re.search(group.match, name) for name in names)


def group_fault(experiment: Experiment, index: int, option: str, message: str) -> Fault:
    location = experiment.location(("optimizer", "group", index, option))
    return Fault(message, f"optimizer.group.{index}.{option}", location)


def taken_text(matched: Sequence[str], names: Mapping[str, Sequence[str]], taken: Mapping[str, int]) -> str:
    """Why a group that matches has no parameters: "matches only parameters of earlier groups: wte.weight (of ...)"."""
    shown = [f"{named(names[name])} of optimizer.group.{taken[name]}" for name in matched[:MAX_NAMES]]
    more = f" and {len(matched) - MAX_NAMES:,} more" if len(matched) > MAX_NAMES else ""
    return f"matches only parameters that earlier groups have: {', '.join(shown)}{more}"


def named(names: Sequence[str]) -> str:
    """A parameter's name, with its other names where it is tied: "wte.weight (tied: lm_head.weight)"."""
    first, *others = names
    return f"{first} (tied: {', '.join(others)})" if others else first


def missing_text(match: str, names: Mapping[str, Sequence[str]], role_of: Mapping[str, Role]) -> str:
    if match in get_args(Role):
        tied = [all_names for name, all_names in names.items() if len(all_names) > 1 and role_of[name] == "embedding"]
        note = f"; {named(tied[0])} is an embedding" if match == "head" and tied else ""
        return f"is the role of no parameter{note}. Roles here: {', '.join(sorted(set(role_of.values())))}."
    return f"is found in no parameter name; the nearest: {', '.join(nearest_parameters(match, names))}"


def nearest_parameters(match: str, names: Mapping[str, Sequence[str]]) -> list[str]:
    """The names that are most like a pattern, whole or between some dots; the first of those that differ in digits.

    For example h.0.attn.c_attn.weight for "c_atn".
    """
    word = re.sub(r"\\.|[^\w.]", "", match.replace(r"\.", ".")).lower()

    def likeness(name: str) -> float:
        parts = name.lower().split(".")
        spans = (".".join(parts[first:end]) for first, end in combinations(range(len(parts) + 1), 2))
        return max(difflib.SequenceMatcher(None, word, span).ratio() for span in spans)

    distinct: dict[str, str] = {}
    for name in (name for all_names in names.values() for name in all_names):
        distinct.setdefault(re.sub(r"\d+", "#", name), name)
    best, *others = sorted(distinct.values(), key=likeness, reverse=True)
    return [best, *(name for name in others[: MAX_NAMES - 1] if likeness(name) >= CLOSE * likeness(best))]
