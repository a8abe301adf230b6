"""Compares an experiment with nanoGPT: each computes in a separate process, and they take turns.

nanoGPT has two rows on a CPU: with idle threads that sleep, as those of the kit do, and with OpenMP's default, with
which they spin. The kit has a row in fp32, without compiling, and one with the settings of the experiment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nanogpt_kit.bench.generation import GenerationTiming
from nanogpt_kit.bench.nanogpt_checkout import Checkout, model_arguments
from nanogpt_kit.bench.nanogpt_process import (
    GenerationTask,
    NanoGPTProcess,
    TrainingTask,
    Waiting,
    nanogpt_process,
)
from nanogpt_kit.bench.rounds import paired_ratios
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.interop.exporting import check_exportable, exported_model, write_exported
from nanogpt_kit.interop.formats import find_format
from nanogpt_kit.nn.initial_weights import build_initialized
from nanogpt_kit.nn.optimizers import build_optimizer

logger = logging.getLogger(__name__)

FORMAT = "nanogpt"

Loader = Callable[[Sequence[str]], Experiment]  # of an experiment with further overrides


@dataclass(frozen=True)
class Row:
    """What one of the programs reached."""

    program: str  # nanoGPT, nanogpt-kit
    settings: str  # those in which the rows of a program differ
    rates: list[float]  # tokens/s, by round


@dataclass
class Comparison:
    """All rows of an experiment beside nanoGPT."""

    experiment: Experiment
    checkout: Checkout
    model: dict[str, Any]  # arguments of nanoGPT's model
    differences: list[str]  # parts of the experiment that nanoGPT lacks; it has its own there
    rows: list[Row] = field(default_factory=list)
    timing: GenerationTiming | None = None  # of the last row, when generating
    equal_greedy_tokens: int | None = None  # how many are equal from the first on, in fp32; None: not comparable
    greedy_tokens: int = 0  # that were compared

    @property
    def theirs(self) -> list[Row]:
        return [row for row in self.rows if row.program == "nanoGPT"]

    @property
    def ours(self) -> list[Row]:
        return [row for row in self.rows if row.program != "nanoGPT"]

    def ratios(self, row: Row) -> list[list[float]]:
        """Those of a row of the kit to each row of nanoGPT, by round."""
        return [paired_ratios(row.rates, other.rates) for other in self.theirs]


@dataclass(frozen=True)
class Opponent:
    """What both programs are given."""

    data: PreparedData
    model: dict[str, Any]
    optimizer: torch.optim.Optimizer
    differences: list[str]
    checkpoint: Path | None  # with the weights that the kit draws; None where they were not written

    @classmethod
    def prepare(cls, experiment: Experiment, folder: Path, with_weights: bool) -> Opponent:
        """Prepares data, and may write weights to `folder`. Raises KitError where nanoGPT lacks such sizes."""
        data = prepare(experiment)
        model = model_arguments(experiment, data.encoder.vocab_size)
        torch.manual_seed(experiment.train.seed)
        module, shapes = build_initialized(experiment, data.encoder.vocab_size)
        exported, chosen = exported_model(experiment, module.eval(), data.encoder), find_format(FORMAT)
        checkpoint, differences = None, list[str]()
        try:
            check_exportable(exported, chosen)
            if with_weights:
                with silent_format():
                    write_exported(exported, chosen, folder / "weights")
                checkpoint = folder / "weights" / "ckpt.pt"
        except KitError as error:
            differences = [fault.message for fault in error.faults]
        optimizer = build_optimizer(experiment, module, shapes)
        return cls(data, model, optimizer, differences, checkpoint)


@contextmanager
def silent_format() -> Iterator[None]:
    """While entered, formats do not say what to do with the files that they write."""
    components = logging.getLogger("nanogpt_kit.components")
    before = components.level
    components.setLevel(logging.ERROR)
    try:
        yield
    finally:
        components.setLevel(before)


def variants(experiment: Experiment, device: str, plain: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Overrides for each row of the kit; on a GPU one alone, since all models are in its memory at once."""
    changed = experiment.with_(*plain)
    is_plain = (changed.train, changed.sample) == (experiment.train, experiment.sample)
    return [()] if is_plain or device != "cpu" else [plain, ()]


def policies(device: str) -> tuple[Waiting, ...]:
    return ("asleep", "default") if device == "cpu" else ("default",)


def start_nanogpt(stack: ExitStack, tasks: Sequence[TrainingTask] | Sequence[GenerationTask]) -> list[NanoGPTProcess]:
    """One process after the other, each ready for its first turn."""
    processes = []
    for task in tasks:
        logger.info("preparing nanoGPT, its idle threads %s", task.waiting)
        process = stack.enter_context(nanogpt_process(task))
        process.wait_until_ready()
        processes.append(process)
    return processes


def fill_rows(comparison: Comparison, tasks: Any, settings: Sequence[str], rates: list[list[float]]) -> None:
    names = [("nanoGPT", task.waiting) for task in tasks] + [("nanogpt-kit", setting) for setting in settings]
    comparison.rows = [Row(*name, measured) for name, measured in zip(names, rates, strict=True)]
