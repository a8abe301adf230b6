"""What each arm of a comparison needs to reach a target, as lines and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_kit.comparison.measurement import evaluations
from nanogpt_kit.comparison.numbers import decimal_text, ratio_text, value_decimals
from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.comparison.sentences import label_of
from nanogpt_kit.comparison.table import block_lines
from nanogpt_kit.comparison.target import ReachedTarget, reach_target
from nanogpt_kit.comparison.text import arm_names
from nanogpt_kit.core.duration import format_duration
from nanogpt_kit.runs.folder import RunFolder

REMARK = (
    "before its last step a run is one with an unfinished schedule: a run whose schedule ended there would be better"
)


@dataclass(frozen=True)
class TargetTable:
    """Where the mean over the seeds of each arm first reaches a target."""

    comparison: Comparison
    target: float
    reached: tuple[ReachedTarget | None, ...]  # by arm

    @classmethod
    def of(cls, comparison: Comparison, target: float) -> TargetTable:
        """Reads the evaluations of all runs that have a value; those that failed have no curve to its end."""
        arms = range(len(comparison.arms))
        return cls(comparison, target, tuple(arm_reaches(comparison, arm, target) for arm in arms))

    def lines(self) -> list[str]:
        decimals = value_decimals(self.comparison)
        target = f"{self.comparison.metric} {decimal_text(self.target, decimals)}"
        names = arm_names(self.comparison)
        found = [(name, reached) for name, reached in zip(names, self.reached, strict=True) if reached]
        never = [label_of(self.comparison, arm) for arm, reached in enumerate(self.reached) if not reached]
        lines = [f"the mean over all seeds reaches {target}, at one step for all seeds:"] if found else []
        if found:
            columns = cost_columns([reached for _, reached in found], is_base_first=self.reached[0] is not None)
            lines += [*block_lines(["", *(name for name, _ in found)], columns), REMARK]
        return lines + [f"{label} never reaches {target} at an evaluation that all its seeds have" for label in never]

    def record(self) -> dict[str, Any]:
        """For programs; an arm that never reaches the target has null."""
        arms = [reached and {**reached._asdict(), "arm": arm} for arm, reached in enumerate(self.reached)]
        return {"value": self.target, "arms": arms}


def arm_reaches(comparison: Comparison, arm: int, target: float) -> ReachedTarget | None:
    own = [one for one in comparison.measurements if one.arm == arm and one.value is not None]
    curves = {one.seed: evaluations(RunFolder(Path(one.run)), comparison.metric) for one in own}
    return reach_target(curves, target, comparison.direction)


def cost_columns(reached: Sequence[ReachedTarget], is_base_first: bool) -> list[list[str]]:
    """Columns of steps, tokens and seconds, each with its ratio to the base where that reaches the target."""
    columns = []
    for name in ("step", "tokens", "seconds"):
        costs = [float(getattr(one, name)) for one in reached]
        ratios = ["", *(ratio_text(cost, costs[0]) if is_base_first else "" for cost in costs[1:])]
        texts = [format_duration(cost) if name == "seconds" else f"{cost:,.0f}" for cost in costs]
        cells = [f"{text} {ratio}".rstrip() for text, ratio in zip(texts, ratios, strict=True)]
        columns.append([{"step": "step", "tokens": "tokens", "seconds": "time"}[name], *cells])
    return columns
