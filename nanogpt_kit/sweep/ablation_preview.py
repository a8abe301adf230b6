"""The preview of an ablation: its arms and their changes, runs, tokens and estimated hours; nothing is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nanogpt_kit.compare.groups import seeds_text
from nanogpt_kit.compare.ledger import finished_by_seed
from nanogpt_kit.compare.question import Arm, Question
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.layers import DEFAULT
from nanogpt_kit.sweep.ablation import ablation_options
from nanogpt_kit.sweep.arms.matching import count_of_model
from nanogpt_kit.sweep.preview import describe_duration, estimate_speed


@dataclass(frozen=True)
class ArmPreview:
    """An arm, the size of its model, and the seeds that finished runs answer."""

    arm: Arm
    parameters: float | None
    tokens: int  # of a run
    finished: tuple[int, ...]

    def describe(self) -> str:
        changes = "; ".join(describe_changes(self.arm)) or "as written"
        size = "" if self.parameters is None else f"; {self.parameters:,.0f} parameters"
        return f"{self.arm.label}: {changes}{size}"


@dataclass(frozen=True)
class AblationPreview:
    """What an ablation would run."""

    question: Question
    seeds: tuple[int, ...]
    arms: tuple[ArmPreview, ...]

    @property
    def run_count(self) -> int:
        return len(self.arms) * len(self.seeds)

    @property
    def finished_count(self) -> int:
        return sum(len(arm.finished) for arm in self.arms)

    @property
    def tokens(self) -> int:
        """Of the runs that are to be trained."""
        return sum(arm.tokens * (len(self.seeds) - len(arm.finished)) for arm in self.arms)

    def lines(self) -> Iterator[str]:
        question, seeds = self.question, seeds_text(self.seeds)
        yield f"{len(self.arms)} arms with {seeds}; {question.metric} is {question.direction}d"
        yield from (f"  {arm.describe()}" for arm in self.arms)
        yield from (f"note: {note}" for note in question.notes)
        runs = f"{self.run_count - self.finished_count} runs to train on {self.tokens:,} tokens"
        yield f"{runs}; {self.finished_count} of {self.run_count} are answered by finished runs"

    def record(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "id": self.question.id(),
            "folder": str(self.question.folder()),
            "metric": self.question.metric,
            "direction": self.question.direction,
            "seeds": list(self.seeds),
            "arms": [
                {
                    "label": arm.arm.label,
                    "changes": dict(arm.arm.changes),
                    "parameters": arm.parameters,
                    "tokens": arm.tokens,
                    "finished_seeds": list(arm.finished),
                }
                for arm in self.arms
            ],
            "notes": list(self.question.notes),
            "runs": self.run_count,
            "finished_runs": self.finished_count,
            "tokens": self.tokens,
        }


def preview_ablation(question: Question, seeds: Sequence[int], again: bool = False) -> AblationPreview:
    """What the runs of a question with these seeds would cost; `again`: no finished run answers one."""
    arms = []
    for arm in question.arms:
        experiment = arm.experiment
        finished = () if again else finished_by_seed(experiment)
        tokens = experiment.total_steps * experiment.train.batch_tokens
        parameters = count_of_model(experiment, "parameters")
        arms.append(ArmPreview(arm, parameters, tokens, tuple(seed for seed in seeds if seed in finished)))
    return AblationPreview(question, tuple(seeds), tuple(arms))


def describe_ablation_time(
    preview: AblationPreview, base: Experiment, load_again: Callable[[], Experiment], nproc: int = 1
) -> str:
    """The estimated time of the runs to be trained, as text; `load_again` loads the base in another process."""
    runs = preview.run_count - preview.finished_count
    if not runs:
        return "nothing is to be trained"
    speed = estimate_speed(base, load_again)
    return describe_duration(base, ablation_options(base), speed, preview.tokens, runs, nproc)


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
