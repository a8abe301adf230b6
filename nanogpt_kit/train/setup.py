"""Prepares training, for a run and for a benchmark: checks, data, weights, and the settings of this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import nanogpt_kit
from nanogpt_kit.core.errors import KitError, dotted
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.integers import ceil_div
from nanogpt_kit.core.kinds import OrderContext, WrappedModel
from nanogpt_kit.core.machine_choices import applied
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.core.runs_to_come import runs_to_come
from nanogpt_kit.data.batches import Batches
from nanogpt_kit.data.order_of_sources import order_of_sources
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.proportions import quota_of
from nanogpt_kit.data.tokenizer_of_run import TokenizerOfRun, find_tokenizer_of_run, read_tokenizer_of_run
from nanogpt_kit.generate.prompt import check_prompt
from nanogpt_kit.nn.extra_names import extra_names
from nanogpt_kit.nn.threads import limited_threads
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.provenance import InitFrom, TokenizerFrom
from nanogpt_kit.train.before_data import check_before_data
from nanogpt_kit.train.compile import CompileChoice, Trial
from nanogpt_kit.train.compile_decision import Work
from nanogpt_kit.train.compile_record import CompileMemory
from nanogpt_kit.train.context import resolve_run_context
from nanogpt_kit.train.cores import CoreAllocation, ThreadedModel
from nanogpt_kit.train.data_record import check_same_data, record_data
from nanogpt_kit.train.determinism import restored_determinism
from nanogpt_kit.train.efficiency import Efficiency
from nanogpt_kit.train.evaluation import check_evaluators
from nanogpt_kit.train.machine import choices_before_context, choices_in_context
from nanogpt_kit.train.memory import keep_freed_memory
from nanogpt_kit.train.model_options import targets_of_parts
from nanogpt_kit.train.passes import check_passes
from nanogpt_kit.train.precision import Precision
from nanogpt_kit.train.progress import Progress
from nanogpt_kit.train.recomputation import checkpoint_activations
from nanogpt_kit.train.warm_start import WarmStart
from nanogpt_kit.train.world import World


@dataclass(frozen=True)
class Placement:
    """Where a run computes: its processes, their device and their precision."""

    world: World
    ctx: RunContext
    precision_reason: str

    @classmethod
    def choose(
        cls, stack: ExitStack, experiment: Experiment, world: World, resumed: RunFolder | None = None
    ) -> Placement:
        """The place, once the processes are connected; what depends on the machine is as `resumed` has recorded it, or
        as measured here, until `stack` is closed. Raises KitError where the experiment cannot run here."""
        stack.enter_context(applied(choices_before_context(experiment, resumed, world)))
        ctx, precision_reason = resolve_run_context(experiment, world.size)
        if ctx.device == "cuda":
            select_gpu(world)
        experiment.check_context(ctx)
        machine = choices_in_context(experiment, ctx, world)
        stack.enter_context(applied(machine))
        return cls(world, replace(ctx, machine=machine), precision_reason)


@dataclass(frozen=True)
class Setup:
    """A checked experiment and its data, in a process that is ready to train; a trainer is made from it."""

    experiment: Experiment
    placement: Placement
    data: PreparedData
    cores: CoreAllocation
    resumed: RunFolder | None = None  # the run that continues
    init_from: InitFrom | None = None  # where its first weights came from; see `WarmStart.origin`
    tokenizer_from: TokenizerFrom | None = None  # where its tokenizer came from; see `TokenizerOfRun.origin`

    def training_batches(self) -> Batches:
        """The windows of each step, this rank's part of them."""
        experiment, split, world = self.experiment, self.data.split("train"), self.placement.world
        order = OrderContext(
            n_tokens=len(split.tokens),
            block_size=experiment.model.block_size,
            first_window=0,
            batch_windows=experiment.step_plan.at(0).n_windows,
            seed=experiment.train.seed,
            documents=split.document_starts,
            tokens=split.tokens,
            has_eot=split.has_eot,
        )
        return Batches(
            split,
            order_of_sources(experiment.order, split, quota_of(experiment, self.data)),
            order,
            experiment.step_plan,
            with_segments=experiment.model.document_mask,
            rank=world.rank,
            world_size=world.size,
            pin=self.placement.ctx.device == "cuda",
            leave_out_fill=any(count % world.size for count in experiment.step_plan.window_counts)
            and extra_names(experiment.model) != frozenset(),
        )

    def parallel_model(self, model: nn.Module) -> WrappedModel:
        """The model on its device, as the processes and threads of the run compute it together."""
        ctx, train = self.placement.ctx, self.experiment.train
        model.to(ctx.device)
        if train.activation_checkpointing:
            checkpoint_activations(model)
        parallel = self.experiment.parallel.wrap(model, ctx)
        return ThreadedModel(parallel, model, self.cores.chunks) if self.cores.chunks > 1 else parallel

    def compile_model(self, trial: Trial, progress: Progress) -> CompileChoice:
        """Chooses whether to compile, the same on all ranks; the first pass compiles."""
        experiment, ctx, size = self.experiment, self.placement.ctx, progress.micro_batch_size
        work = Work.of(experiment, progress.step, runs_to_come())
        memory = CompileMemory(experiment, ctx.device, self.graph_shape(size))
        choice = CompileChoice.choose(experiment.train.compile, ctx, work, memory, self.placement.world, trial)
        if choice.mode != "off":
            micro_steps = ceil_div(self.windows_per_rank, size)
            equal_steps, options_change = experiment.step_plan.has_equal_steps, bool(targets_of_parts(experiment))
            choice = choice.apply(trial.model, ctx, micro_steps, equal_steps, options_change)
        return choice

    def graph_shape(self, micro_batch_size: int) -> list[object]:
        """All that decides which graph is compiled besides the experiment and the machine."""
        ctx, cores, autotuned = self.placement.ctx, self.cores, self.experiment.train.compile == "max-autotune"
        windows = [micro_batch_size, self.windows_per_rank, cores.chunks, cores.threads]
        return [ctx.precision, ctx.world_size, self.data.encoder.vocab_size, *windows, autotuned]

    @property
    def windows_per_rank(self) -> int:
        """The windows of the largest step on each rank; the last rank may have fewer."""
        return ceil_div(self.experiment.step_plan.most_windows, self.placement.world.size)

    def efficiency(self) -> Efficiency:
        experiment, lengths = self.experiment, self.experiment.step_plan.lengths
        return Efficiency.of(experiment.model, self.data.encoder.vocab_size, self.placement.ctx, lengths)

    def choices(self) -> dict[str, str]:
        """What components chose for this device, by their keys: {"model.attention": "backend flash"}."""
        choices = {dotted(key): part.explain_choices(self.placement.ctx) for key, part in self.experiment.parts()}
        return {key: choice for key, choice in choices.items() if choice}


def set_up(
    stack: ExitStack,
    experiment: Experiment,
    placement: Placement,
    resumed: RunFolder | None = None,
    trust_code: bool = False,
    with_weights: bool = True,
) -> tuple[Setup, Mapping[str, Tensor] | None]:
    """Checks the experiment, gathers what it needs, and sets up this process until `stack` is closed.

    Returns the weights to start from beside the setup, so that they can be freed. Raises KitError for each mistake that
    shows before training.
    """
    check_before_data(experiment, placement.ctx, resumed, is_first_rank=placement.world.rank == 0)
    start = find_warm_start(experiment, placement.world, resumed, trust_code) if with_weights else None
    if start and resumed is None:
        start.check_tokenizer_options(experiment)
    taken = find_shared_tokenizer(experiment, placement.world, resumed)
    data = prepare_checked_data(experiment, placement.world, resumed, start, taken)
    cores = stack.enter_context(machine_settings(experiment, placement.ctx, data.encoder.vocab_size))
    origins = (start.origin() if start else None, taken.origin() if taken else None)
    setup = Setup(experiment, placement, data, cores, resumed, *origins)
    return setup, start.weights if start else None


def find_warm_start(
    experiment: Experiment, world: World, resumed: RunFolder | None, trust_code: bool
) -> WarmStart | None:
    """The weights to start from. Rank 0 finds them, and may download them; other ranks read the same checkpoint."""
    start = WarmStart.find(experiment, resumed, trust_code) if world.rank == 0 else None
    checkpoint = world.broadcast(start.checkpoint if start else None)
    if checkpoint is not None and world.rank != 0:
        start = WarmStart.read(experiment, checkpoint, trust_code)
    return start


def find_shared_tokenizer(experiment: Experiment, world: World, resumed: RunFolder | None) -> TokenizerOfRun | None:
    """The tokenizer that `tokenizer.from_run` names; all ranks use the one that rank 0 finds."""
    taken = find_tokenizer_of_run(experiment, resumed, with_log=True) if world.rank == 0 else None
    path = world.broadcast(taken.path if taken else None)
    if path is not None and world.rank != 0:
        taken = read_tokenizer_of_run(experiment, path)
    return taken


def prepare_checked_data(
    experiment: Experiment,
    world: World,
    resumed: RunFolder | None,
    start: WarmStart | None,
    taken: TokenizerOfRun | None,
) -> PreparedData:
    """Prepares the data, and checks that it is the same on all ranks and fits the weights and the evaluators."""
    state = taken.state if taken else None
    data = prepare(experiment, tokenizer_state=state, verify=world.local_rank == 0)  # for all ranks of this machine
    check_prompt(experiment, data.encoder)  # a mistake there would show after the training
    check_evaluators(experiment, data.encoder)
    check_passes(experiment, data)
    if start:
        start.check_tokens(experiment, data)
    if resumed is not None:
        check_same_data(resumed, data)
    versions: dict[str, Any] = {"nanogpt-kit": nanogpt_kit.__version__, "torch": torch.__version__}
    record = record_data(data)
    tokens = {"tokens": record.splits, "documents": record.documents, "marks": record.counted}
    facts = {"the experiment": experiment.fingerprint(), **versions, **tokens, "the tokenizer": record.tokenizer}
    world.require_same(facts)
    return data


@contextmanager
def machine_settings(experiment: Experiment, ctx: RunContext, vocab_size: int) -> Iterator[CoreAllocation]:
    """While entered, torch has the settings of the run; those of the C library stay until the process ends."""
    threads = torch.get_num_threads()
    cores = CoreAllocation.choose(experiment, ctx, vocab_size)
    torch.set_num_threads(cores.threads)
    if ctx.device == "cpu":  # elsewhere what setup and checkpoints take for a moment would never be returned
        keep_freed_memory()
    try:
        precision = Precision(ctx.precision, ctx.device)
        with precision.matmul_precision(), limited_threads(cores.chunks * cores.threads), restored_determinism():
            yield cores
    finally:
        torch.set_num_threads(threads)


def select_gpu(world: World) -> None:
    """Selects a separate GPU for each process. Raises KitError where there are too few."""
    count = torch.cuda.device_count()
    if world.local_size > count:
        raise KitError(f"{world.local_size} processes were started here, but there are {count} GPUs")
    torch.cuda.set_device(world.local_rank)
