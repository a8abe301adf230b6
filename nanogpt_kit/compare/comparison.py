"""Puts a comparison together: checks, judges, counts earlier looks and tries, and writes comparison.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nanogpt_kit.compare.question import Question
from nanogpt_kit.compare.record import Comparison, Measurement

COMPARISON = "comparison.json"


def make_comparison(question: Question, measurements: Sequence[Measurement], command: str) -> Comparison:
    """Judges, and records the look in comparison.json. Raises KitError where the runs do not compare."""
    raise NotImplementedError


def write_comparison(question: Question, comparison: Comparison) -> Path:
    """Writes comparison.json into the question's folder, atomically, and returns its path."""
    raise NotImplementedError
