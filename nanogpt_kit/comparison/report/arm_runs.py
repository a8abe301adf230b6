"""The runs of a recorded comparison that are still there, and why others are not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpt_kit.comparison.record import Comparison, Measurement
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.folder import RunFolder

OTHER_MACHINES = "other-machines"  # folder of copies of the records of runs whose other files are on another machine


@dataclass(frozen=True)
class ArmRun:
    """A measured run; its folder is None where `problem` says that it is missing."""

    measurement: Measurement
    folder: RunFolder | None
    problem: str = ""
    is_elsewhere: bool = False  # on another machine: its records are here, its metrics are not


def find_arm_runs(comparison: Comparison, folder: Path) -> list[ArmRun]:
    """Each measured run, in the order of the record; `folder` is the comparison's, which may have been moved."""
    return [find_arm_run(comparison, one, folder) for one in comparison.measurements]


def find_arm_run(comparison: Comparison, measurement: Measurement, folder: Path) -> ArmRun:
    there = [path for path in possible_paths(comparison, measurement, folder) if os.path.isdir(path)]
    if not there:
        return ArmRun(measurement, None, "no such folder: it was removed or moved")
    run = RunFolder(there[0])
    try:
        origin = run.provenance()
    except KitError as error:
        return ArmRun(measurement, None, one_line(str(error)))
    if (origin.configuration, origin.seed) != (comparison.arms[measurement.arm].configuration, measurement.seed):
        return ArmRun(measurement, None, "another run is in its place")
    if OTHER_MACHINES in run.path.parts:
        return ArmRun(measurement, run, "on another machine; its records are copied here", is_elsewhere=True)
    return ArmRun(measurement, run)


def possible_paths(comparison: Comparison, measurement: Measurement, folder: Path) -> Iterator[Path]:
    """Where it would be if the comparison, or the folder that the runs folder is in, had been moved; and the path as
    it was recorded, which is relative to the folder that the command was given in."""
    recorded = Path(measurement.run)
    parts = recorded.parts
    if comparison.id in parts:
        yield folder.joinpath(*parts[parts.index(comparison.id) + 1 :])
    if not recorded.is_absolute() and len(folder.absolute().parents) > 3:
        yield folder.absolute().parents[3] / recorded
    yield recorded


def missing_sentence(found: Sequence[ArmRun]) -> str:
    """What the report lacks, in one sentence; empty where every run is there."""
    missing = [one for one in found if one.folder is None]
    elsewhere = [one for one in found if one.is_elsewhere]
    if not missing and not elsewhere:
        return ""
    texts = []
    if missing:
        texts.append(f"{len(missing):,} of {len(found):,} runs {'is' if len(missing) == 1 else 'are'} not found")
    if elsewhere:
        texts.append(f"{len(elsewhere):,} {'is' if len(elsewhere) == 1 else 'are'} on another machine")
    return (
        f"{' and '.join(texts)}: {'its' if len(missing) + len(elsewhere) == 1 else 'their'} curves and samples are not "
        "in this report. Verdicts and values are those of the record."
    )
