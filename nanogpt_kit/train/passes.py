"""Whether a run trains on the text of a source more often than the options of its dataset allow."""

from __future__ import annotations

from bisect import bisect_left

from nanogpt_kit.core.errors import Fault, KitError, key_parts
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.proportions import Proportions


def total_windows(experiment: Experiment, n_steps: int | None = None) -> int:
    """The number of training windows of a run, or of its first steps."""
    plan = experiment.step_plan
    return plan.tokens(plan.total_steps if n_steps is None else n_steps) // experiment.model.block_size


def check_passes(experiment: Experiment, data: PreparedData) -> None:
    """Raises KitError for each option that a run of all its steps would not keep, with the steps that would."""
    proportions = Proportions.of_data(experiment, data)
    if proportions is None:
        return

    def pass_faults(n_steps: int) -> dict[str, str]:
        taken = proportions.taken(total_windows(experiment, n_steps))
        return dict(experiment.dataset.pass_faults(taken, proportions.windows))

    found = pass_faults(experiment.total_steps)
    if not found:
        return
    first = bisect_left(range(experiment.total_steps), True, key=lambda n_steps: bool(pass_faults(n_steps)))
    steps = f"{first - 1:,} step{'s' * (first > 2)}"
    remedy = f"train for at most {steps}, or change the proportions" if first > 1 else "change the proportions"
    faults = []
    for option, reason in found.items():
        key = f"dataset.{option}"
        faults.append(Fault(f"{reason}; {remedy}", key, experiment.location(key_parts(key))))
    raise KitError(*faults)
