"""The groups of parameters that `[[optimizer.group]]` describes, with what each matches in the model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from torch import nn

from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.nn.group_matches import match_groups, names_of_parameters


@dataclass(frozen=True)
class MatchedGroup:
    """The parameters of one group; without an index, those that no group matches."""

    index: int | None
    names: tuple[tuple[str, ...], ...]  # all names of each parameter: several where it is tied
    parameters: int


def matched_groups(experiment: Experiment, module: nn.Module) -> list[MatchedGroup]:
    """Every group, and last what is left; `module` may be on the meta device."""
    group_of, parameters = match_groups(experiment, module), dict(module.named_parameters())
    names: dict[int | None, list[tuple[str, ...]]] = {index: [] for index in range(len(experiment.optimizer.group))}
    for first, all_names in names_of_parameters(module).items():
        names.setdefault(group_of.get(first), []).append(all_names)
    return [
        MatchedGroup(index, tuple(found), sum(parameters[first].numel() for first, *_ in found))
        for index, found in names.items()
    ]


def print_groups(experiment: Experiment, module: nn.Module | None) -> None:
    """A line for each group; nothing where the experiment has none."""
    if not experiment.optimizer.group:
        return
    if module is None:
        print_lines("the parameters of the groups are unknown until the model is built")
        return
    for group in matched_groups(experiment, module):
        tied = [f"{first} is tied to {', '.join(others)}" for first, *others in group.names if others]
        tensors = f"{len(group.names):,} tensor{'s' * (len(group.names) != 1)}"
        facts = [f"{tensors}, {group.parameters:,} parameters", *options_text(experiment, group), *tied]
        print_lines(f"{title(experiment, group)}: {'; '.join(facts)}")


def title(experiment: Experiment, group: MatchedGroup) -> str:
    if group.index is None:
        return "parameters of no group"
    return f"optimizer.group.{group.index} ({experiment.optimizer.group[group.index].match})"


def options_text(experiment: Experiment, group: MatchedGroup) -> list[str]:
    """Such as ["frozen"] or ["lr = 0.003, betas = [0.9, 0.95]"]."""
    if group.index is None:
        return []
    options = experiment.optimizer.group[group.index]
    values = ", ".join(f"{key} = {json.dumps(value)}" for key, value in options.values().items())
    return ["frozen"] if options.freeze else [values] if values else []


def groups_record(experiment: Experiment, module: nn.Module | None) -> list[dict[str, Any]] | None:
    """The same as JSON values; null where the model cannot be built without memory."""
    if module is None or not experiment.optimizer.group:
        return None if experiment.optimizer.group else []
    return [{**vars(group), "tensors": len(group.names)} for group in matched_groups(experiment, module)]
