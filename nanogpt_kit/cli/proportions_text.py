"""The proportions that the sources of a dataset have in training, as `check` and `prepare` report them."""

from __future__ import annotations

from typing import Any

from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment


def proportions_record(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """For each source its fraction of the training windows and, of prepared data, the windows and passes of the run.

    What is not known yet is None.
    """
    from nanogpt_kit.data.prepare import find_prepared
    from nanogpt_kit.data.proportions import Proportions
    from nanogpt_kit.train.passes import total_windows

    if not experiment.dataset.sources:
        return {}
    try:
        data = find_prepared(experiment)
    except KitError:  # the text is not there, or cannot be downloaded now
        data = None
    proportions = data and Proportions.of_data(experiment, data)
    if not proportions:
        fractions = Proportions.without_data(experiment) or dict.fromkeys(experiment.dataset.sources)
        return {name: {"fraction": fraction, "windows": None, "passes": None} for name, fraction in fractions.items()}
    n = total_windows(experiment)
    taken, passes = proportions.taken(n), proportions.passes(n)
    return {
        name: {"fraction": fraction, "windows": taken[name], "passes": passes[name]}
        for name, fraction in proportions.fractions.items()
    }


def print_proportions(experiment: Experiment) -> None:
    """A line for each source; none where the dataset is one source."""
    record = proportions_record(experiment)
    for name, source in record.items():
        fraction = (
            "a fraction that depends on its size" if source["fraction"] is None else f"{100 * source['fraction']:.4g}%"
        )
        line = f"{name}: {fraction} of the training windows"
        if source["passes"] is not None:
            line += f", {source['windows']:,} in the run, which are {source['passes']:.3g} passes over it"
        print_lines(line)
    if any(source["passes"] is None for source in record.values()):
        print_lines("how often the run passes over each source is known when its data is prepared")
