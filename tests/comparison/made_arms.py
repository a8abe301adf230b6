"""Arms of the experiment `tiny`, and runs of them that no training made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanogpt_kit.comparison.measurement import measure_run
from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.comparison.record import Measurement
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder, runs_root
from nanogpt_kit.runs.provenance import Machine, Provenance, TrainingData

MACHINE = Machine(host="desk", user="", system="", python="3.12", cores=2, precision="fp32", threads=1, processes=1)
DATA = TrainingData(
    folder="", dataset="text", tokenizer="bytes", splits={"train": "train-ids", "val": "val-ids"}, documents={}
)
YARDSTICKS = {"": "others", "val/loss": "nats", "val/bits_per_byte": "bits"}


def make_question(tiny: Path, *changes: str | Sequence[str], **question: Any) -> Question:
    """The question about `tiny` and its changed copies; one change, or several, is an override of each contender."""
    arms = [Arm("tiny", Experiment.load(tiny))]
    for change in changes:
        overrides = [change] if isinstance(change, str) else list(change)
        arms.append(Arm(" ".join(overrides), Experiment.load(tiny, overrides)))
    return Question(**{"kind": "compare", "arms": tuple(arms), **question})


def make_arm_run(
    arm: Arm,
    seed: int,
    evaluations: Mapping[int, Mapping[str, float | None]],
    status: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    **origin: Any,
) -> RunFolder:
    """A run of an arm with metrics at some steps; `status` and `origin` are fields of Status and Provenance."""
    experiment = arm.experiment.with_({"train.seed": seed})
    name = f"{arm.configuration[:6]}-s{seed}"
    run = RunFolder(folder or runs_root() / experiment.name / name)
    run.path.mkdir(parents=True)
    lines = []
    for step, metrics in evaluations.items():
        common = {"step": step, "tokens": step * experiment.train.batch_tokens, "seconds": step / 10}
        speed = {"perf/tokens_per_second": 900.0 + step, "memory/peak_bytes": 2**20 * (100 + step)}
        lines += [{**common, "train/loss": 9.5, **speed}, {**common, **metrics}]
    run.metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    run.write_provenance(provenance_of(experiment, **origin))
    last = max(evaluations, default=0)
    known = {"state": "finished", "ended_by": "steps", "step": last, "total_steps": experiment.total_steps}
    run.set_status(**{**known, "seconds": last / 10, "parameters": 3000, **(status or {})})
    run.experiment.write_text(experiment.to_toml())
    return run


def provenance_of(experiment: Experiment, **origin: Any) -> Provenance:
    known: dict[str, Any] = {
        "command": "",
        "folder": "",
        "started": f"2026-01-02T03:04:{experiment.train.seed % 60:02}Z",
        "seed": experiment.train.seed,
        "fingerprint": "",
        "configuration": experiment.configuration(),
        "code": "code",
        "yardsticks": YARDSTICKS,
        "components": {"model": "nanogpt-kit/gpt"},
        "distributions": {"nanogpt-kit": "0.3", "torch": "2.12"},
        "machine": MACHINE,
        "data": DATA,
    }
    return Provenance(**known | origin)


def measure_arms(
    question: Question, values: Sequence[Mapping[int, float | None]], again: bool = False, **run: Any
) -> list[Measurement]:
    """Makes a run of 20 steps of each arm with each seed and its loss, and measures it. None: the run failed.

    `again`: the runs have folders of their own, since others of these arms exist.
    """
    found = []
    number = len(list(runs_root().glob("*/*"))) if again else 0
    for index, (arm, of_arm) in enumerate(zip(question.arms, values, strict=True)):
        for seed, value in of_arm.items():
            failure = {"state": "failed", "ended_by": "fault", "cause": "not_finite", "reason": "the loss is nan"}
            made = make_arm_run(
                arm,
                seed,
                {20: {"val/loss": value, "val/bits_per_byte": value}},
                failure if value is None else None,
                runs_root() / "again" / f"{number}-{index}-{seed}" if again else None,
                **run,
            )
            found.append(measure_run(made, question.metric, index))
    return found
