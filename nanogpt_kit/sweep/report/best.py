"""best.toml: the best trial as an experiment."""

from __future__ import annotations

import os

import tomli_w

from nanogpt_kit.comparison.numbers import count_text
from nanogpt_kit.sweep.space.parameters import format_json
from nanogpt_kit.sweep.study.records import TrialResult
from nanogpt_kit.sweep.study.runs import component_copies
from nanogpt_kit.sweep.study.search import SearchPlan
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary
from nanogpt_kit.sweep.study.verdict import headline
from nanogpt_kit.system.writing import write_atomically


def write_best_experiment(study: Study[SearchPlan], summary: SweepSummary) -> None:
    """Writes best.toml into the sweep's folder. On the same type of CPU it reproduces the trial's loss bit for bit."""
    best = summary.best()
    if best is None:
        return
    config = study.plan.space.from_optuna(best.params)
    result = next(TrialResult.of(trial) for trial in study.trials() if trial.number == best.index)
    threads = result.threads if result else None
    experiment = study.plan.space.experiment(config, [("train.threads", threads)] if threads else [])
    values = experiment.resolved()
    if experiment.component_files:  # as they were when the sweep began
        copies = (component_copies(study.folder) / file.name for file in study.plan.space.base.component_files)
        values["components"] = [os.path.relpath(copy, study.folder) for copy in copies]
    by = ", by fresh seeds" if summary.is_confirmed() else ""
    lines = [
        f"The best of {len(summary.trials)} trials of the sweep {summary.name!r}{by}: trial {best.index}.",
        f"{study.options.metric} {best.value:.6g}{seeds_text(best)}{fresh_seeds_text(summary, best)}",
        headline(summary),
        summary.command(study.folder),
        *(f"{key} = {format_json(value)}" for key, value in config.items()),
    ]
    header = "".join(f"# {line}\n" for line in lines)
    write_atomically(study.folder / "best.toml", f"{header}\n{tomli_w.dumps(values)}")


def seeds_text(best: TrialSummary) -> str:
    if not best.values:
        return ""
    return f", the mean of {len(best.values)} seeds; the first one, which this file has, gave {best.values[0]:.6g}"


def fresh_seeds_text(summary: SweepSummary, best: TrialSummary) -> str:
    confirmed = next((trial for trial in summary.confirmed if trial.index == best.index), None)
    if confirmed is None:
        return ""
    spread = f", standard deviation {confirmed.sd:.2g}" if confirmed.sd is not None else ""
    return f"; mean of {count_text(len(confirmed.values), 'fresh seed')}: {confirmed.mean:.6g}{spread}"
