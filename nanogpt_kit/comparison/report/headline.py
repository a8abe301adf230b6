"""What the report of a comparison begins with: its verdicts, its effects, or the noise that was measured."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from nanogpt_kit.comparison.noise_text import DETECTABLE, PAIRED, effect_columns, noise_of, spread_sentences
from nanogpt_kit.comparison.numbers import count_text, joined_names
from nanogpt_kit.comparison.record import Comparison, Result
from nanogpt_kit.comparison.sentences import VERDICTS, last_sentence, ranked_results, verdict_sentence
from nanogpt_kit.comparison.text import question_lines
from nanogpt_kit.report.page import Page
from nanogpt_kit.runs.description import one_line

MAX_TITLE = 120  # characters of a label in it


def page_title(comparison: Comparison) -> str:
    labels = [shortened(one_line(arm.label)) for arm in comparison.arms]
    if comparison.kind == "noise":
        return f"Noise of {labels[0]}"
    if comparison.kind == "ablate":
        return f"Ablation of {labels[0]}"
    if len(labels) == 2:
        return f"{labels[1]} against {labels[0]}"
    return f"Comparison with {labels[0]}"


def shortened(label: str) -> str:
    return label if len(label) <= MAX_TITLE else f"{label[:MAX_TITLE].rstrip()}…"


def add_headline(page: Page, comparison: Comparison) -> None:
    if comparison.kind == "noise":
        add_noise(page, comparison)
        return
    ranked = ranked_results(comparison)
    if not ranked:
        page.lead(last_sentence(comparison))
    elif len(ranked) > 1:
        page.lead(count_sentence(ranked))
    for result in ranked:
        page.verdict(full_stop(verdict_sentence(comparison, result)), result.verdict)
    tested = [result for result in ranked if result.low is not None]
    if len(tested) > 1:
        page.note(
            f"Each interval has the level of Holm's correction for {count_text(len(tested), 'contender')}: were all "
            "equal to the base, at most 5% of such comparisons would call one of them better or worse."
        )
    for line in question_lines(comparison):
        page.lead(full_stop(line))


def full_stop(text: str) -> str:
    """A line of the console as a sentence of a page."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def count_sentence(results: Sequence[Result]) -> str:
    """Such as "Of 3 contenders, 1 is better and 2 are undecided."."""
    counts = Counter(result.verdict for result in results)
    texts = (f"{counts[one]} {'is' if counts[one] == 1 else 'are'} {one}" for one in VERDICTS if counts[one])
    return f"Of {count_text(len(results), 'contender')}, {joined_names(texts)}."


def add_noise(page: Page, comparison: Comparison) -> None:
    """The spread, and the smallest differences that numbers of seeds can detect."""
    noise = noise_of(comparison)
    for sentence in (*spread_sentences(comparison, noise), *question_lines(comparison)):
        page.lead(full_stop(re.sub("^standard", "Standard", sentence)))
    if not noise.effects:
        return
    page.section("Detectable differences")
    page.note(f"{DETECTABLE[0].upper()}{DETECTABLE[1:]}.")
    columns = effect_columns(noise)
    header, *rows = zip(*columns, strict=True)
    page.table(header, rows, numbers=range(len(columns)))
    if noise.difference_sd is None:
        page.note(f"{PAIRED[0].upper()}{PAIRED[1:]}.")
