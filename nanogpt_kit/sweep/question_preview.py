"""The preview of a question: its arms and their changes, runs, tokens and estimated time; nothing is started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nanogpt_kit.comparison.groups import seeds_text
from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.core.layers import DEFAULT
from nanogpt_kit.sweep.arms.matching import count_of_model
from nanogpt_kit.sweep.comparison_preview import ComparisonEstimate, estimate_lines


@dataclass(frozen=True)
class QuestionPreview:
    """What a comparison or an ablation would compare, and what that would cost."""

    question: Question
    seeds: Sequence[int]
    estimate: ComparisonEstimate

    def lines(self) -> Iterator[str]:
        question = self.question
        yield f"{len(question.arms)} arms with {seeds_text(self.seeds)}; {question.metric} is {question.direction}d"
        yield from (f"  {describe_arm(arm)}" for arm in question.arms)
        yield from (f"note: {note}" for note in question.notes)
        yield from estimate_lines(self.estimate)

    def record(self) -> dict[str, Any]:
        """The same for programs."""
        question = self.question
        return {
            "id": question.id(),
            "folder": str(question.folder()),
            "metric": question.metric,
            "direction": question.direction,
            "seeds": list(self.seeds),
            "arms": [
                {
                    "label": arm.label,
                    "changes": dict(arm.changes),
                    "parameters": count_of_model(arm.experiment, "parameters"),
                }
                for arm in question.arms
            ],
            "notes": list(question.notes),
            **asdict(self.estimate),
        }


def describe_arm(arm: Arm) -> str:
    """Its label, its changes, and the size of its model."""
    changes = "; ".join(describe_changes(arm)) or "as written"
    parameters = count_of_model(arm.experiment, "parameters")
    return f"{arm.label}: {changes}" + ("" if parameters is None else f"; {parameters:,.0f} parameters")


def describe_changes(arm: Arm) -> Iterator[str]:
    """Each option with its values; of a component that replaces another only the options that the arm sets."""
    slots = [key.removesuffix("use") for key in arm.changes if key.endswith(".use")]
    for key, (before, after) in arm.changes.items():
        parts = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
        is_inside = any(key.startswith(slot) and key != f"{slot}use" for slot in slots)
        if is_inside and (after is None or arm.experiment.location(parts) == DEFAULT):
            continue
        new = "is not set" if after is None else f"= {after}"
        yield f"{key} {new}" if before is None else f"{key} {new} instead of {before}"
