"""best.toml: the best trial as an experiment that stands by itself."""

from __future__ import annotations

import os
from typing import Any

import tomli_w

from nanogpt_kit.core.writing import write_atomically
from nanogpt_kit.sweep.space.parameters import shown
from nanogpt_kit.sweep.study.runs import copy_of, known_of
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.study.summary import Row, Summary


def write_best(study: Study, summary: Summary) -> None:
    """Into the sweep's folder. On a CPU of the same kind it gives the trial's loss again, to the bit."""
    best = summary.best()
    if best is None:
        return
    config = study.space.config(best.names)
    trial = next(one for one in study.trials() if one.number == best.number)
    threads = known_of(trial).get("threads")
    experiment = study.space.experiment(config, [("train.threads", threads)] if threads else [])
    values = experiment.resolved()
    if experiment.component_files:
        values["components"] = components(study)
    metric = study.options.metric
    lines = [f"The best of {len(summary.rows)} trials of the sweep {summary.name!r}: trial {best.number}."]
    lines += [f"{metric} {best.value:.6g}{mean_of(best)}{confirmation(summary, best)}"]
    lines += [summary.command(study.folder)]
    lines += [f"{key} = {shown(value)}" for key, value in config.items()]
    header = "".join(f"# {line}\n" for line in lines)
    write_atomically(study.folder / "best.toml", f"{header}\n{tomli_w.dumps(values)}")


def mean_of(best: Row) -> str:
    if not best.values:
        return ""
    return f", the mean of {len(best.values)} seeds; the first, which this one has, gave {best.values[0]:.6g}"


def confirmation(summary: Summary, best: Row) -> str:
    found: Any = next((one for one in summary.confirmed if one.number == best.number), None)
    return f"; with {len(found.values)} fresh seeds {found.mean:.6g} in the mean" if found else ""


def components(study: Study) -> list[str]:
    """As they were when the sweep began."""
    return [os.path.relpath(copy_of(path, study.folder), study.folder) for path in study.base.component_files]
