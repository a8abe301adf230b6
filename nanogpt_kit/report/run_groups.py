"""Runs grouped by configuration: those of a group differ in their seed. Which groups a metric compares."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from nanogpt_kit.report.metric_curves import TRAIN_LOSS, CurveGroup
from nanogpt_kit.report.run_options import option_text
from nanogpt_kit.report.run_results import ReportedRun
from nanogpt_kit.report.run_sections import differing_options
from nanogpt_kit.runs.indexed_run import IndexedRun
from nanogpt_kit.runs.provenance import find_yardstick
from nanogpt_kit.runs.ranking import BITS_PER_BYTE, LOSS

MAX_KEYS = 3  # options in the name of a group


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one configuration, in the order in which they were named."""

    name: str
    runs: tuple[ReportedRun, ...]

    @property
    def by_seed(self) -> dict[int | None, ReportedRun]:
        """The newest run of each seed, a finished one if there is any, in the order of the seeds."""
        ordered = sorted(self.runs, key=lambda run: (run.row.state == "finished", run.row.started))
        found = {run.row.seed: run for run in ordered}
        return dict(sorted(found.items(), key=lambda item: -1 if item[0] is None else item[0]))

    @property
    def representative(self) -> IndexedRun:
        """The first of its runs."""
        return self.runs[0].row

    def final_values(self, metric: str) -> dict[int | None, float]:
        """The metric at the last evaluation of each finished run, by seed; what is not finite is left out."""
        finished = {seed: run.last(metric) for seed, run in self.by_seed.items() if run.row.state == "finished"}
        return {seed: last[1] for seed, last in finished.items() if last and math.isfinite(last[1])}

    def curves(self, metric: str, place: int) -> CurveGroup:
        """The counted runs that have the metric; `place` is that of the group on its page."""
        found = {seed_text(seed): run.curves[metric] for seed, run in self.by_seed.items() if metric in run.curves}
        return CurveGroup(self.name, found, place)

    def has(self, metric: str) -> bool:
        return any(metric in run.curves for run in self.runs)


def seed_text(seed: int | None) -> str:
    return "no seed" if seed is None else f"seed {seed}"


def group_runs(runs: Sequence[ReportedRun]) -> list[SeedGroup]:
    """A run whose configuration is not recorded is alone in its group."""
    found: dict[str, list[ReportedRun]] = {}
    for run in runs:
        found.setdefault(run.row.configuration or run.row.path, []).append(run)
    groups = [tuple(members) for members in found.values()]
    names = group_names([members[0].row for members in groups])
    return [SeedGroup(name, members) for name, members in zip(names, groups, strict=True)]


def group_names(rows: Sequence[IndexedRun]) -> list[str]:
    """Names that differ: of the experiments, else the options that differ, else of the runs."""
    experiments = [row.experiment for row in rows]
    if len(set(experiments)) == len(rows):
        return experiments
    options = differing_options({row.path: row for row in rows})
    # The options of another component follow from it
    options = {
        key: found
        for key, found in options.items()
        if key.endswith(".use") or f"{key.rpartition('.')[0]}.use" not in options
    }
    if 0 < len(options) <= MAX_KEYS:
        keys = [key.removesuffix(".use") for key in options]
        by_row = zip(*options.values(), strict=True)
        names = [
            " ".join(f"{key}={option_text(value)}" for key, value in zip(keys, values, strict=True))
            for values in by_row
        ]
        if len(set(names)) == len(rows):
            return names
    return [row.reference for row in rows]


def mean_and_sd(values: Collection[float]) -> tuple[float | None, float | None]:
    """None for what fewer values than one, or two, do not have."""
    return statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None


# Which values compare


def comparable_sets(groups: Sequence[SeedGroup], metric: str) -> list[list[SeedGroup]]:
    """The groups that have a metric, in sets whose values compare: what measured them is the same."""
    found: dict[frozenset[str], list[SeedGroup]] = {}
    for group in groups:
        if group.has(metric):
            found.setdefault(yardsticks_of(group, metric), []).append(group)
    return list(found.values())


def yardsticks_of(group: SeedGroup, metric: str) -> frozenset[str]:
    """One for all its runs where their values compare; with more, the group compares with no other one."""
    found = {yardstick_of(run.row, metric) for run in group.runs}
    return frozenset(found if len(found) == 1 else {*found, group.name})


def yardstick_of(row: IndexedRun, metric: str) -> str:
    """A loss in nats per token depends on the tokens; speed, memory and what schedules set depend on no data."""
    if metric == TRAIN_LOSS or metric.startswith("aux/"):  # of the training text
        return row.data.get("train", row.path) + row.data.get("marks of train", "")
    if metric.startswith(("optim/", "schedule/", "perf/", "memory/")):
        return ""
    return find_yardstick(row.yardsticks, metric) or row.data.get("val") or row.path


def main_metric(groups: Sequence[SeedGroup]) -> str:
    """val/loss, unless only val/bits_per_byte compares between all groups."""
    by_bits = comparable_sets(groups, BITS_PER_BYTE)
    is_by_bits = len(comparable_sets(groups, LOSS)) != 1 and len(by_bits) == 1 and len(by_bits[0]) == len(groups)
    return BITS_PER_BYTE if is_by_bits else LOSS


def mixed_warnings(groups: Sequence[SeedGroup]) -> list[str]:
    """Groups whose runs differ by more than their seed."""
    sentences = []
    for group in groups:
        rows = [run.row for run in group.runs]
        facts: Mapping[str, set[object]] = {
            "code": {row.code for row in rows},
            "text": {row.data.get("dataset") for row in rows},
            "checkpoints that they began with": {tuple(sorted(row.starts.items())) for row in rows},
        }
        differing = [name for name, values in facts.items() if len(values) > 1]
        if differing:
            sentences.append(f"The runs of {group.name} differ by more than their seed: {', '.join(differing)}.")
        changed = [row for row in rows if row.changed_at_step is not None]
        if changed:
            was = "was" if len(changed) == 1 else "were"
            sentences.append(
                f"{len(changed)} of the runs of {group.name} {was} continued with another configuration or code."
            )
    return sentences
