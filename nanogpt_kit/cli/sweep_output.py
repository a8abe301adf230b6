"""What `nanogpt-kit sweep` and `sweep status` print: text, and the same as a JSON object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.core.duration import format_duration

if TYPE_CHECKING:
    from rich.console import Console

    from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary


def print_result(summary: SweepSummary) -> None:
    """What a sweep ends with, on standard error."""
    import rich
    from rich.console import Console

    from nanogpt_kit.sweep.study.summary import sweep_folder
    from nanogpt_kit.sweep.study.verdict import judge_sweep
    from nanogpt_kit.sweep.work.result_lines import result_lines

    folder = sweep_folder(summary.name)
    for line in result_lines(summary):
        print_lines(line, err=True)
    console = rich.get_console()
    print_branches(summary, console if console.stderr else Console(stderr=True))
    verdict = judge_sweep(summary)
    if verdict is not None and verdict.seeds == "search":
        print_lines(
            "the value of the best trial is optimistic, since chance helped to choose it; sweep.confirm=3 runs the "
            "best again with fresh seeds",
            err=True,
        )
    names = ("best.toml", "report.html") if summary.best() is not None else ("report.html",)
    print_lines(f"results: {', '.join(str(folder / name) for name in names)}", err=True)


def print_status(summary: SweepSummary) -> None:
    """The results of a sweep so far, on standard output."""
    import rich

    from nanogpt_kit.sweep.study.time_left import seconds_left
    from nanogpt_kit.sweep.work.result_lines import confirmation_progress, result_lines
    from nanogpt_kit.sweep.work.status_table import trials_table

    verdict, *lines = result_lines(summary)
    print_lines(verdict)
    counts = ", ".join(f"{count} {state}" for state, count in summary.counts().items() if count)
    print_lines(f"sweep {summary.name}: {summary.count} trials: {counts}")
    left = seconds_left(summary)
    about = f", about {format_duration(left)} left" if left else ""
    print_lines(f"{summary.tokens:,} tokens in {format_duration(summary.seconds)} of training{about}")
    if progress := confirmation_progress(summary):
        print_lines(progress)
    for line in lines:
        print_lines(line)
    console = rich.get_console()
    print_branches(summary, console)
    if summary.branches:
        console.print()
    widen_pipe(console)
    console.print(trials_table(summary, console.width))


def print_branches(summary: SweepSummary, console: Console) -> None:
    """The best of each branch, where the space has branches."""
    from nanogpt_kit.sweep.work.status_table import branches_table

    if summary.branches:
        widen_pipe(console)
        console.print("best of each branch:", highlight=False)
        console.print(branches_table(summary, console.width))


def widen_pipe(console: Console) -> None:
    """A pipe has no width: lines of a log are not wrapped at 80 columns."""
    if not console.is_terminal:
        console.width = 200


def status_json(summary: SweepSummary) -> dict[str, Any]:
    """What `--json` prints."""
    from nanogpt_kit.sweep.study.time_left import seconds_left
    from nanogpt_kit.sweep.study.verdict import headline, judge_sweep

    best, verdict, state = summary.best(), judge_sweep(summary), summary.confirmation
    return {
        "name": summary.name,
        "headline": headline(summary),
        "verdict": None if verdict is None else verdict.as_json(),
        "metric": summary.options.metric,
        "direction": summary.options.direction,
        "total_trials": summary.count,
        "counts": summary.counts(),
        "best": None if best is None else best.index,
        "confirmation": state
        and {"runs": state.runs, "ended": state.ended, "tokens": state.tokens, "seconds": state.seconds},
        "confirmed": [
            {
                "trial": trial.index,
                "mean": trial.mean,
                "sd": trial.sd,
                "by_seed": by_seed_json(trial.by_seed),
                "failed": list(trial.failed),
            }
            for trial in summary.confirmed
        ],
        "branches": [
            {
                "label": branch.label,
                "values": dict(branch.params),
                "trials": [trial.index for trial in summary.trials_of(branch)],
                "best": None if (of_branch := summary.best_of(branch)) is None else of_branch.index,
            }
            for branch in summary.branches
        ],
        "tokens": summary.tokens,
        "seconds": summary.seconds,
        "seconds_left": seconds_left(summary),
        "trials": [trial_json(summary, trial) for trial in summary.trials],
    }


def trial_json(summary: SweepSummary, trial: TrialSummary) -> dict[str, Any]:
    from nanogpt_kit.sweep.study.verdict import values_by_seed
    from nanogpt_kit.sweep.work.seed_text import sd_of

    return {
        "index": trial.index,
        "state": trial.state,
        "value": finite(trial.value),
        "by_seed": by_seed_json(values_by_seed(summary, trial)),
        "sd": sd_of(trial.values),
        "values": trial.config,
        "cause": trial.cause,
        "reason": trial.reason,
        "step": trial.step,
        "tokens": trial.tokens,
        "seconds": trial.seconds,
    }


def by_seed_json(values: Mapping[int, float]) -> dict[str, float | None]:
    """JSON has only texts as keys."""
    return {str(seed): finite(value) for seed, value in values.items()}


def finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if value is None or math.isfinite(value) else None
