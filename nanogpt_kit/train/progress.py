"""How far a run has come: the values that a checkpoint restores besides tensors and random numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from nanogpt_kit.runs.status import Best


@dataclass
class Progress:
    """The counters of a run, shared by the trainer, the checks and the checkpoints."""

    step: int = 0  # optimizer updates done
    seconds: float = 0.0  # spent in steps; evaluations and checkpoints are not counted
    evaluated_at: int = -1  # the step of the newest evaluation
    micro_batch_size: int = 0  # windows
    stop_reason: str = ""  # why a callback has asked the run to stop
    best: Best | None = None  # of the metric that checkpoint.keep_best names
    steps_since_log: int = 0  # whose loss was read
    clipped_since_log: int = 0  # those of them whose gradient was clipped
    options: dict[str, int | float] = field(default_factory=dict)  # of the model's parts that schedules change, by key
