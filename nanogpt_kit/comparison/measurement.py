"""What a run measured: a metric at its last full evaluation, and what the run cost."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from nanogpt_kit.comparison.record import Measurement
from nanogpt_kit.comparison.target import Evaluation
from nanogpt_kit.core.errors import Fault, KitError, did_you_mean
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.folder import RunFolder, relative_to_cwd
from nanogpt_kit.runs.metrics import is_finite_number, read_metrics

SPEED, MEMORY = "perf/tokens_per_second", "memory/peak_bytes"
NOT_METRICS = {"step", "tokens", "seconds"}


def measure_run(folder: RunFolder, metric: str, arm: int = 0, is_reused: bool = False) -> Measurement:
    """The metric at the last step of a finished run: never a best value, never an earlier one.

    A run that did not finish has no value, and `state` and `reason` say why; nor has a finished one whose metric is not
    finite. Raises KitError where a finished run has no such metric, and for an imported model, which nothing trained.
    """
    status, seed = folder.status(), folder.seed()
    name = one_line(str(folder))
    if status.imported:
        remedy = "`nanogpt-kit eval` measures a model"
        raise KitError(f"{name} is an imported model, and only runs can be compared; {remedy}")
    if seed is None:
        raise KitError(f"{name}: the seed of this run is not recorded, so that it has no pair; leave it out")
    records = list(read_metrics(folder.metrics))
    costs: dict[str, Any] = {
        "arm": arm,
        "seed": seed,
        "run": str(relative_to_cwd(folder.path)),
        "is_reused": is_reused,
        "steps": status.step,
        "seconds": status.seconds,
        "tokens": max((record["tokens"] for record in records if is_count(record.get("tokens"))), default=0),
        "tokens_per_second": median_speed(records),
        "memory_bytes": largest_memory(records),
        "parameters": status.parameters,
        "ended_by": status.ended_by,
    }
    if status.state != "finished":
        return Measurement(state=status.state, reason=status.reason, cause=status.cause, **costs)
    value = last_value(records, metric, status.step, name)
    reason = "" if value is not None else f"{metric} is not finite"
    return Measurement(state="finished", value=value, reason=reason, **costs)


def last_value(records: list[dict[str, Any]], metric: str, step: int, name: str) -> float | None:
    """The metric in the evaluation at `step`; None where it is not finite. Raises KitError where it is missing."""
    last: dict[str, Any] = {}
    for record in records:
        if record["step"] == step and is_evaluation(record):
            last |= record
    if metric not in last:
        reported = last.keys() - NOT_METRICS
        message = f"the evaluation at its last step ({step:,}) has no metric {metric!r}{did_you_mean(metric, reported)}"
        raise KitError(Fault(message, "--metric", name))
    return float(last[metric]) if is_finite_number(last[metric]) else None


def evaluations(folder: RunFolder, metric: str) -> list[Evaluation]:
    """The metric at every evaluation that has a finite value of it, in the order of the steps."""
    points = {
        record["step"]: Evaluation(record["step"], record["tokens"], record["seconds"], float(record[metric]))
        for record in read_metrics(folder.metrics)
        if is_evaluation(record) and all(is_finite_number(record.get(key)) for key in ("tokens", "seconds", metric))
    }
    return [points[step] for step in sorted(points)]


def is_evaluation(record: dict[str, Any]) -> bool:
    """Whether it is a line of the evaluators, not of a training step."""
    return "train/loss" not in record


def median_speed(records: list[dict[str, Any]]) -> float | None:
    speeds = list(finite_values(records, SPEED))
    return median(speeds) if speeds else None


def largest_memory(records: list[dict[str, Any]]) -> int | None:
    peaks = list(finite_values(records, MEMORY))
    return int(max(peaks)) if peaks else None


def finite_values(records: list[dict[str, Any]], key: str) -> Iterator[float]:
    return (float(record[key]) for record in records if is_finite_number(record.get(key)))


def is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
