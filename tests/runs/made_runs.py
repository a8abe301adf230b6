"""Run folders that no training made, for the tests that find, rank and describe runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nanogpt_kit.runs.folder import RunFolder, new_run_folder
from nanogpt_kit.runs.provenance import Machine, Provenance, TrainingData

MACHINE = Machine(host="", user="", system="", python="", cores=2)


def make_run(
    experiment: str = "tiny",
    state: str = "finished",
    steps: Sequence[int] = (20,),
    total_steps: int = 20,
    evaluations: Mapping[int, Mapping[str, Any]] | None = None,
    data: tuple[str, str] | None = ("text", "tokens"),
    marks: str | None = None,
    **status: Any,
) -> RunFolder:
    """A run with checkpoints of `steps`; `data` are the fingerprint of its text and the hash of its val tokens,
    `marks` that of those of them that count."""
    run = new_run_folder(experiment, seed=7, fingerprint="print")
    for step in steps:
        run.checkpoint(step).mkdir(parents=True)
    lines = [json.dumps({"step": step, **metrics}) for step, metrics in (evaluations or {}).items()]
    run.metrics.write_text("".join(f"{line}\n" for line in lines))
    run.write_provenance(provenance(data, marks))
    run.set_status(state, step=max(steps, default=0), total_steps=total_steps, **status)
    run.experiment.write_text("")
    return run


def losses(**by_step: float) -> dict[int, dict[str, float]]:
    """`losses(s10=4.5, s20=4.25)`: the evaluations of a run."""
    return {int(step[1:]): {"val/loss": loss} for step, loss in by_step.items()}


def provenance(data: tuple[str, str] | None, marks: str | None = None) -> Provenance:
    text, tokens = data or ("", "")
    counted = {"val": marks} if marks else None
    splits = {"val": tokens}
    record = TrainingData(folder="", dataset=text, tokenizer=tokens, splits=splits, documents={}, counted=counted)
    return Provenance(
        command="",
        folder="",
        started="2026-01-02T03:04:05Z",
        seed=7,
        fingerprint="",
        configuration="",
        code="",
        components={},
        distributions={},
        machine=MACHINE,
        data=record if data else None,
    )
