"""How the features of a model depend on its width: slopes, and their verdict.

Source: Yang et al. 2022, "Tensor Programs V", arXiv:2203.03466, section 5 and appendix D.1 (coordinate checking): the
change of features since initialization should not depend on the width, and features should not grow with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

LOGITS = "logits"
MAY_SHRINK = (LOGITS,)  # by design of muP: their random part falls as the root of the width; `loss` shows the other one
TOLERANCE = 0.1  # of a slope, beyond which features depend on the width

Verdict = Literal["even", "may shrink", "grows", "shrinks", "constant", "not finite"]


@dataclass
class Trajectory:
    """Of one training: at each place, mean magnitudes before the first step and after each step."""

    sizes: dict[str, list[float]] = field(default_factory=dict)
    changes: dict[str, list[float]] = field(default_factory=dict)  # since before the first step; the first is 0
    diverged: str = ""  # why it is not whole, or not finite

    def append(self, place: str, size: float, change: float) -> None:
        if math.isnan(change) and not self.diverged:
            self.diverged = f"features at {place} are not finite after step {len(self.sizes.get(place, []))}"
        self.sizes.setdefault(place, []).append(size)
        self.changes.setdefault(place, []).append(change)


@dataclass(frozen=True)
class PlaceScaling:
    """The features at one place: mean magnitudes by width, then by step; geometric means over seeds.

    NaN where a training has diverged.
    """

    name: str
    widths: tuple[int, ...]
    sizes: tuple[tuple[float, ...], ...]
    changes: tuple[tuple[float, ...], ...]

    @property
    def start_slope(self) -> float | None:
        """Of the size before the first step."""
        return log_slope(self.widths, [sizes[0] for sizes in self.sizes])

    @property
    def change_slopes(self) -> tuple[float | None, ...]:
        """Of the change after each step."""
        steps = zip(*self.changes, strict=True)
        return tuple(log_slope(self.widths, changes) for changes in steps)[1:]

    @property
    def change_slope(self) -> float | None:
        """Of the change after the last step."""
        return self.change_slopes[-1]

    @property
    def excess(self) -> float:
        """The magnitude of the slope that is furthest from what is allowed; infinite where there is no slope."""
        start, change = self.start_slope or 0.0, self.change_slope
        if change is None or math.isnan(start) or math.isnan(change):
            return math.inf
        return max(start, change if self.name in MAY_SHRINK else abs(change))

    @property
    def verdict(self) -> Verdict:
        if self.change_slope is None:
            return "constant"
        if self.excess == math.inf:
            return "not finite"
        if self.excess <= TOLERANCE:
            return "even" if self.change_slope >= -TOLERANCE else "may shrink"
        return "shrinks" if self.excess == -self.change_slope else "grows"


@dataclass(frozen=True)
class WidthScaling:
    """What trainings at several widths have shown."""

    name: str  # of the experiment
    n_embd: int  # its own width
    widths: tuple[int, ...]
    seeds: int  # of the largest width; others have more
    steps: int
    warmup_steps: int
    learning_rate: float | None  # the peak, in the options of the optimizer; None where it has no such option
    batch_tokens: int
    has_base_width: bool  # whether the init adapts to the width
    places: tuple[PlaceScaling, ...]
    diverged: dict[int, str]  # by width, why a training is not whole, or not finite

    @property
    def uneven(self) -> tuple[str, ...]:
        """The places that fail."""
        return tuple(place.name for place in self.places if place.verdict not in ("even", "may shrink"))

    @property
    def is_within(self) -> bool:
        """Whether all slopes that are judged are within the tolerance."""
        return not self.uneven

    @property
    def worst(self) -> PlaceScaling:
        return max(self.places, key=lambda place: place.excess)


def summarize_place(
    name: str, widths: tuple[int, ...], trained: Sequence[Sequence[Trajectory]], steps: int
) -> PlaceScaling:
    """The means of `trained`, which has a trajectory for each width and seed."""

    def means(kind: Literal["sizes", "changes"]) -> tuple[tuple[float, ...], ...]:
        by_width = []
        for trajectories in trained:
            curves = [padded_with_nan(getattr(one, kind).get(name, []), steps + 1) for one in trajectories]
            by_width.append(tuple(geometric_mean(values) for values in zip(*curves, strict=True)))
        return tuple(by_width)

    return PlaceScaling(name, widths, means("sizes"), means("changes"))


def padded_with_nan(values: Sequence[float], length: int) -> list[float]:
    return [*values, *[math.nan] * (length - len(values))]


def geometric_mean(values: Iterable[float]) -> float:
    """0 where one is 0."""
    each = list(values)
    if any(math.isnan(value) for value in each):
        return math.nan
    return 0.0 if 0 in each else math.exp(math.fsum(map(math.log, each)) / len(each))


def log_slope(widths: Sequence[int], sizes: Sequence[float]) -> float | None:
    """The least-squares slope of log(size) over log(width): 0.5 where sizes grow as the root of the width.

    None where all sizes are 0, as those of layers that begin at 0; NaN where some are, or are not finite.
    """
    if not any(sizes):
        return None
    if not all(0 < size < math.inf for size in sizes):
        return math.nan
    xs, ys = [math.log(width) for width in widths], [math.log(size) for size in sizes]
    x_mean, y_mean = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    products = math.fsum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return products / math.fsum((x - x_mean) ** 2 for x in xs)


def headline_of(scaling: WidthScaling) -> str:
    """The result in one sentence; where the check fails, with its meaning and what to do."""
    span, worst = f"from width {scaling.widths[0]} to {scaling.widths[-1]}", scaling.worst
    if scaling.diverged:
        width, reason = next(iter(scaling.diverged.items()))
        return f"training failed at width {width}: {reason}"
    if scaling.is_within:
        apart = ", logits apart," if any(place.verdict == "may shrink" for place in scaling.places) else ""
        return (
            f"training changes features alike {span}: the largest slope{apart} is {worst.excess:.2f}, that of "
            f"{worst.name}, and up to {TOLERANCE:g} counts as even"
        )
    if scaling.has_base_width:
        remedy = f"the init adapts to the width, so look at the part behind the first of them, {scaling.uneven[0]}"
    else:
        remedy = f"`init.use=mup init.base_width={scaling.n_embd}` adapts weights and learning rates to the width"
    return (
        f"features depend on the width in {len(scaling.uneven)} of {len(scaling.places)} places: {span}, "
        f"{description_of(worst)}, so a learning rate that is right at one width may be wrong at another; {remedy}"
    )


def description_of(place: PlaceScaling) -> str:
    if place.verdict == "constant":
        return f"{place.name} is not changed by training"
    if place.verdict == "not finite":
        return f"{place.name} is 0 or not finite at some widths"
    return (
        f"{place.name} {place.verdict} with slope {-place.excess if place.verdict == 'shrinks' else place.excess:+.2f}"
    )


def conditions_of(scaling: WidthScaling) -> str:
    """How the models were trained, in one line."""
    rate = "the learning rate" if scaling.learning_rate is None else f"optimizer.lr = {scaling.learning_rate:g}"
    steps = f"step {scaling.steps}" if scaling.steps == 1 else f"steps 1 to {scaling.steps}"
    return (
        f"{steps} of a linear warmup of {scaling.warmup_steps} to {rate}, {scaling.batch_tokens:,} tokens a step, "
        f"fp32, means of {scaling.seeds} seed{'s' * (scaling.seeds > 1)} or more"
    )
