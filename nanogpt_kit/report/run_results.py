"""What came of a run, as sentences: its last and its best evaluation, its state, and what it took."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nanogpt_kit.core.duration import format_duration
from nanogpt_kit.report.metric_curves import MetricCurve, read_curves
from nanogpt_kit.report.page import format_number
from nanogpt_kit.runs.folder import PROVENANCE, RunFolder
from nanogpt_kit.runs.index import read_run
from nanogpt_kit.runs.indexed_run import IndexedRun
from nanogpt_kit.runs.metrics import is_finite_number
from nanogpt_kit.runs.ranking import BITS_PER_BYTE, LOSS
from nanogpt_kit.runs.recorded_values import read_object, text_of
from nanogpt_kit.runs.secrets import hide_in_text
from nanogpt_kit.runs.status import parameters_text

MAX_REASON = 2_000  # characters
ENDED_BY = {
    "steps": "",
    "max_tokens": ", ended by train.max_tokens",
    "max_seconds": ", ended by train.max_seconds",
    "callback": ", ended by a callback",
    "signal": ", ended by a signal",
    "fault": ", ended by a fault",
}


@dataclass(frozen=True)
class ReportedRun:
    """A run with its curves by metric."""

    row: IndexedRun
    curves: Mapping[str, MetricCurve]

    @classmethod
    def read(cls, folder: RunFolder) -> Self:
        return cls(read_run(folder), read_curves(folder.metrics))

    def last(self, metric: str) -> tuple[int, float] | None:
        """(step, value) of the last evaluation; None where there is none. The value may be NaN."""
        curve = self.curves.get(metric)
        return (curve.steps[-1], curve.values[-1]) if curve and len(curve.steps) else None

    def best(self, metric: str) -> tuple[int, float] | None:
        """(step, value) of the lowest finite value."""
        curve = self.curves.get(metric)
        pairs = zip(curve.values, curve.steps, strict=True) if curve else ()
        value, step = min(((value, step) for value, step in pairs if math.isfinite(value)), default=(math.nan, 0))
        return (step, value) if math.isfinite(value) else None


def result_sentences(run: ReportedRun) -> Iterator[str]:
    """The result first, then the state and the costs."""
    yield loss_sentence(run)
    bits = run.last(BITS_PER_BYTE)
    if bits is not None:
        references = ", ".join(f"{name} {format_number(value, 4)}" for name, value in compressors(run.row).items())
        beside = f"; compressors on the same text: {references}" if references else ""
        yield f"Bits per byte of text {value_text(bits[1])} at step {bits[0]:,}{beside}."
    yield state_sentence(run.row)


def loss_sentence(run: ReportedRun) -> str:
    last, best = run.last(LOSS), run.best(LOSS)
    if last is None:
        if run.row.is_imported:
            return "An imported model: it was not trained here, so it has no metrics. `nanogpt-kit eval` measures it."
        return f"There is no evaluation of {LOSS}."
    step, value = last
    text = f"{LOSS} {value_text(value)} at step {step:,}, the last evaluation"
    if best is None or best[0] == step:
        return f"{text}{', which is the best one' if best and len(run.curves[LOSS].steps) > 1 else ''}."
    return f"{text}; the best of {len(run.curves[LOSS].steps):,} was {value_text(best[1])} at step {best[0]:,}."


def value_text(value: float) -> str:
    return format_number(value) if math.isfinite(value) else "not finite"


def state_sentence(row: IndexedRun) -> str:
    """Such as "Finished: 1,500 steps, 2.3 million tokens, 35 s of training"."""
    if row.is_imported:
        return f"{row.parameters:,} parameters." if row.parameters else "Its number of parameters is not recorded."
    planned = f" of {row.total_steps:,}" if row.total_steps not in (0, row.step) else ""
    facts = [
        f"{row.step:,}{planned} steps{ENDED_BY.get(row.ended_by or '', '')}",
        f"{row.tokens:,} tokens" if row.tokens else "",
        f"{format_duration(row.seconds)} of training" if row.seconds else "",
        parameters_text(row.parameters, row.trained_parameters) if row.parameters else "",
    ]
    return f"{row.state.capitalize()}: {'; '.join(filter(None, facts))}."


def state_warning(row: IndexedRun) -> str:
    """What the reader should know of a run that is not finished; empty for one that is."""
    if row.state == "finished":
        return ""
    if row.state == "running":
        return "The run is not finished. This page has what was logged until now; the same command updates it."
    reason = hide_in_text(row.reason)[:MAX_REASON] or "no reason is recorded"
    return f"The run {'failed' if row.state == 'failed' else 'was interrupted'} at step {row.step:,}: {reason}"


def compressors(row: IndexedRun) -> dict[str, float]:
    """Bits per byte that compressors reach on the validation text of a run; empty where its data are gone or others."""
    origin = read_object(row.path, PROVENANCE)
    data = origin.get("data")
    folder = text_of(data, "folder") if isinstance(data, dict) else None
    if not folder or "\0" in folder:
        return {}
    started_in = text_of(origin, "folder") or ""
    for path in (Path(folder), Path(os.path.join(started_in, folder))):
        val = val_split_of(path)
        if val.get("sha256") == row.data.get("val"):
            references = val.get("references")
            values = references.items() if isinstance(references, dict) else ()
            return {str(name): float(value) for name, value in values if is_finite_number(value)}
    return {}


def val_split_of(folder: Path) -> dict[str, Any]:
    """The record of the validation split in a folder of prepared data; empty where there is none."""
    splits = read_object(str(folder), "manifest.json").get("splits")
    val = splits.get("val") if isinstance(splits, dict) else None
    return val if isinstance(val, dict) else {}
