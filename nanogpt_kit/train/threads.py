"""How many cores a run should take: on small steps threads wait for each other longer than they compute."""

from __future__ import annotations

import os

import torch

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.blank import on_meta
from nanogpt_kit.nn.flops import num_params

# Of one core, roughly: a large product reaches 87 (fp32) and 335 (bf16) on an AMD EPYC with AVX512-BF16 (measured).
CORE_FLOPS = {"fp32": 60e9, "bf16": 200e9, "fp16": 60e9}
WORTH_A_THREAD = 0.02  # seconds of a micro-step: at 18 ms (4 layers, 128 wide, bf16) a second core only cost (measured)


def threads(experiment: Experiment, ctx: RunContext, vocab_size: int) -> int:
    """As the experiment says, or OMP_NUM_THREADS; else as many as a forward and backward pass keeps busy."""
    most = torch.get_num_threads()
    if experiment.train.threads:
        return experiment.train.threads
    if "OMP_NUM_THREADS" in os.environ or ctx.device != "cpu":
        return most
    module = on_meta(experiment.model, vocab_size)
    if module is None:
        return most
    share = -(-experiment.batch_windows // ctx.world_size)
    wanted = experiment.train.micro_batch_size
    windows = min(wanted, share) if isinstance(wanted, int) else share
    flops = 6 * num_params(module) * windows * ctx.block_size
    return max(1, min(most, int(flops / CORE_FLOPS[ctx.precision] / WORTH_A_THREAD)))
