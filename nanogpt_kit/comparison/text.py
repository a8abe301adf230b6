"""A comparison as lines for people, as JSON, and as an exit code."""

from __future__ import annotations

import string
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import Any

from nanogpt_kit.comparison.ledger import record_path
from nanogpt_kit.comparison.numbers import (
    bytes_text,
    count_text,
    decimal_text,
    joined_names,
    level_text,
    ratio_text,
    seconds_text,
    short_count,
    value_decimals,
)
from nanogpt_kit.comparison.record import Comparison, Measurement, Result
from nanogpt_kit.comparison.sentences import (
    IF_THEY_STAY,
    effect_sentence,
    interval_text,
    label_of,
    last_sentence,
    ranked_results,
    tries_sentence,
)
from nanogpt_kit.comparison.table import WIDTH, block_lines
from nanogpt_kit.core.duration import format_duration
from nanogpt_kit.core.errors import DONE, UNDECIDED, WORSE
from nanogpt_kit.runs.description import one_line

MORE_SEEDS = f"(+N): N more seeds would decide it {IF_THEY_STAY}"
EFFECTS = "effects, on average over all levels of the other factors; of two together, beyond the sum of theirs:"
LABEL_WIDTH = 17  # columns; where a label is longer, letters stand for the arms, so that tables fit a line


def comparison_lines(comparison: Comparison, width: int = WIDTH) -> list[str]:
    """The whole answer, with tables of at most `width` columns; the last line is the verdict as a sentence."""
    names = arm_names(comparison)
    sections = [
        heading_lines(comparison, names),
        seed_table(comparison, names, width),
        result_table(comparison, names, width),
        effect_lines(comparison),
        cost_table(comparison, names, width),
        remark_lines(comparison),
        [last_sentence(comparison)],
    ]
    lines = [line for section in sections if section for line in ("", *section)]
    return lines[1:]


def arm_names(comparison: Comparison) -> list[str]:
    """How tables name the arms: by their labels, or by letters where one is long or two are the same."""
    labels = [label_of(comparison, arm) for arm in range(len(comparison.arms))]
    if max(map(len, labels)) <= LABEL_WIDTH and len({*labels}) == len(labels):
        return labels
    return [letter_of(arm) for arm in range(len(labels))]


def letter_of(index: int) -> str:
    """A to Z, then A1 to Z1, and so on."""
    turn, letter = divmod(index, len(string.ascii_uppercase))
    return string.ascii_uppercase[letter] + (str(turn) if turn else "")


def heading_lines(comparison: Comparison, names: Sequence[str]) -> list[str]:
    """What is compared, and what letters stand for."""
    lines = question_lines(comparison)
    labels = [label_of(comparison, arm) for arm in range(len(names))]
    if labels != list(names):
        bases = [" (base)", *[""] * (len(names) - 1)]
        lines += [f"{name}  {label}{base}" for name, label, base in zip(names, labels, bases, strict=True)]
    return lines


def question_lines(comparison: Comparison) -> list[str]:
    """The reason to ask, and what is compared."""
    metric = f"{one_line(comparison.metric)} at the last evaluation; {better_text(comparison)}"
    return [one_line(comparison.text), metric] if comparison.text else [metric]


def better_text(comparison: Comparison) -> str:
    return f"{'lower' if comparison.direction == 'minimize' else 'higher'} is better"


def seed_table(comparison: Comparison, names: Sequence[str], width: int) -> list[str]:
    """Mean and standard deviation of each arm, and its value with each seed; of one contender the differences, too."""
    decimals = value_decimals(comparison)
    seeds = sorted({measurement.seed for measurement in comparison.measurements})
    values = [arm_values(comparison, arm) for arm in range(len(names))]
    states = {(one.arm, one.seed): state_text(one) for one in comparison.measurements}
    rows = [
        [decimal_text(number, decimals) for number in mean_and_sd(list(of_arm.values()))]
        + [decimal_text(of_arm[s], decimals) if s in of_arm else states.get((arm, s), "") for s in seeds]
        for arm, of_arm in enumerate(values)
    ]
    labels = ["seed", *names]
    if len(comparison.results) == 1:
        result = comparison.results[0]
        base, contender = values[0], values[result.arm]
        pairs = base.keys() & contender.keys() & {*result.seeds}
        paired = [contender[seed] - base[seed] if seed in pairs else None for seed in seeds]
        spread = decimal_text(result.difference_sd, decimals)
        first, *others = (decimal_text(number, decimals, sign=True) for number in (result.difference, *paired))
        rows.append([first, spread, *others])
        labels.append("difference")
    header = ["mean", "sd", *map(str, seeds)]
    return block_lines(labels, list(zip(header, *rows, strict=True)), width)


def arm_values(comparison: Comparison, arm: int) -> dict[int, float]:
    measured = (one for one in comparison.measurements if one.arm == arm and one.value is not None)
    return {one.seed: one.value for one in measured if one.value is not None}


def mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    return fmean(values) if values else None, stdev(values) if len(values) > 1 else None


def result_table(comparison: Comparison, names: Sequence[str], width: int) -> list[str]:
    """One line for each of several contenders, the best first; a single one has its sentence instead."""
    if len(comparison.results) == 1:
        result = comparison.results[0]
        return [wins_sentence(comparison, result)] if result.seeds else []
    if not comparison.results:
        return []
    ranked = ranked_results(comparison)
    decimals = value_decimals(comparison)
    columns = [
        ["difference", *(decimal_text(result.difference, decimals, sign=True) for result in ranked)],
        ["interval", *(interval_text(result, decimals) for result in ranked)],
        ["verdict", *(verdict_cell(result) for result in ranked)],
        ["level", *(level_text(result.level) if result.low is not None else "" for result in ranked)],
        ["wins", *(f"{result.wins}/{len(result.seeds)}" for result in ranked)],
    ]
    title = f"against {names[0]}" if len(names[0]) + len("against ") <= LABEL_WIDTH else ""
    lines = block_lines([title, *(names[result.arm] for result in ranked)], columns, width)
    if any(result.more_seeds is not None for result in ranked):
        lines.append(MORE_SEEDS)
    return lines + [f"{names[result.arm]}: {one_line(result.reason)}" for result in ranked if result.reason]


def wins_sentence(comparison: Comparison, result: Result) -> str:
    pairs = count_text(len(result.seeds), "pair")
    return f"{label_of(comparison, result.arm)} is better in {result.wins} of {pairs}"


def verdict_cell(result: Result) -> str:
    return result.verdict + (f" (+{result.more_seeds})" if result.more_seeds is not None else "")


def effect_lines(comparison: Comparison) -> list[str]:
    """Of a full factorial."""
    if not comparison.effects:
        return []
    return [EFFECTS, *(f"  {effect_sentence(comparison, effect)}" for effect in comparison.effects)]


def cost_table(comparison: Comparison, names: Sequence[str], width: int) -> list[str]:
    """What each arm costs, with ratios to the base."""
    columns = []
    for name, cells in cost_texts(comparison).items():
        space = max(len(ratio) for _, ratio in cells)
        columns.append([f"{name} {'':{space}}", *(f"{text} {ratio:{space}}" for text, ratio in cells)])
    return block_lines(["cost", *names], columns, width) if columns else []


def cost_texts(comparison: Comparison) -> dict[str, list[tuple[str, str]]]:
    """By name each cost of every arm, and its ratio to that of the base; a cost that no arm has is left out."""
    arms = range(len(comparison.arms))
    costs = [arm_costs([one for one in comparison.measurements if one.arm == arm]) for arm in arms]
    texts = {"tokens/s": short_count, "seconds": seconds_text, "memory": bytes_text, "parameters": short_count}
    return {
        name: [
            (text_of(cost[name]), ratio_text(cost[name], costs[0][name]) if arm else "")
            for arm, cost in enumerate(costs)
        ]
        for name, text_of in texts.items()
        if any(cost[name] is not None for cost in costs)
    }


def arm_costs(measurements: Sequence[Measurement]) -> dict[str, float | None]:
    """Of the finished runs of an arm: median speed, mean seconds, largest memory, parameters."""
    finished = [one for one in measurements if one.state == "finished"]
    speeds = [one.tokens_per_second for one in finished if one.tokens_per_second is not None]
    memory = [one.memory_bytes for one in finished if one.memory_bytes is not None]
    parameters = [one.parameters for one in finished if one.parameters is not None]
    return {
        "tokens/s": median(speeds) if speeds else None,
        "seconds": fmean(one.seconds for one in finished) if finished else None,
        "memory": max(memory, default=None),
        "parameters": max(parameters, default=None),
    }


def remark_lines(comparison: Comparison) -> list[str]:
    """Budget and time, runs without a value, notes, and what the best of many tries owes to luck."""
    failures = [failure_line(comparison, one) for one in comparison.measurements if one.value is None]
    notes = [f"note: {one_line(note)}" for note in comparison.notes]
    tries = tries_sentence(comparison)
    return [*spending_lines(comparison), *failures, *notes, *([tries] if tries else [])]


def spending_lines(comparison: Comparison) -> list[str]:
    """Budget, runs with their time, and looks."""
    lines = [f"budget of each run: {comparison.budget}"] if comparison.budget else []
    reused = sum(one.is_reused for one in comparison.measurements)
    trained = len(comparison.measurements) - reused
    counts = [f"{count_text(trained, 'run')} trained in {format_duration(comparison.seconds)}"] if trained else []
    if reused:
        counts.append(f"{count_text(reused, 'finished run')} reused ({format_duration(comparison.seconds_reused)})")
    lines += [f"runs: {joined_names(counts)}"] if counts else []
    if len(comparison.looks) > 1:
        lines.append(f"looks: {len(comparison.looks)} at this question, and each later one needs a clearer difference")
    return lines


def failure_line(comparison: Comparison, measurement: Measurement) -> str:
    """Such as "failed: swiglu with seed 1338: the loss is not finite"."""
    reason = f": {one_line(measurement.reason)}" if measurement.reason else ""
    arm = label_of(comparison, measurement.arm)
    return f"{state_text(measurement)}: {arm} with seed {measurement.seed}{reason}"


def state_text(measurement: Measurement) -> str:
    """In place of the value of a run that has none."""
    return "no value" if measurement.state == "finished" else measurement.state


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The record with the path of its file, for programs."""
    return {**comparison.model_dump(mode="json"), "path": str(record_path(comparison))}


def exit_code(comparison: Comparison) -> int:
    """DONE where a contender is better, else UNDECIDED where one is undecided, else WORSE; DONE without contenders."""
    verdicts = {result.verdict for result in comparison.results}
    if not verdicts or "better" in verdicts:
        return DONE
    return UNDECIDED if "undecided" in verdicts else WORSE
