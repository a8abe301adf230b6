"""What a list of runs shows of one run, read from its folder in well under a millisecond."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nanogpt_kit.runs.folder import PROVENANCE, RUN_ID, RunFolder
from nanogpt_kit.runs.notes import NOTES, read_notes
from nanogpt_kit.runs.recorded_values import (
    data_of,
    last_records,
    metrics_of,
    number_of,
    read_object,
    read_options,
    start_time,
    starts_of,
    text_of,
    texts_of,
)

FILES = ("experiment.toml", "status.json", "metrics.jsonl", PROVENANCE, NOTES)  # that a row is read from


@dataclass(frozen=True, slots=True)
class IndexedRun:
    """One run. What its folder does not have, or has damaged, is empty or None."""

    path: str
    reference: str  # its path below the runs folder, by which users name it
    experiment: str  # its name
    seed: int | None
    state: str  # of runs.status.State
    started: str  # UTC, as 2026-01-02T03:04:05.006Z
    cause: str | None = None  # of runs.status.Cause
    reason: str = ""
    ended_by: str | None = None
    step: int = 0
    total_steps: int = 0
    tokens: int = 0
    seconds: float = 0.0  # spent in steps
    parameters: int | None = None
    trained_parameters: int | None = None  # of them; the others are frozen
    evaluated_step: int | None = None  # of the last evaluation
    metrics: dict[str, float | None] = field(default_factory=dict)  # of the last evaluation and the last logged step
    options: dict[str, Any] = field(default_factory=dict)  # by dotted key; model.mlp.use for a slot, sampler.top_k.k
    note: str = ""  # the newest, else that of the experiment
    fingerprint: str | None = None  # of the experiment it began with
    configuration: str | None = None  # Experiment.configuration() that it began with
    code: str | None = None
    yardsticks: dict[str, str] = field(default_factory=dict)  # by metric
    data: dict[str, str] = field(default_factory=dict)  # fingerprints: dataset, tokenizer; SHA-256: train, val
    starts: dict[str, str] = field(default_factory=dict)  # absolute path of a checkpoint by key of STARTS
    changed_at_step: int | None = None  # of the last resumption with another configuration or code
    is_imported: bool = False

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(self.path))

    @property
    def is_whole(self) -> bool:
        """Finished, and what its configuration and code say from its first step to its last one: not imported, not
        begun from another run, not extended."""
        began_alone = not (self.is_imported or "init_from" in self.starts or "branched_from" in self.starts)
        return self.state == "finished" and began_alone and self.changed_at_step is None

    def value(self, key: str) -> Any:
        """Of a field, a metric or an option by its key, of a component slot the component's name; None where this run
        has no such value."""
        if key in FIELDS:
            return FIELDS[key](self)
        if key in self.metrics:
            return self.metrics[key]
        return self.options.get(key, self.options.get(f"{key}.use"))

    @classmethod
    def read(cls, path: str, reference: str) -> Self:
        """From the files of a folder. A status of "running" is taken as it is."""
        folder = RunFolder(Path(path))
        status, options, origin = folder.recorded_status(), read_options(path), read_object(path, PROVENANCE)
        notes = read_notes(folder.path)
        last, evaluation = last_records(folder.metrics)
        metrics = {**metrics_of(evaluation), **metrics_of(last)}
        run_id = RUN_ID.fullmatch(folder.path.name)
        seed = options.get("train.seed", int(run_id[4]) if run_id else origin.get("seed"))
        return cls(
            path=path,
            reference=reference,
            experiment=text_of(options, "name") or os.path.basename(os.path.dirname(path)),
            seed=seed if type(seed) is int else None,
            state=status.state,
            started=start_time(folder.path.name, origin),
            cause=status.cause,
            reason=status.reason,
            ended_by=status.ended_by,
            step=max(status.step, last.get("step", 0)),
            total_steps=status.total_steps,
            tokens=int(number_of(last, "tokens")),
            seconds=max(status.seconds, number_of(last, "seconds")),
            parameters=status.parameters,
            trained_parameters=status.trained_parameters,
            evaluated_step=evaluation.get("step"),
            metrics=metrics,
            options=options,
            note=notes[-1].text if notes else text_of(options, "note") or "",
            fingerprint=text_of(origin, "fingerprint"),
            configuration=text_of(origin, "configuration"),
            code=text_of(origin, "code"),
            yardsticks=texts_of(origin.get("yardsticks")),
            data=data_of(origin.get("data")),
            starts=starts_of(origin),
            changed_at_step=origin["changed_at_step"] if type(origin.get("changed_at_step")) is int else None,
            is_imported=status.imported,
        )


FIELDS: dict[str, Callable[[IndexedRun], Any]] = {  # by the names that filters and columns have for them
    "run": lambda run: run.reference,
    "experiment": lambda run: run.experiment,
    "state": lambda run: run.state,
    "step": lambda run: run.step,
    "total_steps": lambda run: run.total_steps,
    "tokens": lambda run: run.tokens,
    "seconds": lambda run: run.seconds,
    "started": lambda run: run.started or None,
    "seed": lambda run: run.seed,
    "parameters": lambda run: run.parameters,
    "trained_parameters": lambda run: run.trained_parameters,
    "ended_by": lambda run: run.ended_by,
    "cause": lambda run: run.cause,
    "reason": lambda run: run.reason or None,
    "note": lambda run: run.note or None,
    "configuration": lambda run: run.configuration,
    "code": lambda run: run.code,
    "folder": lambda run: run.path,
}
