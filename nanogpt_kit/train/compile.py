"""Compiles the model where that saves time; a run continues uncompiled where it fails.

Modules are compiled in place, so that checkpoints and callbacks see the same names. Evaluation, sampling and
diagnostics run the model uncompiled. Source: Ansel et al. 2024, "PyTorch 2" (ASPLOS), torch.compile.
"""

from __future__ import annotations

import logging
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from nanogpt_kit.checkpoint.rng import isolated_rng
from nanogpt_kit.core.machine_choices import MachineChoices
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.compiler import compiler_obstacle
from nanogpt_kit.nn.flops import num_params
from nanogpt_kit.nn.parts import transformer_blocks
from nanogpt_kit.system.garbage_collection import without_garbage_collection
from nanogpt_kit.train.compile_decision import Decision, Seconds, Work, decide, estimated_gain
from nanogpt_kit.train.compile_record import CompileMemory, use_compiled_folder
from nanogpt_kit.train.determinism import add_in_one_order
from nanogpt_kit.train.vector_instructions import all_instructions_work
from nanogpt_kit.train.world import World

logger = logging.getLogger(__name__)

COMPILED_BY_US: weakref.WeakSet[nn.Module] = weakref.WeakSet()

MODES = ("off", "default")  # that "auto" may mean
MIN_PASSES = 50  # left to this run and those that follow: with fewer, none is timed, and nothing is compiled
MOST_PASSES, PASSES_SECONDS = 5, 0.3  # that are timed: the fastest counts, since other work only adds to a pass


@dataclass(frozen=True)
class CompileChoice:
    """Whether and how the model of a run is compiled."""

    mode: str  # off, default, max-autotune
    why: str
    task: str = ""  # under which the run records the mode, where "auto" chose it
    memory: CompileMemory | None = None  # what is known of its graph
    eager: float | None = None  # seconds of a step's passes uncompiled, where they were timed now
    import_seconds: float = 0.0  # of the compiler, a part of what compiling costs

    @classmethod
    def choose(
        cls,
        setting: str,
        ctx: RunContext,
        work: Work,
        memory: CompileMemory,
        world: World,
        trial: Trial,
    ) -> CompileChoice:
        """The mode that `train.compile` means for this model and the work that is left, the same on all ranks.

        What the run has recorded holds, so that it continues with the same bits. None compiles where one rank cannot,
        since their collectives would not match.
        """
        if setting == "off":
            return cls("off", "set by the experiment")
        recorded = MachineChoices.current().choices.get(memory.task) if setting == "auto" else None
        obstacle = next(filter(None, world.all_gather(compiler_obstacle(ctx.device))), None)
        if obstacle:
            if (recorded or setting) not in ("off", "auto") and world.rank == 0:
                logger.warning("the run continues uncompiled: %s", obstacle)
            return cls("off", obstacle, memory.task if setting == "auto" and not recorded else "").noted()
        if setting != "auto":
            return cls(setting, "set by the experiment", memory=memory)
        if recorded in MODES:
            return cls(recorded, "as recorded by the run", memory.task, memory).noted()
        chosen = cls.of_measurements(ctx, work, memory, world, trial)
        return chosen if chosen.mode != "off" else replace(chosen, task=memory.task).noted()

    def noted(self) -> CompileChoice:
        """Makes the mode a choice that the run records, where "auto" chose it."""
        if self.task:
            MachineChoices.current().used[self.task] = self.mode
        return self

    @classmethod
    def of_measurements(
        cls, ctx: RunContext, work: Work, memory: CompileMemory, world: World, trial: Trial
    ) -> CompileChoice:
        """Times a few passes where compiling may pay, unless that is known, and decides."""
        work, known = world.broadcast((work, memory.read()))
        blocks = transformer_blocks(trial.model)
        gain = estimated_gain(ctx.device, ctx.precision, num_params(blocks[0]) if blocks else 0)
        if not gain and known.compiled is None:
            return cls("off", f"no gain is expected for this model in {ctx.precision} on {ctx.device}")
        if work.passes * (1 + work.runs_to_come) < MIN_PASSES:
            return cls("off", "the run is too short to gain from it")

        def decision(eager: float) -> Decision:
            return decide(work, known, eager, gain, len(blocks))

        # A time that was disturbed is too long, so that compiling seems to pay
        eager = known.eager
        is_known = eager is not None and (known.is_confirmed or not decision(eager).compiles)
        if eager is None or not is_known:
            eager = trial.seconds(world, lambda seconds: decision(seconds).compiles)
        chosen = decision(eager)
        if not chosen.compiles and not known.is_warm and world.rank == 0:
            # Those of the runs that follow, too: they do as this one has recorded, and count nothing
            passes = work.passes_within(eager) * (1 + work.runs_to_come)
            memory.write(replace(known, eager=eager, passes=known.passes + passes))
        mode = "default" if chosen.compiles else "off"
        return cls(mode, chosen.why, memory.task, memory, None if is_known else eager)

    def apply(
        self, model: nn.Module, ctx: RunContext, micro_steps: int, equal_steps: bool, options_change: bool
    ) -> CompileChoice:
        """Makes the first call of the model compile it; the choice with what that took. With several processes each
        block is compiled separately, so that they can synchronize between blocks.

        Where steps are not equal, it is compiled for batches of any size. `options_change`: schedules set options of
        its parts.
        """
        began = time.perf_counter()
        use_compiled_folder()
        with without_garbage_collection():
            # And with it the compiler, which other runs never import; the first pass would import the other module
            from torch._inductor import compile_fx, list_mode_options  # noqa: F401

        mode = self.mode
        if mode == "max-autotune" and (micro_steps > 1 or ctx.world_size > 1 or not equal_steps):
            mode += "-no-cudagraphs"  # a graph that is replayed would overwrite the gradients it has given before
        options = list_mode_options(mode)
        if ctx.device == "cpu" and sys.platform == "linux":  # where it was measured
            options["cpp_wrapper"] = True  # kernels are called from C++, too: threads do not wait for Python's lock
            if all_instructions_work():
                options["cpp.vec_isa_ok"] = True
        if ctx.device == "cpu":
            add_in_one_order()
        if options_change:  # else every window is compiled for, up to a limit beyond which nothing is compiled
            torch._dynamo.config.allow_unspec_int_on_nn_module = True
        for module in [model] if ctx.world_size == 1 else transformer_blocks(model) or [model]:
            dynamic = True if not equal_steps else None if options_change else False
            module.compile(options=options, dynamic=dynamic)
            COMPILED_BY_US.add(module)
        return replace(self, import_seconds=time.perf_counter() - began)

    def warm_up(self, trial: Trial, world: World) -> CompileChoice:
        """Compiles now, by a forward and backward pass, so that no step pays for it; and remembers what it took.

        Where that fails on one rank, or is not faster as "auto" expected, the modules of all ranks are uncompiled
        again, and the result says why.
        """
        logger.info("compiling the model")
        with self.turn(world) as waited:
            before = cache_misses()
            began, failure = time.perf_counter(), ""
            try:
                with without_garbage_collection():
                    trial.compile()
            except Exception as error:  # of the compiler, of C++, or of a part that it cannot read
                failure = str(error).strip().partition("\n")[0] or repr(error)
            seconds = self.import_seconds + time.perf_counter() - began
            if world.rank == 0 and not failure:  # before another run of the graph may begin to compile
                if cache_misses() != before:
                    self.remember({"cold": seconds})
                elif not waited:  # else the compiler was imported while the other run compiled
                    self.remember({"warm": min(seconds, self.known_seconds().warm or seconds)})
        first = next(filter(None, world.all_gather(failure)), None)
        if first is not None:
            if world.rank == 0:
                logger.warning("compiling failed, and the run continues uncompiled: %s", first)
                self.remember({"passes": 0})  # so that not every run tries
            return self.withdrawn(trial.model, f"compiling failed: {first}")
        logger.info("compiled in %.0f s", seconds)
        if self.eager is None:
            return self.noted()
        eager, compiled = self.eager, trial.seconds(world)
        if compiled >= eager:
            with eager_mode(trial.model):  # again, since other load may have come since it was timed
                eager = trial.seconds(world)
        if world.rank == 0:
            self.remember({"eager": eager, "compiled": compiled})
        if compiled >= eager:
            return self.withdrawn(trial.model, f"compiled, its passes take {compiled:.3f} s and {eager:.3f} without")
        return self.noted()

    @contextmanager
    def turn(self, world: World) -> Iterator[bool]:
        """While entered, no other run of this machine compiles the same graph for the first time. Yields whether this
        one has waited for another."""
        is_cold = world.rank == 0 and self.memory is not None and not self.memory.read().is_warm
        waits = is_cold and self.memory is not None and self.memory.is_locked()
        if waits:
            logger.info("waiting for another run, which compiles the same model")
        with self.memory.lock() if is_cold and self.memory is not None else nullcontext():
            world.broadcast(None)  # the other ranks wait here
            yield waits

    def remember(self, now: Mapping[str, float]) -> None:
        """Adds what was measured now to what is known of the graph."""
        if self.memory is not None:
            self.memory.write(replace(self.known_seconds(), **now))

    def known_seconds(self) -> Seconds:
        """What is known of the graph."""
        return self.memory.read() if self.memory is not None else Seconds()

    def withdrawn(self, model: nn.Module, why: str) -> CompileChoice:
        """Off, for this reason: uncompiles the modules."""
        for module in model.modules():
            if module in COMPILED_BY_US:
                module._compiled_call_impl = None  # which nn.Module.compile has set
        return CompileChoice("off", why, self.task).noted()


@dataclass(frozen=True)
class Trial:
    """Passes over the batches of a step that change nothing: neither weights, nor buffers, nor random numbers."""

    model: nn.Module
    one_pass: Callable[[], None]
    device: str
    seed: int
    local_pass: Callable[[], None] | None = None  # that reduces no gradients over the ranks; None: `one_pass`

    def compile(self) -> None:
        """The first passes. Where they fail on one rank, no other waits for it in a reduction of gradients."""
        with isolated_rng(self.seed), unchanged_buffers(self.model):
            for _ in range(3 if self.device == "cuda" else 1):  # CUDA graphs are recorded at the second
                (self.local_pass or self.one_pass)()

    def seconds(self, world: World, matters: Callable[[float], bool] = lambda _: True) -> float:
        """Seconds of the fastest of a few passes; of the first one where that does not matter."""
        times: list[float] = []
        with isolated_rng(self.seed), unchanged_buffers(self.model):
            while len(times) < MOST_PASSES and (len(times) < 2 or sum(times) < PASSES_SECONDS):
                began = time.perf_counter()
                self.one_pass()
                if self.device == "cuda":
                    torch.cuda.synchronize()
                times.append(world.of_first_rank(time.perf_counter() - began))  # so that all make equally many
                if not matters(times[0]):
                    break
        return min(times)


@contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Restores buffers that a forward pass changes, such as the averages of a batch norm."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def cache_misses() -> int:
    """Graphs that torch's compiler has compiled so far because its cache did not have them."""
    counters: Any = sys.modules.get("torch._dynamo.utils")
    counted = counters.counters["inductor"] if counters else {}
    return sum(int(counted.get(f"fxgraph_cache_{event}", 0)) for event in ("miss", "bypass"))


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
