"""A comparison as lines for people, as JSON, and as an exit code."""

from __future__ import annotations

from typing import Any

from nanogpt_kit.compare.record import Comparison
from nanogpt_kit.core.errors import DONE, UNDECIDED, WORSE


def comparison_lines(comparison: Comparison) -> list[str]:
    """The whole answer; the last line is the verdict in words."""
    return []


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The record with the path of its file, for programs."""
    return comparison.model_dump(mode="json")


def exit_code(comparison: Comparison) -> int:
    """DONE where a contender is better, else UNDECIDED where one is undecided, else WORSE; DONE without contenders."""
    verdicts = {result.verdict for result in comparison.results}
    if not verdicts or "better" in verdicts:
        return DONE
    return UNDECIDED if "undecided" in verdicts else WORSE
