"""The cells of a comparison: a run of a configuration with a seed, whichever arms have that configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.core.code_identity import code_identity
from nanogpt_kit.core.options import digest
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train.warm_start import start_identity

Key = tuple[str, int]  # configuration and seed


@dataclass(frozen=True)
class Cell:
    """A run that a comparison needs. Two of one identity and seed have the same result."""

    arm: Arm  # the first that has it
    configuration: str
    code: str
    dataset: str  # fingerprint of its text
    seed: int
    start: str = ""  # what it takes of other runs, see `start_identity`

    @property
    def key(self) -> Key:
        return self.configuration, self.seed

    @property
    def identity(self) -> str:
        """A hash of all that decides the result besides the seed."""
        return digest([self.configuration, self.code, self.dataset, self.start])

    @property
    def copies(self) -> str:
        """The folder of the copies of its components."""
        return self.configuration[:12]


def named_runs(arm: Arm) -> dict[int, RunFolder]:
    """By seed, the runs of an arm that the user named; of several with one seed the last."""
    return {seed: run for run in arm.runs if (seed := run.seed()) is not None}


def required_cells(question: Question, seeds: Sequence[int]) -> Iterator[Cell]:
    """The runs that no named run replaces, seed by seed: what is ended early has whole pairs.

    Arms of one configuration share their cells. The fingerprint of a dataset may take as long as reading its text.
    """
    arms = [(arm, arm.configuration, named_runs(arm)) for arm in question.arms]
    identities: dict[str, tuple[str, str, str]] = {}
    fingerprints: dict[str, str] = {}
    seen: set[tuple[str, int]] = set()
    for seed in dict.fromkeys(seeds):
        for arm, configuration, runs in arms:
            if seed in runs or (configuration, seed) in seen:
                continue
            seen.add((configuration, seed))
            if configuration not in identities:
                identities[configuration] = identify(arm, fingerprints)
            code, dataset, start = identities[configuration]
            yield Cell(arm, configuration, code, dataset, seed, start)


def identify(arm: Arm, fingerprints: dict[str, str]) -> tuple[str, str, str]:
    """The code, the text and the start of an arm; `fingerprints` keeps those of datasets that are known."""
    experiment = arm.experiment
    options: Mapping[str, object] = experiment.resolved()["dataset"]
    key = digest([options, experiment.entry_of(experiment.dataset).identity])
    if key not in fingerprints:
        fingerprints[key] = experiment.dataset.fingerprint()
    return code_identity(experiment), fingerprints[key], start_identity(experiment)
