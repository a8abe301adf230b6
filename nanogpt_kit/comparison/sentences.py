"""The verdicts of a comparison as sentences."""

from __future__ import annotations

from collections.abc import Sequence

from nanogpt_kit.comparison.numbers import count_text, decimal_text, joined_names, level_text, value_decimals
from nanogpt_kit.comparison.record import Comparison, Effect, Judgement, Result, Verdict
from nanogpt_kit.runs.description import one_line

IF_THEY_STAY = "if mean and spread of the differences stay as they are"
VERDICTS: tuple[Verdict, ...] = ("better", "undecided", "worse")


def label_of(comparison: Comparison, arm: int) -> str:
    return one_line(comparison.arms[arm].label)


def ranked_results(comparison: Comparison) -> list[Result]:
    """The contenders, the best difference first; those without a difference are last."""
    sign = 1 if comparison.direction == "minimize" else -1

    def sort_key(result: Result) -> tuple[bool, float]:
        return result.difference is None, sign * (result.difference or 0.0)

    return sorted(comparison.results, key=sort_key)


def verdict_sentence(comparison: Comparison, result: Result) -> str:
    """Such as "swiglu against gelu: val/loss higher by 0.0473 (95% interval -0.0963 to 0.1910) over 3 pairs: undecided;
    16 more seeds would decide it if mean and spread of the differences stay as they are"."""
    contender, base = label_of(comparison, result.arm), label_of(comparison, 0)
    return f"{contender} against {base}: {verdict_text(result, comparison.metric, value_decimals(comparison))}"


def verdict_text(result: Judgement, metric: str, decimals: int) -> str:
    """The difference, the verdict, and what explains it."""
    remark = "; ".join(filter(None, [one_line(result.reason), more_seeds_text(result)]))
    verdict = result.verdict + (f"; {remark}" if remark else "")
    return f"{difference_text(result, metric, decimals)}: {verdict}" if result.difference is not None else verdict


def difference_text(result: Judgement, metric: str, decimals: int) -> str:
    """Such as "val/loss higher by 0.0473 (95% interval -0.0963 to 0.1910) over 3 pairs".

    What is measured is not called better or worse here: that is the verdict.
    """
    assert result.difference is not None
    size = decimal_text(abs(result.difference), decimals)
    text = f"{one_line(metric)} {'lower' if result.difference < 0 else 'higher'} by {size}"
    if not result.difference:
        text = f"no difference in {one_line(metric)}"
    if result.low is not None:
        text += f" ({level_text(result.level)} interval {interval_text(result, decimals)})"
    return f"{text} over {count_text(len(result.seeds), 'seed' if isinstance(result, Effect) else 'pair')}"


def effect_sentence(comparison: Comparison, effect: Effect) -> str:
    """Such as "model.mlp=swiglu: val/loss higher by 0.0473 (95% interval 0.0026 to 0.0920) over 3 seeds: worse"."""
    return f"{effect_name(effect)}: {verdict_text(effect, comparison.metric, value_decimals(comparison))}"


def effect_name(effect: Effect) -> str:
    """Such as "model.mlp=swiglu", "model.mlp=swiglu with model.norm=rmsnorm"."""
    levels = zip(effect.factors, effect.levels, strict=True)
    return " with ".join(one_line(f"{factor}={level}") for factor, level in levels)


def interval_text(result: Judgement, decimals: int) -> str:
    """Such as "-0.0963 to 0.1910"; empty where there is none."""
    if result.low is None or result.high is None:
        return ""
    return f"{decimal_text(result.low, decimals)} to {decimal_text(result.high, decimals)}"


def more_seeds_text(result: Judgement) -> str:
    if result.more_seeds is None:
        return ""
    return f"{count_text(result.more_seeds, 'more seed')} would decide it {IF_THEY_STAY}"


def last_sentence(comparison: Comparison) -> str:
    """The verdict in one line; of several contenders, how many have each."""
    if not comparison.results:
        return f"{label_of(comparison, 0)}: no contender, so there is no verdict"
    if len(comparison.results) == 1:
        return verdict_sentence(comparison, comparison.results[0])
    ranked = ranked_results(comparison)
    groups = [(verdict, [result for result in ranked if result.verdict == verdict]) for verdict in VERDICTS]
    texts = [group_text(comparison, verdict, results) for verdict, results in groups if results]
    return f"against {label_of(comparison, 0)}: {'; '.join(texts)}"


def group_text(comparison: Comparison, verdict: Verdict, results: Sequence[Result]) -> str:
    """Such as "1 is better (relu2 by 0.0305)", "2 are undecided (swiglu and gelu)"."""
    names = [label_of(comparison, result.arm) for result in results]
    if verdict != "undecided":
        decimals = value_decimals(comparison)
        sizes = (decimal_text(abs(result.difference or 0.0), decimals) for result in results)
        names = [f"{name} by {size}" for name, size in zip(names, sizes, strict=True)]
    return f"{len(results)} {'is' if len(results) == 1 else 'are'} {verdict} ({joined_names(names)})"


def tries_sentence(comparison: Comparison) -> str:
    """What the best of several tries owes to luck; empty for a single one."""
    if comparison.tries < 2 or comparison.luck is None:
        return ""
    luck = decimal_text(comparison.luck, value_decimals(comparison))
    tries = f"{comparison.tries:,} contenders were compared with {label_of(comparison, 0)} so far"
    return f"{tries}; were all equal to it, the best of them would look better by about {luck} by luck alone"


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
