"""How many trials each branch of a space gets where `sweep.allocate` is "equal"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.sweep.space.parameters import MAX_POINTS, Config, Parameter
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.branches import MAX_BRANCHES, Branch, branch_index, find_branches, iterate_branches

SHOWN_BRANCHES = 20  # in a preview
NAMED_BRANCHES = 3  # in a message
EXAMPLE_CHOICE = '"optimizer.use" = { choice = ["adamw", "muon"] }'


@dataclass(frozen=True)
class Allocation:
    """The trials of a branch."""

    branch: Branch
    trials: int
    points: Sequence[Config] | None  # all of the branch; None if they cannot be listed


def allocate_trials(space: Space) -> list[Allocation]:
    """Each branch with an equal number of trials, or with all its points where these are fewer."""
    branches = find_branches(space)
    return [allocate_branch(space, branch, space.options.trials // len(branches)) for branch in branches]


def allocate_branch(space: Space, branch: Branch, trials: int) -> Allocation:
    points = points_of_branch(space, branch)
    return Allocation(branch, trials if points is None else min(trials, len(points)), points)


def check_allocation(space: Space) -> None:
    """Raises KitError unless the trials can be divided as `sweep.allocate` says."""
    options, layers = space.options, space.base.layers
    if options.allocate != "equal":
        return
    branches = find_branches(space)
    if not branches:
        reason, remedy = "no key of [sweep.space] is a choice", f"add one, such as {EXAMPLE_CHOICE}"
        if next(iterate_branches(space), None) is not None:
            reason, remedy = f"[sweep.space] has more than {MAX_BRANCHES}", "vary fewer choices"
        elif any(parameter.kind == "choice" for parameter in space.parameters):
            reason = "each choice of [sweep.space] depends on a range"
        message = f'"equal" divides the trials among branches, and {reason}; {remedy}, or write allocate = "sampler"'
        raise KitError(Fault(message, "sweep.allocate", layers.location(("sweep", "allocate"))))
    count, trials = len(branches), options.trials
    if trials % count and not has_all_points(space, branches):
        fewer, more = trials - trials % count, trials + count - trials % count
        remedy = f"{fewer} or {more}" if fewer else str(more)
        labels = [branch.label for branch in branches[:NAMED_BRANCHES]]
        named = "; ".join([*labels, *([f"{count - len(labels)} more"] if count > len(labels) else [])])
        message = (
            f"{trials} trials cannot be divided equally among {count} branches ({named}), as "
            f'allocate = "equal" requires; write trials = {remedy}'
        )
        raise KitError(Fault(message, "sweep.trials", layers.location(("sweep", "trials"))))


def has_all_points(space: Space, branches: Sequence[Branch]) -> bool:
    """Whether each branch has no more points than its part of the trials, so that nothing has to be divided."""
    equal = space.options.trials // len(branches)
    points = (points_of_branch(space, branch) for branch in branches)
    return all(listed is not None and len(listed) <= equal for listed in points)


def trial_count(space: Space) -> int:
    """The trials that a search has: `sweep.trials`, or fewer where the space has fewer points."""
    if space.options.allocate == "equal":
        return sum(one.trials for one in allocate_trials(space))
    points = space.points()
    return space.options.trials if points is None else min(space.options.trials, len(points))


def branch_count(space: Space) -> int:
    """The branches within which trials are compared: a single one where the sampler divides the trials."""
    return len(find_branches(space)) if space.options.allocate == "equal" else 1


def allocation_lines(space: Space) -> list[str]:
    """Lines of a preview: the trials of each branch; none where the sampler divides them."""
    if space.options.allocate != "equal":
        return []
    found = allocate_trials(space)
    equal = space.options.trials // len(found)
    lines = [f"{equal} trials for each of {len(found)} branches in turn, tuned by its own trials alone"]
    for one in found[:SHOWN_BRANCHES]:
        text = f"{one.trials} trial{'s' if one.trials != 1 else ''}"
        lines.append(f"  {one.branch.label}: {text}" + (", all its points" if one.trials < equal else ""))
    if len(found) > SHOWN_BRANCHES:
        lines.append(f"  and {len(found) - SHOWN_BRANCHES} more")
    return lines


def turns(allocations: Sequence[Allocation], queued: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    """The indices of branches in the order in which they get the trials that they lack, the least tried first.

    `queued` are the parameters with which trials are queued already.
    """
    branches = [one.branch for one in allocations]
    counts = Counter(index for params in queued if (index := branch_index(branches, params)) is not None)
    while short := [index for index, one in enumerate(allocations) if counts[index] < one.trials]:
        index = min(short, key=counts.__getitem__)
        counts[index] += 1
        yield index


# The points of a branch


def points_of_branch(space: Space, branch: Branch) -> list[Config] | None:
    """All points of a branch; None if they cannot be listed."""
    varied = varied_in(space, branch)
    if any(parameter.values is None for parameter in varied):
        return None
    fixed, names = space.from_optuna(dict(branch.params)), [parameter.name for parameter in varied]

    def values(parameter: Parameter) -> Sequence[Any]:
        return parameter.values or () if parameter.name in names else [fixed[parameter.key]]

    points = []
    for point in space.combinations(values):
        points.append(point)
        if len(points) > MAX_POINTS:
            return None
    return points


def varied_in(space: Space, branch: Branch) -> list[Parameter]:
    """The parameters in which trials of a branch may differ."""
    fixed = space.from_optuna(dict(branch.params))
    varied: list[Parameter] = []
    for parameter in space.parameters:
        keys = {other.key for other in varied}
        is_possible = all(
            condition.holds(fixed) if condition.key in fixed else condition.key in keys for condition in parameter.when
        )
        if parameter.name not in branch.params and is_possible:
            varied.append(parameter)
    return varied
