"""The metrics that an experiment's evaluators report, and those that they report of the test split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Evaluator
from nanogpt_kit.core.made_with import Unresolved
from nanogpt_kit.core.options import TEST


def evaluator_metrics(experiment: Experiment) -> set[str] | None:
    """The names of the evaluators' metrics; None where an evaluator does not declare them, or where nobody knows the
    sources of the dataset, since its plugin is missing."""
    if isinstance(experiment.dataset, Unresolved):
        return None
    return declared_metrics(experiment.evaluator, experiment.dataset.sources)


def evaluators_of_test(experiment: Experiment) -> list[Evaluator]:
    """The evaluators with an option `split`, on the test split. Raises KitError where there are none."""
    found = [part for part in experiment.evaluator if "split" in type(part).model_fields]
    if not found:
        raise KitError(f"no evaluator of {experiment.name} has an option `split`, so none can use the test split")
    return [type(part).model_validate({**dict(part), "split": TEST}) for part in found]


def declared_metrics(evaluators: Sequence[Evaluator], sources: Iterable[str]) -> set[str] | None:
    """The names of their metrics on a dataset of these sources; None where one does not declare them."""
    names: set[str] = set()
    for evaluator in evaluators:
        declared = metrics_with_sources(evaluator, sources)
        if declared is None:
            return None
        names |= set(declared)
    return names


def metrics_with_sources(evaluator: Evaluator, sources: Iterable[str]) -> tuple[str, ...] | None:
    """What an evaluator reports on a dataset of these sources; None where it does not declare it."""
    names = evaluator.metric_names()
    if names is None or not evaluator.measures_sources:
        return names
    return (*names, *(metric_of_source(name, source) for source in sources for name in names))


def metric_of_source(metric: str, source: str) -> str:
    """The name that a metric has for one source: "val/loss/code"."""
    return f"{metric}/{source}"
