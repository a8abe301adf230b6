"""Whether a run trains on the text of a source more often than the options of its dataset allow."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from nanogpt_kit.core.errors import Fault, KitError, key_parts
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.proportions import Proportions


def total_windows(experiment: Experiment) -> int:
    """The number of training windows of a run."""
    return experiment.total_tokens // experiment.model.block_size


def check_passes(experiment: Experiment, data: PreparedData) -> None:
    """Raises KitError for each option that a run of all its steps would not keep, with the steps that would."""
    proportions = Proportions.of_data(experiment, data)
    if proportions is None:
        return

    def pass_faults(windows: int) -> dict[str, str]:
        return dict(experiment.dataset.pass_faults(proportions.taken(windows), proportions.windows))

    def is_refused(n_steps: int) -> bool:
        """Whether a run of that many steps is; its schedule of batches may depend on their number."""
        plan = replace(experiment.step_plan, steps=n_steps)
        return bool(pass_faults(plan.total_tokens // plan.block_size))

    found = pass_faults(total_windows(experiment))
    if not found:
        return
    first = bisect_left(range(experiment.total_steps), True, key=is_refused)
    steps = f"{first - 1:,} step{'s' * (first > 2)}"
    remedy = f"train for at most {steps}, or change the proportions" if first > 1 else "change the proportions"
    faults = []
    for option, reason in found.items():
        key = f"dataset.{option}"
        faults.append(Fault(f"{reason}; {remedy}", key, experiment.location(key_parts(key))))
    raise KitError(*faults)
