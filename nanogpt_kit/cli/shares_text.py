"""The shares that the sources of a dataset have in training, as `check` and `prepare` report them."""

from __future__ import annotations

from typing import Any

from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment


def shares_record(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """For each source its share of the training windows and, of prepared data, the windows and passes of the run.

    What is not known yet is None.
    """
    from nanogpt_kit.data.prepare import find_prepared
    from nanogpt_kit.data.shares import Shares
    from nanogpt_kit.train.passes import total_windows

    if not experiment.dataset.sources:
        return {}
    try:
        data = find_prepared(experiment)
    except KitError:  # the text is not there, or cannot be downloaded now
        data = None
    shares = data and Shares.of_data(experiment, data)
    if not shares:
        fractions = Shares.without_data(experiment) or dict.fromkeys(experiment.dataset.sources)
        return {name: {"share": share, "windows": None, "passes": None} for name, share in fractions.items()}
    n = total_windows(experiment)
    taken, passes = shares.taken(n), shares.passes(n)
    return {
        name: {"share": share, "windows": taken[name], "passes": passes[name]}
        for name, share in shares.fractions.items()
    }


def print_shares(experiment: Experiment) -> None:
    """A line for each source; none where the dataset is one source."""
    record = shares_record(experiment)
    for name, source in record.items():
        share = "a share by its size" if source["share"] is None else f"{100 * source['share']:.4g}%"
        line = f"{name}: {share} of the training windows"
        if source["passes"] is not None:
            line += f", {source['windows']:,} in the run, which are {source['passes']:.3g} passes over it"
        print_lines(line)
    if any(source["passes"] is None for source in record.values()):
        print_lines("how often the run passes over each source is known when its data is prepared")
