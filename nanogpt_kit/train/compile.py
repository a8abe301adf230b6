"""Compiling the model: when it pays, and what is done where it fails.

The modules are compiled in place, so that checkpoints and callbacks see the same names; what is evaluated, sampled from
or looked at runs as it is written. Source: Ansel et al. 2024, "PyTorch 2" (ASPLOS), torch.compile.
"""

from __future__ import annotations

import logging
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nanogpt_kit.checkpoint.rng import own_rng
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.compiler import compiler_obstacle
from nanogpt_kit.nn.flops import published_peak_flops
from nanogpt_kit.nn.parts import transformer_blocks
from nanogpt_kit.train.world import World

if TYPE_CHECKING:
    from nanogpt_kit.train.trainer import Trainer

logger = logging.getLogger(__name__)

OURS: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # what runs have compiled

# What compiling costs and gives, to be weighed where nothing was said; measured on two cores of an AMD EPYC.
COST_SECONDS = 60.0  # with empty caches: 29 s for 4 blocks, 48 for 6, 81 for 12; not measured on GPUs
WORTH = 3  # times its cost is what it should win back
GPU_GAIN = 0.4  # of the time of a step: 250 -> 135 ms for GPT-2 124M on A100s (nanoGPT's README)
CPU_GAIN = {"bf16": 0.1}  # 0.21 at 128 wide, 0.09 at 384, 0.11 of GPT-2 124M; in fp32 within the noise
CPU_FLOPS = 100e9  # of one core in bf16; half of what two reached at 384 wide
GPU_SHARE = 0.25  # of a GPU's peak that the loop reaches uncompiled: a guess, not measured
UNKNOWN_PEAK = 100e12  # FLOP/s of a GPU that is not in the table


@dataclass(frozen=True)
class Compile:
    mode: str  # off, default, max-autotune
    why: str

    @classmethod
    def choose(cls, experiment: Experiment, ctx: RunContext, parameters: int, cores: int) -> Compile:
        """What train.compile means for a model of so many parameters on a device and its cores, and why."""
        setting = experiment.train.compile
        if setting == "off":
            return cls("off", "as the experiment says")
        missing = compiler_obstacle(ctx.device)
        if missing:
            return cls("off", missing)
        if setting != "auto":
            return cls(setting, "as the experiment says")
        seconds, gain = weigh(experiment, ctx, parameters, cores)
        if not gain:
            return cls("off", f"it gains nothing for such a model in {ctx.precision} on {ctx.device}")
        won = f"about {gain * seconds:,.0f} s of {seconds:,.0f} s are won for {COST_SECONDS:.0f} s of compiling"
        return cls("default" if gain * seconds > WORTH * COST_SECONDS else "off", won)

    def agreed(self, world: World, setting: str) -> Compile:
        """What all ranks do: none compiles where one cannot, for they would talk of different things."""
        told: list[Compile] = world.all_gather(self)
        choice = next((choice for choice in told if choice.mode == "off"), told[0])
        if choice.mode == "off" and setting not in ("off", "auto") and world.rank == 0:
            logger.warning("the run goes on uncompiled: %s", choice.why)
        return choice

    def apply(self, model: nn.Module, ctx: RunContext, micro_steps: int) -> None:
        """Compiles at the first call. Several processes compile each block, so that they can talk in between."""
        from torch._inductor import list_mode_options  # and with it the compiler, which other runs never import

        mode = self.mode
        if mode == "max-autotune" and (micro_steps > 1 or ctx.world_size > 1):
            mode += "-no-cudagraphs"  # a graph that is replayed would overwrite the gradients it has given before
        options = list_mode_options(mode)
        if ctx.device == "cpu" and sys.platform == "linux":  # where it was measured
            options["cpp_wrapper"] = True  # what calls the kernels is C++, too: shares need not take turns for Python
        for module in [model] if ctx.world_size == 1 else transformer_blocks(model) or [model]:
            module.compile(options=options, dynamic=False)
            OURS.add(module)


def weigh(experiment: Experiment, ctx: RunContext, parameters: int, cores: int) -> tuple[float, float]:
    """Roughly: (seconds that the run takes uncompiled, share of them that compiling wins)."""
    flops = 6.0 * parameters * experiment.train.batch_tokens * experiment.total_steps / ctx.world_size
    if ctx.device == "cuda":
        peak = published_peak_flops(torch.cuda.get_device_name()) or UNKNOWN_PEAK
        seconds, gain = flops / (GPU_SHARE * peak), GPU_GAIN
    elif ctx.device == "cpu":
        seconds = flops / (CPU_FLOPS * cores)
        gain = CPU_GAIN.get(ctx.precision, 0.0)
    else:
        seconds, gain = 0.0, 0.0
    return min(seconds, experiment.train.max_seconds or seconds), gain


def warm_up(run: Trainer) -> str | None:
    """Compiles now, on the first batch, so that no step pays for it. Returns why it failed, and then nothing is."""
    logger.info("compiling the model (%s)", run.compile.why)
    began, failed = time.perf_counter(), ""
    batch = run.batches.at(run.step)
    try:
        with own_rng(run.experiment.train.seed):
            for _ in range(3 if run.precision.device == "cuda" else 1):  # CUDA graphs are recorded at the second
                run.accumulate(batch)
                run.optimizer.zero_grad(set_to_none=True)
    except Exception as error:  # of the compiler, of C++, or of a part that it cannot read
        failed = str(error).strip().partition("\n")[0] or repr(error)
        run.optimizer.zero_grad(set_to_none=True)
    told = next(filter(None, run.world.all_gather(failed)), None)
    if told is None:
        logger.info("compiled in %.0f s", time.perf_counter() - began)
        return None
    for module in run.model.modules():
        if module in OURS:
            module._compiled_call_impl = None  # what nn.Module.compile has set
    if run.rank == 0:
        logger.warning("compiling failed, and the run goes on uncompiled: %s", told)
    return f"compiling failed: {told}"


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """While entered, what the run has compiled goes as it was written: other shapes and modes compile nothing anew.

    What a component compiles by itself stays as it is.
    """
    compiled = {module: module._compiled_call_impl for module in model.modules() if module in OURS}
    for module in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call


def checkpoint_activations(model: nn.Module) -> None:
    """Lets each block keep its input only, and compute the rest again in the backward pass.

    Source: Chen et al. 2016, arXiv:1604.06174.
    """
    for block in transformer_blocks(model):
        block.forward = recomputed(block.forward)


def recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def in_training(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    in_training.recomputes = True  # type: ignore[attr-defined]  # decoding does without
    return in_training
