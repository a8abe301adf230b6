"""What can be said of a sweep besides its numbers: what to beware of, and which parameters mattered."""

from __future__ import annotations

import math
import statistics
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.report.page import first_characters, format_number
from nanogpt_kit.sweep.study.plan import Confirmed
from nanogpt_kit.sweep.study.summary import STATES, Row, Summary

EDGE = 0.05  # of a range: the best of a sweep that lies so near to its end may have a better one beyond
FEW = 10  # complete trials below which importances are noise
ROUGH = 50  # below which the best tenth, which importances go by, is fewer than five trials
MANY_LOST = 0.1  # share of the ended trials
TOLD = 3  # reasons of one cause
Ranges = Mapping[str, BaseDistribution]  # by the names that Optuna knows parameters by


def ranges_of(study: optuna.Study) -> dict[str, BaseDistribution]:
    found: dict[str, BaseDistribution] = {}
    for trial in study.get_trials(deepcopy=False):
        found.update(trial.distributions)
    return found


def share(value: float, one: BaseDistribution) -> float | None:
    """How far up its range a number lies, from 0 to 1, in the scale that it is drawn in. None for choices."""
    if isinstance(one, CategoricalDistribution) or one.single():
        return None
    low, high = one.low, one.high  # type: ignore[attr-defined]
    if one.log:  # type: ignore[attr-defined]
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


def sign_of(summary: Summary) -> int:
    """What to multiply a value by so that less is better."""
    return 1 if summary.options.direction == "minimize" else -1


def value_of(row: Row) -> float:
    assert row.value is not None, "only of trials that have a value"
    return row.value


def complete_of(summary: Summary) -> list[Row]:
    """The trials that were not cut short, by number."""
    return [row for row in summary.rows if row.state == "complete" and row.value is not None]


def is_pruned(row: Row) -> bool:
    """Given up since others were better; the value that it had then is of fewer tokens than theirs."""
    return row.state == "pruned" and row.cause in ("pruned", "")


def is_lost(row: Row) -> bool:
    """Ended with nothing that compares: out of memory, not finite, refused, died, failed."""
    return row.state in ("pruned", "failed") and not is_pruned(row)


def cause_words(cause: str) -> str:
    """For people."""
    return {"oom": "out of memory"}.get(cause, cause.replace("_", " "))


def outcomes(summary: Summary) -> dict[str, int]:
    """How many trials have each cause or, where there is none yet, state; the good ones first."""
    order = ("complete", "pruned", "oom", "not_finite", "refused", "died", "lost_rank", "error", *STATES[2:])
    found = Counter(row.cause or row.state for row in summary.rows)
    found["waiting"] += summary.counts()["waiting"]
    return {name: found[name] for name in dict.fromkeys((*order, *found)) if found[name]}


# What to beware of


def cautions(summary: Summary, ranges: Ranges) -> Iterator[str]:
    complete = summary.best_first()
    best = summary.best()
    if best is not None:
        yield from edges(best, complete, ranges)
    yield from losses(summary)
    if len(complete) > 1 and all(row.value == complete[0].value for row in complete):
        yield f"All {len(complete)} complete trials have the same {summary.options.metric}: none of them is the best."
    elif len(complete) > 1 and not summary.confirmed:
        yield (
            f"The best of {len(complete)} trials looks better than it is, since luck helped to choose it. Set confirm "
            "in [sweep], say to 3, and run the sweep again: it runs only the best ones, with fresh seeds."
        )
    if 0 < len(complete) < FEW:
        yield f"Only {plural(len(complete), 'trial is', 'trials are')} complete: too few to tell which values matter."
    pruned = any(is_pruned(row) for row in summary.rows)
    if summary.options.pruner != "none" and len(complete) >= FEW and not pruned:
        yield (
            f"The pruner {summary.options.pruner!r} gave up no trial. Evaluate more often, or lower min_tokens, so "
            "that it can; or do without it."
        )


def edges(best: Row, complete: list[Row], ranges: Ranges) -> Iterator[str]:
    """Where the best trial lies so near to an end of a range that the range should be wider."""
    for name, value in best.names.items():
        at = share(value, ranges[name]) if name in ranges else None
        if at is None or EDGE < at < 1 - EDGE:
            continue
        side, end = ("lower", ranges[name].low) if at <= EDGE else ("upper", ranges[name].high)  # type: ignore[attr-defined]
        has = [row for row in complete if name in row.names]
        top = has[: max(3, len(has) // 10)]
        near = [row for row in top if abs((share(row.names[name], ranges[name]) or 0.0) - round(at)) <= EDGE]
        also = f" So do {len(near)} of the best {len(top)}." if len(has) > len(top) and len(near) > 1 else ""
        yield (
            f"The best trial has {name} = {format_number(value)}, "
            f"at the {side} edge of its range ({format_number(end)}).{also} "
            "There may be better ones beyond: widen the range on that side, if the option allows it."
        )


def losses(summary: Summary) -> Iterator[str]:
    """That many trials were lost, or that some failed for no reason that lies in their values."""
    ended = [row for row in summary.rows if row.state in ("complete", "pruned", "failed")]
    lost = [row for row in ended if is_lost(row)]
    failed = [row for row in lost if row.state == "failed"]
    if not lost or (len(lost) < MANY_LOST * len(ended) and not failed):
        return
    counts = Counter(row.cause or row.state for row in lost)
    words = ", ".join(f"{count} {cause_words(cause)}" for cause, count in counts.most_common())
    reasons = Counter(row.reason for row in lost if row.reason)
    told = "; ".join(
        first_characters(reason, 160) + f" ({count}x)" * (count > 1) for reason, count in reasons.most_common(TOLD)
    )
    message = f"{len(lost)} of {len(ended)} ended trials ({len(lost) / len(ended):.0%}) gave no result: {words}."
    yield message + (f" Most often: {told}" if told else "")


def verdict(summary: Summary) -> Iterator[str]:
    """What fresh seeds say about the order that the sweep found."""
    own = {row.number: at for at, row in enumerate(summary.best_first())}
    before = sorted((one.number for one in summary.confirmed if one.number in own), key=own.__getitem__)
    after = [one.number for one in summary.confirmed]
    if not before:
        return
    if before == after:
        yield "The fresh seeds kept the order that the sweep had found."
    elif before[0] == after[0]:
        yield f"The fresh seeds kept trial {after[0]} in first place and changed the order behind it."
    else:
        place = after.index(before[0]) + 1
        yield (
            f"The fresh seeds changed the order: trial {after[0]} is the best now, and trial {before[0]}, the sweep's "
            f"own best, comes {ordinal(place)} of {len(after)}."
        )
    if len(summary.confirmed) > 1:
        yield from separation(*summary.confirmed[:2])


def separation(one: Confirmed, other: Confirmed) -> Iterator[str]:
    if min(len(one.values), len(other.values)) < 2:
        return
    gap = abs(one.mean - other.mean)
    error = math.sqrt(sum(statistics.variance(each.values) / len(each.values) for each in (one, other)))
    words = f"lie {format_number(gap, 3)} apart, with a standard error of {format_number(error, 3)}"
    end = "; these seeds do not tell the two apart" if gap <= 2 * error else ""
    yield f"The first two, trials {one.number} and {other.number}, {words}{end}."


# Which parameters mattered


@dataclass(frozen=True)
class Importances:
    """What each parameter's share in reaching the best tenth is, among some of the trials; or why none is known."""

    title: str
    trials: int
    shares: dict[str, float]
    why_none: str = ""


def importances(study: optuna.Study) -> list[Importances]:
    """Of all parameters among all complete trials, then of each branch among its own."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    found = [measured("all trials", study.direction, trials)]
    for branch in branches(trials):
        one = measured(branch_title(branch, trials), study.direction, branch)
        if len(one.shares) > 1:
            found.append(one)
    return found


def branches(trials: list[FrozenTrial]) -> Iterator[list[FrozenTrial]]:
    """The trials that have a parameter which others lack, each set of them once."""
    seen: set[tuple[int, ...]] = set()
    for name in dict.fromkeys(name for trial in trials for name in trial.params):
        mine = [trial for trial in trials if name in trial.params]
        numbers = tuple(trial.number for trial in mine)
        if FEW <= len(mine) < len(trials) and numbers not in seen:
            seen.add(numbers)
            yield mine


def branch_title(branch: list[FrozenTrial], trials: list[FrozenTrial]) -> str:
    """The choice that its trials have in common and others have not; else the names that only they have."""
    every = set(branch[0].params).intersection(*(trial.params for trial in branch))
    common = [
        f"{name} = {branch[0].params[name]}"
        for name in branch[0].params
        if name in every
        and isinstance(branch[0].distributions[name], CategoricalDistribution)
        and all(trial.params[name] == branch[0].params[name] for trial in branch)
        and any(trial.params.get(name) != branch[0].params[name] for trial in trials)
    ]
    own = [name for name in branch[0].params if name in every and any(name not in trial.params for trial in trials)]
    return ", ".join(common) or f"trials with {', '.join(own)}"


def measured(title: str, direction: optuna.study.StudyDirection, trials: list[FrozenTrial]) -> Importances:
    if len(trials) < 2:
        return Importances(title, len(trials), {}, "fewer than two trials are complete")
    if len({trial.value for trial in trials}) == 1:
        return Importances(title, len(trials), {}, "all of them have the same value")
    shared = set(trials[0].params).intersection(*(trial.params for trial in trials))
    varied = {name for trial in trials for name in trial.params if len({one.params.get(name) for one in trials}) > 1}
    wanted = [name for name in dict.fromkeys(n for t in trials for n in t.params) if name in varied]
    if title != "all trials":
        wanted = [name for name in wanted if name in shared]
    if not wanted:
        return Importances(title, len(trials), {}, "no parameter varies among them")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that what it does is experimental
        try:
            among = optuna.create_study(direction=direction)
            among.add_trials(trials)
            shares = optuna.importance.get_param_importances(among, params=wanted)
        except Exception as error:  # a report is worth more than one of its figures
            return Importances(title, len(trials), {}, str(error) or type(error).__name__)
    return Importances(title, len(trials), {name: float(one) for name, one in shares.items()})


def plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def ordinal(place: int) -> str:
    return f"{place}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(place, 'th') }"
