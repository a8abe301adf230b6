"""Which of several runs is the best, where their evaluations compare.

The loss in nats per token depends on the tokenizer; bits per byte do not. Neither compares between different texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import is_finite_number, last_evaluation
from nanogpt_kit.runs.provenance import TrainingData

LOSS, BITS_PER_BYTE = "val/loss", "val/bits_per_byte"


@dataclass(frozen=True)
class EvaluatedRun:
    """A run with the newest evaluation that a checkpoint of it has reached, and the data that it was evaluated on."""

    folder: RunFolder
    metrics: Mapping[str, Any]
    data: TrainingData

    @classmethod
    def of(cls, folder: RunFolder) -> Self | None:
        """None where the run has no checkpoint, no val/loss, or no readable record of its data."""
        steps = folder.checkpoint_steps()
        metrics = last_evaluation(folder.metrics, steps[-1]) if steps else {}
        origin = folder.provenance_or_none() if metrics else None
        return cls(folder, metrics, origin.data) if origin and origin.data else None

    def has_tokens_of(self, other: EvaluatedRun) -> bool:
        """Whether both were evaluated on the same tokens, of which the same count, so that their losses compare."""
        measured = self.data.measured("val")
        return measured is not None and measured == other.data.measured("val")

    def has_text_of(self, other: EvaluatedRun) -> bool:
        """Whether both were evaluated on the same text, so that their bits per byte compare."""
        return self.has_tokens_of(other) or self.data.dataset == other.data.dataset


@dataclass(frozen=True)
class Ranking:
    """The runs of an experiment that compare with one of them, and the best of them."""

    best: RunFolder
    metric: str
    value: float
    reference_value: float  # of the run that they were compared with
    count: int  # runs that compare, the reference included


def rank_runs(folders: Sequence[RunFolder], reference: RunFolder) -> Ranking | None:
    """The run with the lowest last evaluation among those that compare with `reference`.

    By val/bits_per_byte over the runs with the same text where their tokens differ and each run has it, otherwise by
    val/loss over the runs with the same tokens. A reference that was not evaluated is replaced by the newest run that
    was; None where there is none.
    """
    evaluated = [run for run in map(EvaluatedRun.of, folders) if run]
    if not evaluated:
        return None
    base = next((run for run in evaluated if run.folder == reference), evaluated[-1])
    same_tokens = [run for run in evaluated if run is base or run.has_tokens_of(base)]
    same_text = [run for run in evaluated if run.has_text_of(base)]
    has_bits = all(is_finite_number(run.metrics.get(BITS_PER_BYTE)) for run in same_text)
    is_by_bits = has_bits and len(same_text) > len(same_tokens)
    metric, compared = (BITS_PER_BYTE, same_text) if is_by_bits else (LOSS, same_tokens)
    best = min(reversed(compared), key=lambda run: float(run.metrics[metric]))  # of equal ones the newest
    return Ranking(best.folder, metric, float(best.metrics[metric]), float(base.metrics[metric]), len(compared))
