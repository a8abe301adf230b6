"""Training of an experiment and of nanoGPT, timed in alternation."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nanogpt_kit.bench.nanogpt_checkout import Checkout, link_data, training_options
from nanogpt_kit.bench.nanogpt_comparison import (
    Comparison,
    Loader,
    Opponent,
    fill_rows,
    policies,
    start_nanogpt,
    variants,
)
from nanogpt_kit.bench.nanogpt_process import NanoGPTProcess, TrainingTask
from nanogpt_kit.bench.rounds import alternate, prepare_worker, start_workers, time_round
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.train.precision import choose_device

logger = logging.getLogger(__name__)

PLAIN = ("train.precision=fp32", "train.compile=off")


def compare_training(
    experiment: Experiment, load: Loader, checkout: Checkout, rounds: int, seconds: float
) -> Comparison:
    """Rounds of about `seconds`, in each of which every row takes steps. Raises KitError and RunFailed."""
    device = choose_device(experiment.train.device)
    with tempfile.TemporaryDirectory(prefix="nanogpt-kit-bench-") as name, ExitStack() as stack:
        if "=" in name:
            raise KitError(
                f"nanoGPT's train.py takes no path with '=': set TMPDIR to another folder than {tempfile.gettempdir()}"
            )
        opponent = Opponent.prepare(experiment, Path(name), with_weights=False)
        differences = [*opponent.differences, *training_differences(experiment, opponent.optimizer)]
        comparison = Comparison(experiment, checkout, opponent.model, differences)
        short = getattr(experiment.model, "bf16_residual", False)  # which fp32 refuses
        changes = variants(experiment, device, (*PLAIN, "model.bf16_residual=false") if short else PLAIN)
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


def training_differences(experiment: Experiment, optimizer: torch.optim.Optimizer) -> Iterator[str]:
    """What changes training alone, and not the function from tokens to logits."""
    model: Any = experiment.model  # one with nanoGPT's sizes
    plain = type(model)(n_layer=model.n_layer, n_head=model.n_head, n_embd=model.n_embd, block_size=model.block_size)
    for option in ("loss", "document_mask"):
        if getattr(model, option, None) != getattr(plain, option, None):
            yield f"nanoGPT has no such model.{option}; it trains with cross-entropy over whole windows"
    if getattr(model, "bf16_residual", False):
        yield "nanoGPT has no model.bf16_residual; its residual stream is in fp32"
    if not isinstance(optimizer, torch.optim.AdamW):
        use = experiment.entry_of(experiment.optimizer).name
        yield f"nanoGPT has no optimizer.use = {use!r}; it trains with AdamW"
