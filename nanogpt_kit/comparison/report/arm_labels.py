"""How the report of a comparison names its arms: by labels that are short, and never two alike."""

from __future__ import annotations

from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.comparison.sentences import label_of, ranked_results
from nanogpt_kit.comparison.text import letter_of
from nanogpt_kit.report.labels import short_labels


def distinct_labels(comparison: Comparison) -> list[str]:
    """The whole label of each arm; where two are the same, all begin with the letters of the console."""
    labels = [label_of(comparison, arm) for arm in range(len(comparison.arms))]
    if len({*labels}) == len(labels):
        return labels
    return [f"{letter_of(arm)}: {label}" for arm, label in enumerate(labels)]


def short_arm_labels(comparison: Comparison) -> list[str]:
    """Those of figures and tables; each is distinct."""
    labels = distinct_labels(comparison)
    short = short_labels(labels)
    return [short[label] for label in labels]


def ranked_arms(comparison: Comparison) -> list[int]:
    """The base, then its contenders, the best first, then arms that were not judged."""
    judged = [result.arm for result in ranked_results(comparison)]
    return [0, *judged, *(arm for arm in range(1, len(comparison.arms)) if arm not in judged)]
