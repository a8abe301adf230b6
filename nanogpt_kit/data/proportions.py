"""How the training windows are distributed among the sources of a dataset, and how often a run passes over each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.quota import QuotaSequence, whole_weights


def quota_of(experiment: Experiment, data: PreparedData) -> QuotaSequence | None:
    """The sources of the training windows; None where the dataset is one source."""
    proportions = Proportions.of_data(experiment, data)
    return proportions.quota if proportions else None


@dataclass(frozen=True)
class Proportions:
    """The sources in the order of their tokens, and how many of the windows of a run each has."""

    windows: Mapping[str, int]  # that the train split of each source has: one pass over it
    quota: QuotaSequence

    @classmethod
    def of(cls, experiment: Experiment, tokens: Mapping[str, int]) -> Self:
        """Given the number of training tokens of each source, by name and in order."""
        windows = {name: max(0, count - 1) // experiment.model.block_size for name, count in tokens.items()}
        proportions = experiment.dataset.proportions(windows)
        return cls(windows, QuotaSequence(whole_weights([proportions[name] for name in windows])))

    @classmethod
    def of_data(cls, experiment: Experiment, data: PreparedData) -> Self | None:
        """None where the dataset is one source."""
        sources = data.sources_of("train")
        return cls.of(experiment, {source.name: source.n_tokens for source in sources}) if sources else None

    @classmethod
    def without_data(cls, experiment: Experiment) -> dict[str, float] | None:
        """The fraction of each source, where the options alone decide it; None where its size does, too."""
        names = list(experiment.dataset.sources)
        sizes = [dict.fromkeys(names, 1), dict(zip(names, range(1, len(names) + 1), strict=True))]
        found = []
        for windows in sizes:
            proportions = experiment.dataset.proportions(windows)
            found.append({name: float(proportions[name] / sum(proportions.values())) for name in names})
        return found[0] if found[0] == found[1] else None

    @property
    def fractions(self) -> dict[str, float]:
        """The fraction of each source in the windows."""
        return {name: weight / self.quota.period for name, weight in zip(self.windows, self.quota.weights, strict=True)}

    def taken(self, n_windows: int) -> dict[str, int]:
        """At most how many of the first `n_windows` windows of a run come from each source; see `most_windows`."""
        return {name: self.quota.most_windows(index, n_windows) for index, name in enumerate(self.windows)}

    def passes(self, n_windows: int) -> dict[str, float]:
        """How often these windows pass over each source."""
        return {name: count / max(1, self.windows[name]) for name, count in self.taken(n_windows).items()}

    def described(self, n_windows: int) -> str:
        """ "75% code in 1.2 passes, 25% notes in 0.4 passes"."""
        parts = zip(self.fractions.items(), self.passes(n_windows).values(), strict=True)
        return ", ".join(f"{100 * fraction:.4g}% {name} in {passes:.3g} passes" for (name, fraction), passes in parts)
