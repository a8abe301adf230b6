"""The metrics that an experiment's evaluators report."""

from __future__ import annotations

from nanogpt_kit.core.experiment import Experiment


def evaluator_metrics(experiment: Experiment) -> set[str] | None:
    """The names of the evaluators' metrics; None where an evaluator does not declare them."""
    names: set[str] = set()
    for evaluator in experiment.evaluator:
        declared = evaluator.metric_names()
        if declared is None:
            return None
        names |= set(declared)
    return names
