"""Refuses to compare what does not compare, with every reason at once, and notes what a reader should know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nanogpt_kit.compare.question import Question
from nanogpt_kit.compare.record import Measurement


@dataclass(frozen=True)
class Comparable:
    """What all runs of a comparison have in common, and how they differ besides the change."""

    yardstick: str  # of the metric
    budget: str  # "1,500 steps", for people
    notes: tuple[str, ...] = ()


def check_arms(question: Question) -> None:
    """Before anything runs. Raises KitError with a fault for each reason why an arm does not compare with the base."""


def check_measurements(question: Question, measurements: Sequence[Measurement]) -> Comparable:
    """After the runs. Raises KitError with a fault for each reason why they do not compare."""
    return Comparable("", "")
