"""Curves of runs: metrics over tokens, read from metrics.jsonl of any length, and drawn with a band over seeds."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanogpt_kit.report.page import Figure


@dataclass
class MetricCurve:
    """The finite values of a metric in one run, in the order of the steps; the sequences have equal lengths."""

    steps: Sequence[int] = field(default_factory=lambda: array("q"))
    tokens: Sequence[float] = field(default_factory=lambda: array("d"))  # trained until then; the step if not logged
    values: Sequence[float] = field(default_factory=lambda: array("d"))
    lost: int = 0  # values that were not finite

    @property
    def points(self) -> tuple[Sequence[float], Sequence[float]]:
        """(tokens, values), as `report.curves` takes them."""
        return self.tokens, self.values


@dataclass(frozen=True)
class CurveGroup:
    """Runs of one configuration, which differ in their seed: one mean, one band, and a faint line for each run."""

    name: str  # in the legend, which adds the number of runs
    curves: Mapping[str, MetricCurve]  # by what hovering shows of a run, as "seed 1337"
    color: str = ""  # default: by the place among the groups


def read_curves(path: Path, names: Collection[str] | None = None) -> dict[str, MetricCurve]:
    """The metrics of metrics.jsonl by name (default: all). Damaged lines and an incomplete last one are passed over."""
    raise NotImplementedError


def draw_curves(groups: Sequence[CurveGroup], metric: str, height: int = 360) -> Figure:
    """One line with a band for each group, over tokens. Needs plotly."""
    raise NotImplementedError


Origin = Mapping[str, Any]
