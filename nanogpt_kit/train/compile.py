"""Compiles the model where that saves time; a run continues uncompiled where it fails.

Modules are compiled in place, so that checkpoints and callbacks see the same names. Evaluation, sampling and
diagnostics run the model uncompiled. Source: Ansel et al. 2024, "PyTorch 2" (ASPLOS), torch.compile.
"""

from __future__ import annotations

import logging
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from nanogpt_kit.checkpoint.rng import isolated_rng
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.compiler import compiler_obstacle
from nanogpt_kit.nn.flops import published_peak_flops
from nanogpt_kit.nn.hashed_dropout import HashedDropout
from nanogpt_kit.nn.parts import transformer_blocks
from nanogpt_kit.nn.training_pass import with_repeatable_calls
from nanogpt_kit.train.world import World

logger = logging.getLogger(__name__)

# Compiled backward passes compute again in another order, so they take the keys from the forward pass
KEEP_DROPOUT_KEYS = partial(create_selective_checkpoint_contexts, [torch.ops.nanogpt_kit.dropout_keys.default])
COMPILED_BY_US: weakref.WeakSet[nn.Module] = weakref.WeakSet()

# The cost and gain of compiling, for train.compile = "auto"; measured on two cores of an AMD EPYC.
COST_SECONDS = 60.0  # with empty caches: 29 s for 4 blocks, 48 for 6, 81 for 12; not measured on GPUs
MIN_GAIN = 3  # times the cost: less is not worth it
GPU_GAIN = 0.4  # fraction of a step's time: 250 -> 135 ms for GPT-2 124M on A100s (nanoGPT's README)
CPU_GAIN = {"bf16": 0.1}  # 0.21 at 128 wide, 0.09 at 384, 0.11 for GPT-2 124M; in fp32 within the noise
CPU_FLOPS = 100e9  # FLOP/s of one core in bf16; half of what two reached at 384 wide
GPU_UTILIZATION = 0.25  # fraction of a GPU's peak that the loop reaches uncompiled: a guess, not measured
UNKNOWN_PEAK = 100e12  # FLOP/s of a GPU that is not in the table


@dataclass(frozen=True)
class CompileChoice:
    """Whether and how the model of a run is compiled."""

    mode: str  # off, default, max-autotune
    why: str

    @classmethod
    def choose(cls, experiment: Experiment, ctx: RunContext, parameters: int, cores: int) -> CompileChoice:
        """The mode that `train.compile` means for a model of this size on this device, and why."""
        setting = experiment.train.compile
        if setting == "off":
            return cls("off", "set by the experiment")
        missing = compiler_obstacle(ctx.device)
        if missing:
            return cls("off", missing)
        if setting != "auto":
            return cls(setting, "set by the experiment")
        seconds, gain = estimate_gain(experiment, ctx, parameters, cores)
        if not gain:
            return cls("off", f"no gain is expected for this model in {ctx.precision} on {ctx.device}")
        saved = f"would save about {gain * seconds:,.0f} of {seconds:,.0f} s, and compiling takes about"
        why = f"{saved} {COST_SECONDS:.0f} s"
        return cls("default" if gain * seconds > MIN_GAIN * COST_SECONDS else "off", why)

    def agree(self, world: World, setting: str) -> CompileChoice:
        """The choice for all ranks: none compiles where one cannot, since their collectives would not match."""
        choices: list[CompileChoice] = world.all_gather(self)
        choice = next((choice for choice in choices if choice.mode == "off"), choices[0])
        if choice.mode == "off" and setting not in ("off", "auto") and world.rank == 0:
            logger.warning("the run continues uncompiled: %s", choice.why)
        return choice

    def apply(
        self, model: nn.Module, ctx: RunContext, micro_steps: int, equal_steps: bool, options_change: bool
    ) -> None:
        """Makes the first call of the model compile it. With several processes each block is compiled separately, so
        that they can synchronize between blocks.

        Where steps are not equal, it is compiled for batches of any size. `options_change`: schedules set options of
        its parts.
        """
        from torch._inductor import list_mode_options  # and with it the compiler, which other runs never import

        mode = self.mode
        if mode == "max-autotune" and (micro_steps > 1 or ctx.world_size > 1 or not equal_steps):
            mode += "-no-cudagraphs"  # a graph that is replayed would overwrite the gradients it has given before
        options = list_mode_options(mode)
        if ctx.device == "cpu" and sys.platform == "linux":  # where it was measured
            options["cpp_wrapper"] = True  # kernels are called from C++, too: threads do not wait for Python's lock
        if options_change:  # else every window is compiled for, up to a limit beyond which nothing is compiled
            torch._dynamo.config.allow_unspec_int_on_nn_module = True
        for module in [model] if ctx.world_size == 1 else transformer_blocks(model) or [model]:
            dynamic = True if not equal_steps else None if options_change else False
            module.compile(options=options, dynamic=dynamic)
            COMPILED_BY_US.add(module)

    def warm_up(
        self, model: nn.Module, one_pass: Callable[[], None], world: World, device: str, seed: int
    ) -> CompileChoice:
        """Compiles now, by a forward and backward pass, so that no step pays for it.

        Where that fails on one rank, the modules of all ranks are uncompiled again, and the result says why.
        """
        logger.info("compiling the model")
        began, failure = time.perf_counter(), ""
        try:
            with isolated_rng(seed):
                for _ in range(3 if device == "cuda" else 1):  # CUDA graphs are recorded at the second
                    one_pass()
        except Exception as error:  # of the compiler, of C++, or of a part that it cannot read
            failure = str(error).strip().partition("\n")[0] or repr(error)
        first = next(filter(None, world.all_gather(failure)), None)
        if first is None:
            logger.info("compiled in %.0f s", time.perf_counter() - began)
            return self
        for module in model.modules():
            if module in COMPILED_BY_US:
                module._compiled_call_impl = None  # which nn.Module.compile has set
        if world.rank == 0:
            logger.warning("compiling failed, and the run continues uncompiled: %s", first)
        return CompileChoice("off", f"compiling failed: {first}")


def estimate_gain(experiment: Experiment, ctx: RunContext, parameters: int, cores: int) -> tuple[float, float]:
    """A rough estimate: (seconds that the run takes uncompiled, fraction of them that compiling saves)."""
    flops = 6.0 * parameters * experiment.total_tokens / ctx.world_size
    if ctx.device == "cuda":
        peak = published_peak_flops(torch.cuda.get_device_name()) or UNKNOWN_PEAK
        seconds, gain = flops / (GPU_UTILIZATION * peak), GPU_GAIN
    elif ctx.device == "cpu":
        seconds = flops / (CPU_FLOPS * cores)
        gain = CPU_GAIN.get(ctx.precision, 0.0)
    else:
        seconds, gain = 0.0, 0.0
    return min(seconds, experiment.train.max_seconds or seconds), gain


@contextmanager
def eager_mode(model: nn.Module) -> Iterator[None]:
    """While entered, modules that the run has compiled run uncompiled: other shapes and modes compile nothing.

    Modules that a component compiles by itself stay compiled.
    """
    compiled = {module: module._compiled_call_impl for module in model.modules() if module in COMPILED_BY_US}
    for module in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call


def checkpoint_activations(model: nn.Module) -> None:
    """Makes each block keep only its input, and compute the other activations again in the backward pass.

    Source: Chen et al. 2016, arXiv:1604.06174.
    """
    for block in transformer_blocks(model):
        drops = any(isinstance(part, HashedDropout) and part.p for part in block.modules())
        block.forward = with_recomputation(block.forward, drops)


def with_recomputation(forward: Callable[..., Any], drops: bool = False) -> Callable[..., Any]:
    """`drops`: it calls HashedDropouts."""

    def in_training(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if not drops:
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        if torch.compiler.is_compiling():
            return checkpoint(forward, *args, use_reentrant=False, context_fn=KEEP_DROPOUT_KEYS, **kwargs)
        return checkpoint(with_repeatable_calls(forward), *args, use_reentrant=False, **kwargs)

    in_training.recomputes = True  # type: ignore[attr-defined]  # read by decoding, which needs no gradients
    return in_training
