"""What a list of runs shows of one run, read from its folder in well under a millisecond."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import tomli

from nanogpt_kit.runs.files import read_json
from nanogpt_kit.runs.folder import PROVENANCE, RUN_ID, STARTED, RunFolder
from nanogpt_kit.runs.metrics import is_finite_number, lines_from_the_end, parse_metrics_line
from nanogpt_kit.runs.notes import NOTES, read_notes
from nanogpt_kit.runs.status import Status
from nanogpt_kit.system.reading import read_text

FILES = ("experiment.toml", "status.json", "metrics.jsonl", PROVENANCE, NOTES)  # that a row is read from
MAX_TOML_BYTES = 5_000_000
MARKS_OF_TRAINING = b'"train/loss"'  # in a line of metrics.jsonl that is not of an evaluation
STARTS = ("init_from", "branched_from", "tokenizer_from")  # of provenance.json: what a run began with


@dataclass(frozen=True, slots=True)
class IndexedRun:
    """One run. What its folder does not have, or has damaged, is empty or None."""

    path: str
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
    is_imported: bool = False

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(self.path))

    @property
    def name(self) -> str:
        """The name of its folder."""
        return os.path.basename(self.path)

    @property
    def is_whole(self) -> bool:
        """Finished, and trained from its own beginning: neither a branch nor imported.

        A run that was extended is whole; its `total_steps` are then more than those of its `configuration`.
        """
        return self.state == "finished" and "branched_from" not in self.starts and not self.is_imported

    @classmethod
    def read(cls, path: str) -> Self:
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
            is_imported=status.imported,
        )


def read_options(path: str) -> dict[str, Any]:
    """The options of experiment.toml by dotted key; none where it cannot be read."""
    try:
        return flat_options(tomli.loads(read_text(Path(path, "experiment.toml"), MAX_TOML_BYTES)))
    except (OSError, ValueError, RecursionError):
        return {}


def flat_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"optimizer.lr": 1e-3}. A component of a list has its name in the key, as in sampler.top_k.k; its index where an
    earlier one has the same name. The list itself is that of the names."""
    return dict(flat_items(values, ""))


def flat_items(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{before}{name}"
        if isinstance(value, dict):
            yield from flat_items(value, f"{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            uses = [item.get("use", index) for index, item in enumerate(value)]
            yield key, uses
            for index, item in enumerate(value):
                part = uses[index] if uses.index(uses[index]) == index else index
                options = {name: option for name, option in item.items() if name != "use"}
                yield from flat_items(options, f"{key}.{part}.")
        else:
            yield key, value


def last_records(metrics: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(all metrics of the last step, those of the last evaluation), each with its step; empty where there is none."""
    last: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    for line in lines_from_the_end(metrics):
        is_evaluation = MARKS_OF_TRAINING not in line
        if last and not is_evaluation and not line.startswith(b'{"step": %d,' % last["step"]):
            continue
        record = parse_metrics_line(line)
        if record is None:
            continue
        last = last or {"step": record["step"]}
        if record["step"] == last["step"]:
            last = {**record, **last}
        if is_evaluation:
            if evaluation and record["step"] != evaluation["step"]:
                break
            evaluation = {**record, **evaluation}
        elif evaluation and record["step"] < last["step"]:
            break
    return last, evaluation


def metrics_of(record: Mapping[str, Any]) -> dict[str, float | None]:
    """The metrics of a record; None for NaN and infinity."""
    names = [name for name in record if "/" in name]
    return {name: float(record[name]) if is_finite_number(record[name]) else None for name in names}


def start_time(name: str, origin: Mapping[str, Any]) -> str:
    """From a run id, which has milliseconds, else from provenance.json."""
    run_id = RUN_ID.fullmatch(name)
    if run_id:
        day, clock, milliseconds = run_id[1], run_id[2], run_id[3] or "000"
        moment = f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}"
        return f"{moment}.{milliseconds}Z"
    started = text_of(origin, "started")
    return f"{started[:-1]}.000Z" if started and STARTED.fullmatch(started) else ""


def read_object(path: str, name: str) -> dict[str, Any]:
    """The JSON object of a file; empty where there is none."""
    try:
        values = read_json(Path(path, name))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def text_of(values: Mapping[str, Any], key: str) -> str | None:
    return values[key] if isinstance(values.get(key), str) else None


def texts_of(values: Any) -> dict[str, str]:
    return {key: text for key, text in values.items() if isinstance(text, str)} if isinstance(values, dict) else {}


def number_of(values: Mapping[str, Any], key: str) -> float:
    return max(0.0, values[key]) if is_finite_number(values.get(key)) else 0.0


def data_of(values: Any) -> dict[str, str]:
    texts = texts_of(values)
    kept = {key: texts[key] for key in ("dataset", "tokenizer") if key in texts}
    return {**kept, **texts_of(values.get("splits"))} if isinstance(values, dict) else {}


def starts_of(origin: Mapping[str, Any]) -> dict[str, str]:
    """The checkpoints that a run began with, as absolute paths: it may record them relative to its start folder."""
    found = {}
    for key in STARTS:
        checkpoint = texts_of(origin.get(key)).get("checkpoint")
        if checkpoint:
            found[key] = os.path.join(text_of(origin, "folder") or "", checkpoint)
    return found
