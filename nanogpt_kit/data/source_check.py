"""Whether the text of an experiment is there, before it is read. It imports no module of models, which takes 0.2 s."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from nanogpt_kit.core.errors import Fault, KitError, key_parts
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Dataset
from nanogpt_kit.data.dataset_sources import source_faults, sources_of, with_key
from nanogpt_kit.runs.folder import RunFolder


def check_source(experiment: Experiment, resumed: RunFolder | None = None) -> None:
    """Raises KitError where the text is missing, at the location of the option that names it.

    A path in it may be relative to the folder that a resumed run was started in.
    """
    try:
        run_checks([partial(check_dataset, experiment.dataset, name) for name in sources_of(experiment.dataset)])
        if experiment.dataset.sources:
            experiment.dataset.check_source()  # whether they fit together
    except KitError as error:
        faults = []
        for fault in map(with_key, error.faults):
            location = experiment.location(key_parts(fault.key or "dataset.source"))
            faults.append(Fault(fault.message, fault.key, fault.location or location))
        missing = KitError(*faults)
        started_in = resumed.provenance().folder if resumed else str(Path.cwd())
        if started_in != str(Path.cwd()):
            missing.add_note(f"{resumed} was started in {started_in}; continue it in that folder")
        raise missing from None


def check_dataset(dataset: Dataset, name: str) -> None:
    """Raises KitError where the text of a source is missing, at its own options."""
    with source_faults(dataset, name):
        sources_of(dataset)[name].check_source()


def run_checks(checks: Sequence[Callable[[], object]]) -> None:
    """Raises KitError with the faults of all checks, each once."""
    faults: dict[Fault, None] = {}
    errors: list[KitError] = []
    for check in checks:
        try:
            check()
        except KitError as error:
            errors.append(error)
            faults |= dict.fromkeys(error.faults)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise KitError(*faults)
