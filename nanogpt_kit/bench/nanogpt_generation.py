"""Generating with the model of an experiment and with nanoGPT's, timed in alternation."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from nanogpt_kit.bench.generation import GenerationTiming, TimedGenerator
from nanogpt_kit.bench.nanogpt_checkout import Checkout
from nanogpt_kit.bench.nanogpt_comparison import (
    Comparison,
    Loader,
    Opponent,
    fill_rows,
    policies,
    start_nanogpt,
    variants,
)
from nanogpt_kit.bench.nanogpt_process import TEMPERATURE, TOP_K, GenerationTask, NanoGPTProcess
from nanogpt_kit.bench.rounds import alternate, start_workers
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.train.precision import choose_device

logger = logging.getLogger(__name__)

GREEDY_TOKENS = 64  # that are compared, at most
PLAIN = ("sample.precision=fp32",)


def compare_generation(
    experiment: Experiment, load: Loader, checkout: Checkout, texts: int, rounds: int, seconds: float
) -> Comparison:
    """Rounds of about `seconds`, in each of which every row generates batches of texts of sample.max_new_tokens tokens.

    The samplers are those of nanoGPT's sample.py. Raises KitError and RunFailed.
    """
    device, tokens = choose_device(experiment.train.device), experiment.sample.max_new_tokens
    with tempfile.TemporaryDirectory(prefix="nanogpt-kit-bench-") as name, ExitStack() as stack:
        opponent = Opponent.prepare(experiment, Path(name), with_weights=True)
        comparison = Comparison(experiment, checkout, opponent.model, opponent.differences)
        changes = variants(experiment, device, PLAIN)
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
