"""Sections about runs, which the pages of runs and of comparisons share."""

from __future__ import annotations

from collections.abc import Mapping

from nanogpt_kit.report.page import Page
from nanogpt_kit.runs.indexed_run import IndexedRun

NamedRuns = Mapping[
    str, IndexedRun
]  # by what the page calls each: "model.mlp=swiglu", "seed 1337"; see runs.index.read_run


def add_samples(page: Page, runs: NamedRuns) -> None:
    """The generated texts of each run's newest step, side by side; nothing where no run has any."""
    raise NotImplementedError


def add_provenance(page: Page, runs: NamedRuns) -> None:
    """Command, code, packages, machine, data and seeds; what all runs share once, the rest by run."""
    raise NotImplementedError


def add_differences(page: Page, runs: NamedRuns) -> None:
    """The options in which the runs differ, a column for each run, seeds left out."""
    raise NotImplementedError
