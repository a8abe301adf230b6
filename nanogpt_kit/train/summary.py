"""What a run reports before its first step: a summary, line by line, and the reasons for what it chose."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from nanogpt_kit.core.errors import printable
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Role
from nanogpt_kit.data.build import counted_note
from nanogpt_kit.data.proportions import Proportions
from nanogpt_kit.nn.flops import num_params, trained_params
from nanogpt_kit.nn.parameter_groups import describe_rates
from nanogpt_kit.nn.parts import transformer_blocks
from nanogpt_kit.nn.roles import role_by_parameter
from nanogpt_kit.runs.status import parameters_text
from nanogpt_kit.train.compile import CompileChoice
from nanogpt_kit.train.passes import total_windows
from nanogpt_kit.train.setup import Setup

logger = logging.getLogger(__name__)


def summarize_run(
    setup: Setup,
    folder: Path,
    model: nn.Module,
    rates: Mapping[Role, tuple[float, float]],
    step: int,
    compile_mode: str,
) -> dict[str, str]:
    """The lines of the summary by their labels; `step` is the first one, and above 0 where the run is resumed.

    `rates` are peak learning rates, which have a line where they differ.
    """
    lines = {
        "device": describe_device(setup),
        "precision": setup.placement.ctx.precision,
        "model": describe_model(setup, model),
        "data": describe_data(setup),
        **({} if setup.experiment.step_plan.has_equal_steps else {"batch": describe_batches(setup.experiment)}),
        "compile": compile_mode,
        "folder": str(folder),
    }
    if proportions := Proportions.of_data(setup.experiment, setup.data):
        lines["sources"] = proportions.described(total_windows(setup.experiment))
    if text := describe_rates(rates):
        lines["rates"] = text
    if step and setup.resumed is not None and setup.resumed.path != folder:
        lines["start"] = f"branches from {setup.resumed} at step {step:,} of {setup.experiment.total_steps:,}"
    elif step:
        lines["start"] = f"resumes at step {step:,} of {setup.experiment.total_steps:,}"
    elif setup.init_from is not None:
        checkpoint = Path(setup.init_from.checkpoint)
        lines["start"] = f"from {checkpoint.parents[1]}, step {int(checkpoint.name.removeprefix('step-')):,}"
    return {label: printable(line) for label, line in lines.items()}


def describe_device(setup: Setup) -> str:
    """The device with the threads and processes: "cpu, 2 processes of 1 thread"."""
    ctx, cores = setup.placement.ctx, setup.cores
    processes = [f"{ctx.world_size} processes"] if ctx.world_size > 1 else []
    if ctx.device == "cpu":
        count = cores.chunks * cores.threads
        threads = f"{count} thread{'s' * (count > 1)}"
        return ", ".join(["cpu", " of ".join([*processes, threads])])
    name = torch.cuda.get_device_name() if ctx.device == "cuda" else ctx.device
    return ", ".join([name, *processes])


def describe_model(setup: Setup, model: nn.Module) -> str:
    """Parameters, and layers and width where the network has blocks and an embedding."""
    experiment, blocks = setup.experiment, len(transformer_blocks(model))
    embeddings = [parameter for parameter, role in role_by_parameter(model).items() if role == "embedding"]
    size = [f"{blocks} layer{'s' * (blocks > 1)} x {embeddings[0].shape[-1]}"] if blocks and embeddings else []
    name, context = experiment.entry_of(experiment.model).name, f"context {experiment.model.block_size:,}"
    count = parameters_text(num_params(model, non_embedding=False), trained_params(model))
    return ", ".join([name, count, *size, context])


def describe_batches(experiment: Experiment) -> str:
    """Where they differ: "1 to 8 windows, cut into parts of 16 to 64 tokens; 12,288 tokens in 40 steps"."""
    plan = experiment.step_plan
    both = plan.window_counts, plan.lengths
    counts, lengths = (f"{min(n):,} to {max(n):,}" if len(n) > 1 else f"{min(n):,}" for n in both)
    unit = f"windows of {lengths} tokens" if len(plan.lengths) == 1 else f"windows, cut into parts of {lengths} tokens"
    return f"{counts} {unit}; {plan.total_tokens:,} tokens in {plan.total_steps:,} steps"


def describe_data(setup: Setup) -> str:
    """The dataset, the tokenizer, and the tokens of each split, with those that count where not all do."""
    experiment, data = setup.experiment, setup.data
    dataset = experiment.entry_of(experiment.dataset).name
    counts = ", ".join(f"{split.tokens:,} {name}{counted_note(split)}" for name, split in data.splits.items())
    return f"{dataset} as {data.manifest.tokenizer.use} tokens: {counts}"


def own_lines(summary: Mapping[str, str]) -> dict[str, str]:
    """The lines in which a run differs from another that has only another seed."""
    return {label: line for label, line in summary.items() if label in ("folder", "start")}


def log_reasons(setup: Setup, compile_choice: CompileChoice) -> None:
    """Logs why the device computes the run as it does, at the level DEBUG."""
    placement, cores = setup.placement, setup.cores
    split = f"split in {cores.chunks} parts, a thread for each" if cores.chunks > 1 else ""
    whole = f"not split among threads: {cores.unsplit_reason}" if cores.unsplit_reason else ""
    reasons = {
        "batch": split or whole,
        f"precision {placement.ctx.precision}": placement.precision_reason,
        **setup.choices(),
        f"compile {compile_choice.mode}": compile_choice.why,
    }
    for choice, reason in reasons.items():
        if reason:
            logger.debug("%s: %s", choice, reason)
