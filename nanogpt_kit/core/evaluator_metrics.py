"""The metrics that an experiment's evaluators report, and those that they report of the test split."""

from __future__ import annotations

from collections.abc import Sequence

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Evaluator
from nanogpt_kit.core.options import TEST


def evaluator_metrics(experiment: Experiment) -> set[str] | None:
    """The names of the evaluators' metrics; None where an evaluator does not declare them."""
    return declared_metrics(experiment.evaluator)


def evaluators_of_test(experiment: Experiment) -> list[Evaluator]:
    """The evaluators with an option `split`, on the test split. Raises KitError where there are none."""
    found = [part for part in experiment.evaluator if "split" in type(part).model_fields]
    if not found:
        raise KitError(f"no evaluator of {experiment.name} has an option `split`, so none can use the test split")
    return [type(part).model_validate({**dict(part), "split": TEST}) for part in found]


def declared_metrics(evaluators: Sequence[Evaluator]) -> set[str] | None:
    """The names of their metrics; None where one does not declare them."""
    names: set[str] = set()
    for evaluator in evaluators:
        declared = evaluator.metric_names()
        if declared is None:
            return None
        names |= set(declared)
    return names
