"""How many runs a confirmation has, before it is known which trials are the best."""

from __future__ import annotations

from nanogpt_kit.core.sections import Sweep


def most_confirmed(options: Sweep, trials: int, branches: int) -> int:
    """The trials that a confirmation runs again, at most: the best, trial 0, and the best of each branch.

    The best of all trials is also the best of its branch.
    """
    if not options.confirm:
        return 0
    return min(trials, options.confirm + 1 + max(0, branches - 1))


def most_fresh_runs(options: Sweep, trials: int, branches: int) -> int:
    """The runs of a confirmation, at most: each of its trials with every fresh seed."""
    return most_confirmed(options, trials, branches) * options.confirm_seeds
