"""Compares an experiment with nanoGPT: each computes in a process of its own, and they take turns.

nanoGPT has two rows on a CPU: with idle threads that sleep, as those of the kit do, and with OpenMP's default, with
which they spin. The kit has a row in fp32, without compiling, and one with the settings of the experiment.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nanogpt_kit.bench.generation import GenerationTiming, TimedGenerator
from nanogpt_kit.bench.nanogpt_checkout import Checkout, link_data, model_arguments, training_options
from nanogpt_kit.bench.nanogpt_process import (
    TEMPERATURE,
    TOP_K,
    GenerationTask,
    NanoGPTProcess,
    TrainingTask,
    Waiting,
    nanogpt_process,
)
from nanogpt_kit.bench.rounds import alternate, paired_ratios, prepare_worker, start_workers, time_round
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.interop.exporting import check_exportable, exported_model, write_exported
from nanogpt_kit.interop.formats import find_format
from nanogpt_kit.nn.initial_weights import build_initialized
from nanogpt_kit.nn.optimizers import build_optimizer
from nanogpt_kit.train.precision import choose_device

logger = logging.getLogger(__name__)

FORMAT = "nanogpt"
GREEDY_TOKENS = 64  # that are compared, at most
PLAIN_TRAINING = ("train.precision=fp32", "train.compile=off")
PLAIN_GENERATION = ("sample.precision=fp32",)

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


def compare_training(
    experiment: Experiment, load: Loader, checkout: Checkout, rounds: int, seconds: float
) -> Comparison:
    """Rounds of about `seconds`, in each of which every row takes steps. Raises KitError and RunFailed."""
    device = choose_device(experiment.train.device)
    with tempfile.TemporaryDirectory(prefix="nanogpt-kit-bench-") as name, ExitStack() as stack:
        opponent = Opponent.prepare(experiment, Path(name), with_weights=False)
        differences = list(opponent.differences)
        if not isinstance(opponent.optimizer, torch.optim.AdamW):
            use = experiment.entry_of(experiment.optimizer).name
            differences.append(f"nanoGPT has no optimizer.use = {use!r}; it trains with AdamW")
        comparison = Comparison(experiment, checkout, opponent.model, differences)
        changes = variants(experiment, device, PLAIN_TRAINING)
        workers = start_workers(stack, len(changes))
        timers, settings = [], []
        for worker, change in zip(workers, changes, strict=True):
            logger.info("preparing %s", " ".join(["nanogpt-kit", *change]))
            timing = worker.submit(prepare_worker, partial(load, change), seconds).result()
            timers.append(partial(time_round, worker, timing))
            compiled = "not compiled" if timing.facts["compile"] == "off" else "compiled"
            settings.append(f"{timing.facts['precision']}, {compiled}")
            micro_batch_size = timing.facts["micro_batch_size"]
        options = training_options(experiment, opponent.model, device, micro_batch_size, opponent.optimizer)
        options |= link_data(opponent.data, Path(name))
        tasks = [
            TrainingTask(checkout.folder, waiting, experiment.train.threads, options) for waiting in policies(device)
        ]
        processes = start_nanogpt(stack, tasks)

        def tokens_per_second(process: NanoGPTProcess) -> float:
            steps, spent = process.turn(seconds)
            return float(steps * experiment.train.batch_tokens / spent)

        all_timers = [*(partial(tokens_per_second, process) for process in processes), *timers]
        fill_rows(comparison, tasks, settings, alternate(all_timers, rounds))
    return comparison


def compare_generation(
    experiment: Experiment, load: Loader, checkout: Checkout, texts: int, rounds: int, seconds: float
) -> Comparison:
    """As `compare_training`, of batches of texts of sample.max_new_tokens tokens, with the samplers of sample.py."""
    device, tokens = choose_device(experiment.train.device), experiment.sample.max_new_tokens
    with tempfile.TemporaryDirectory(prefix="nanogpt-kit-bench-") as name, ExitStack() as stack:
        opponent = Opponent.prepare(experiment, Path(name), with_weights=True)
        comparison = Comparison(experiment, checkout, opponent.model, opponent.differences)
        changes = variants(experiment, device, PLAIN_GENERATION)
        workers = start_workers(stack, len(changes))
        settings = []
        for worker, change in zip(workers, changes, strict=True):
            logger.info("preparing %s", " ".join(["nanogpt-kit", *change]))
            settings.append(worker.submit(prepare_generation, partial(load, change), device, texts).result())
        generation = opponent.model, opponent.checkpoint, device, texts, tokens
        tasks = [GenerationTask(checkout.folder, waiting, None, *generation) for waiting in policies(device)]
        processes = start_nanogpt(stack, tasks)

        def tokens_per_second(process: NanoGPTProcess) -> float:
            generated, spent = process.turn(seconds)
            return float(generated * tokens / spent)

        timers = [partial(tokens_per_second, process) for process in processes]
        timers += [partial(time_generating, worker, seconds) for worker in workers]
        fill_rows(comparison, tasks, settings, alternate(timers, rounds))
        comparison.timing = workers[-1].submit(generation_timing, comparison.rows[-1].rates).result()
        count = min(GREEDY_TOKENS, tokens, experiment.model.block_size - 1)
        if opponent.checkpoint is not None and count:
            theirs = processes[0].turn(("greedy", count))
            ours = workers[0].submit(greedy_tokens, count).result()
            comparison.greedy_tokens = count
            differing = (index for index, (one, other) in enumerate(zip(theirs, ours, strict=True)) if one != other)
            comparison.equal_greedy_tokens = next(differing, count)
    return comparison


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
        process.receive()
        processes.append(process)
    return processes


def fill_rows(comparison: Comparison, tasks: Any, settings: Sequence[str], rates: list[list[float]]) -> None:
    names = [("nanoGPT", task.waiting) for task in tasks] + [("nanogpt-kit", setting) for setting in settings]
    comparison.rows = [Row(*name, measured) for name, measured in zip(names, rates, strict=True)]


_generator: TimedGenerator | None = None  # in a worker process


def prepare_generation(load: Callable[[], Experiment], device: str, texts: int) -> str:
    """The precision."""
    global _generator
    experiment = load()
    samplers = [{"use": "temperature", "value": TEMPERATURE}, {"use": "top_k", "k": TOP_K}]
    _generator = TimedGenerator(experiment, prepare(experiment).encoder, device, texts, samplers)
    return _generator.precision


def timed_generator() -> TimedGenerator:
    assert _generator is not None, "prepare_generation() comes first"
    return _generator


def time_generating(worker: ProcessPoolExecutor, seconds: float) -> float:
    return worker.submit(generate_round, seconds).result()


def generate_round(seconds: float) -> float:
    return timed_generator().time_round(seconds)


def generation_timing(rates: list[float]) -> GenerationTiming:
    return timed_generator().timing(rates)


def greedy_tokens(count: int) -> list[int]:
    return timed_generator().greedy_tokens(count)
