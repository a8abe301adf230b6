"""The page of `mup-check`: features and their change over the width of the model, by place."""

from __future__ import annotations

import math
import time

from nanogpt_kit.bench.width_slopes import TOLERANCE, WidthScaling, conditions_of, headline_of
from nanogpt_kit.report.page import NO_FIGURES, Page, has_figures, utc_time

CHANGE = (
    "The mean magnitude, over tokens and features, of what training has changed after the last step. Both axes are "
    "logarithmic. Where lines are level, one learning rate fits all widths; where a line rises, wide models change too "
    "fast, and where it falls, too slowly. Places that differ only in their layer have one colour."
)
SLOPES = (
    f"The slopes of those lines after each step. In the grey band, ±{TOLERANCE:g}, they count as even; the last step "
    "is judged. Logits may fall, since the random part of their change cancels in wide models; the loss shows the rest."
)
START = "The mean magnitude of the features themselves before the first step. Lines may fall, but not rise."


def width_page(scaling: WidthScaling, command: str) -> Page:
    """`command` repeats the check."""
    page = Page(f"Widths of {scaling.name}")
    sentence = headline_of(scaling)
    if scaling.is_within:
        page.lead(f"Even: {sentence}.")
    else:
        page.warning(f"{sentence[0].upper()}{sentence[1:]}.")
    page.note(f"{conditions_of(scaling).capitalize()}. Written {utc_time(time.time())}.")
    if has_figures():
        from nanogpt_kit.report.width_figures import draw_changes, draw_slopes, draw_start

        page.block("Change by training", CHANGE, draw_changes(scaling))
        page.block("Slopes by step", SLOPES, draw_slopes(scaling))
        page.block("Before the first step", START, draw_start(scaling))
    else:
        page.note(NO_FIGURES)
    page.section("Places")
    page.note(
        "The change after the last step at each width, its slope, the slope of the features before the first step, "
        "and the verdict."
    )
    page.table(
        ["place", *(f"{width}" for width in scaling.widths), "slope", "at start", "verdict"],
        [
            [
                place.name,
                *(rounded_change(changes[-1]) for changes in place.changes),
                rounded_slope(place.change_slope),
                rounded_slope(place.start_slope),
                place.verdict,
            ]
            for place in scaling.places
        ],
    )
    for width, reason in scaling.diverged.items():
        page.note(f"Width {width}: {reason}.")
    page.section("Command")
    page.command(command)
    return page


def rounded_change(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None


def rounded_slope(slope: float | None) -> float | None:
    return None if slope is None or not math.isfinite(slope) else round(slope, 2)
