"""The training loop, top to bottom.

A step is one optimizer update, a micro-step one forward and backward pass; `step` counts the updates done. Everything
the loop calls is an object that was made before the first step: nothing is looked up on the way. Every process of a run
goes through it; what they tell each other goes through `world` and `spread`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from nanogpt_kit.checkpoint.fit import fit
from nanogpt_kit.checkpoint.rng import seed_everything
from nanogpt_kit.core.errors import OutOfMemory
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.hooks import Hooks
from nanogpt_kit.core.integers import ceil_div
from nanogpt_kit.core.kinds import ModelContext, OrderContext
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.data.batches import Batch, Batches, Prefetcher
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.nn.flops import num_params
from nanogpt_kit.nn.optimizers import build_optimizer
from nanogpt_kit.nn.roles import parameters_by_role
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import MetricsLog
from nanogpt_kit.train.checkpoints import Checkpoints
from nanogpt_kit.train.compile import Compile, checkpoint_activations, warm_up
from nanogpt_kit.train.cores import Cores, ThreadedModel
from nanogpt_kit.train.diagnostics import Diagnostics
from nanogpt_kit.train.efficiency import Efficiency
from nanogpt_kit.train.evaluation import run_evaluators
from nanogpt_kit.train.finite import FiniteChecks
from nanogpt_kit.train.memory import is_out_of_memory, memory_metrics, micro_batch_size, out_of_memory_hint
from nanogpt_kit.train.precision import Precision
from nanogpt_kit.train.stop import StopSignals
from nanogpt_kit.train.world import World

GO_ON, END, INTERRUPTED = 0, 1, 2  # what a rank wants; the run does what the largest says


class Trainer:
    """One run's training, from its first step or from its newest checkpoint. Callbacks see it as their LiveRun."""

    def __init__(
        self,
        experiment: Experiment,
        data: PreparedData,
        folder: RunFolder,
        ctx: RunContext,
        stop: StopSignals,
        world: World,
        cores: Cores,
        weights: Mapping[str, Tensor] | None = None,  # to start from; left out, the init draws them
    ) -> None:
        self.experiment = experiment
        self.data = data
        self.folder = folder
        self.path = folder.path
        self.world = world
        self.rank = world.rank
        self.cores = cores
        self.precision = Precision(ctx.precision, ctx.device)
        self.references: Mapping[str, float] = data.references
        self.total_steps = experiment.total_steps
        self.step = 0
        self.seconds = 0.0  # spent in steps; evaluation and checkpoints are not counted
        self.stop = stop  # asked for by the user
        self.stop_reason = ""  # asked for by a callback
        self.budget_spent = ""
        self.agreed = GO_ON
        # Steps. Random weights are not worth an evaluation, unless nothing else is asked for.
        self.evaluated_at = 0 if weights is None and self.total_steps else -1
        self.unlogged_tokens = 0  # since the last logged step

        seed_everything(experiment.train.seed)
        self.model = experiment.model.build(ModelContext(vocab_size=data.encoder.vocab_size))
        experiment.init.apply(self.model)
        self.finite = FiniteChecks(self)
        self.saving = Checkpoints(self)
        self.saving.saved_at = self.evaluated_at  # nor are they worth a checkpoint
        if not self.saving.load_weights(self.model) and weights is not None:
            fit(self.model, weights, str(experiment.model.init_from))
        self.model.to(ctx.device)
        if experiment.train.activation_checkpointing:
            checkpoint_activations(self.model)
        self.diagnostics = Diagnostics(self.model, experiment.train.watch)
        self.wrap = experiment.parallel.wrap(self.model, ctx)
        if cores.chunks > 1:
            self.wrap = ThreadedModel(self.wrap, self.model, cores.chunks)
        self.optimizer = build_optimizer(experiment.optimizer, self.groups())
        self.peaks = [group["lr"] * group["lr_multiplier"] for group in self.optimizer.param_groups]
        self.scaler = self.precision.scaler()
        self.efficiency = Efficiency.of(experiment.model, data.encoder.vocab_size, ctx)
        split = data.split("train")
        order = OrderContext(
            n_tokens=len(split.tokens),
            block_size=experiment.model.block_size,
            batch_windows=experiment.batch_windows,
            seed=experiment.train.seed,
            documents=split.document_starts,
        )
        with_segments, pin = experiment.model.document_mask, ctx.device == "cuda"
        share = {"rank": world.rank, "world_size": world.size}
        batches = Batches(split, experiment.order, order, with_segments=with_segments, pin=pin, **share)
        self.batches = Prefetcher(batches, self.total_steps)

        saved = self.saving.restore()
        self.micro_batch_size = saved["micro_batch_size"] if saved else micro_batch_size(self)
        chosen = Compile.choose(experiment, ctx, num_params(self.model), cores.chunks * cores.threads)
        self.compile = chosen.agreed(world, experiment.train.compile)
        if self.compile.mode != "off":
            micro_steps = ceil_div(experiment.batch_windows, world.size * self.micro_batch_size)
            self.compile.apply(self.model, ctx, micro_steps)
        self.first_step = self.step
        if self.rank == 0:
            self.saving.cut_logs()
            self.log = MetricsLog(folder.metrics)
        self.hooks = Hooks(experiment.callback, self)
        self.saving.resume(saved)
        self.logged_seconds = self.seconds

    def train(self) -> None:
        """Runs to the last step, or until it is asked to stop. Raises RunFailed where the loss is no number."""
        every = self.experiment
        self.hooks.call("run_started", run=self)
        self.warm_up()
        self.model.train()
        if self.step % every.evaluate.every_steps == 0:
            self.evaluate()  # where the process before was stopped during it

        while self.step < self.total_steps and self.agree_to_stop() == GO_ON:
            self.take_step()
            self.saving.prove()
            if self.step % every.evaluate.every_steps == 0:
                self.evaluate()
            if self.step % every.checkpoint.every_steps == 0:
                self.saving.save()

        if not self.interrupted():
            self.evaluate()
        self.saving.save()
        self.saving.prove(ended=self.evaluated_at == self.step)

    def warm_up(self) -> None:
        """Compiles what is to be compiled. A signal ends the run at once meanwhile: there is nothing new to save."""
        if self.compile.mode == "off" or self.agree_to_stop() != GO_ON:
            return
        with self.stop.at_once():
            failed = warm_up(self)
        self.compile = Compile("off", failed) if failed else self.compile

    def take_step(self) -> None:
        """One update of the weights, and what is told of it."""
        began, next_step = time.perf_counter(), self.step + 1
        log = next_step in (1, self.total_steps) or next_step % self.experiment.train.log_every_steps == 0
        batch = self.batches.at(self.step)
        rate = self.set_learning_rate()
        with self.diagnostics.begin(looking=log):
            loss, grad_norm = self.update(batch)
        self.finite.read_step()  # the step before, whose flag was not waited for
        self.finite.note(self.step, loss, grad_norm)
        self.step = next_step
        self.unlogged_tokens += batch.all_tokens
        if log:
            self.finite.read_step()  # waits for the device, so the clock is read after it
        self.seconds += time.perf_counter() - began
        if log:
            metrics = {"train/loss": loss.item(), "optim/lr": rate, "optim/grad_norm": grad_norm.item()}
            metrics["perf/tokens_per_second"] = speed = self.unlogged_tokens / (self.seconds - self.logged_seconds)
            metrics |= {
                **self.efficiency.metrics(speed),
                **memory_metrics(self.precision.device),
                **self.finite.stability(),
            }
            metrics |= self.diagnostics.metrics()
            self.unlogged_tokens, self.logged_seconds = 0, self.seconds
            self.record("logged", metrics)
        self.hooks.call("step_finished", run=self, step=self.step)

    def update(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One optimizer step: (mean loss of all ranks' batch, norm of its gradient), both still on the device."""
        try:
            mean = self.accumulate(batch)
            self.scaler.unscale_(self.optimizer)
            grad_norm = self.wrap.clip(self.experiment.train.grad_clip)
            self.diagnostics.moving()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            told = out_of_memory_hint(self.micro_batch_size, is_auto=self.experiment.train.micro_batch_size == "auto")
            raise OutOfMemory(f"step {self.step + 1}: {told}") from error
        return self.world.sum(mean), grad_norm

    def accumulate(self, batch: Batch) -> Tensor:
        """The gradients of this rank's windows, and their share of the mean loss; a micro-batch at a time."""
        losses = []
        parts = batch.micro_batches(self.micro_batch_size, self.precision.device)
        for number, (ids, targets, segments) in enumerate(parts, start=1):
            with self.wrap.sync(last=number == len(parts)):
                with self.precision.autocast():
                    loss = self.wrap(ids, targets, segments)  # summed over the tokens
                loss = loss / batch.all_tokens  # of all ranks, so that every token of the batch weighs the same
                self.scaler.scale(loss).backward()
            losses.append(loss.detach().float())
        return reduce(torch.add, losses)

    def set_learning_rate(self) -> float:
        multiplier = self.experiment.schedule.multiplier(self.step, self.total_steps)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * multiplier
            self.finite.check_rate(group["lr"])
        return float(self.optimizer.param_groups[0]["lr"])

    def groups(self) -> list[dict[str, Any]]:
        """The model's parameters as the optimizer gets them, one group a role."""
        return [
            {"params": parameters, "role": role, "lr_multiplier": self.experiment.init.lr_multiplier(role)}
            for role, parameters in parameters_by_role(self.model).items()
        ]

    def agree_to_stop(self) -> int:
        """What the run does, the same on all ranks, so that none waits for another in vain."""
        most = self.experiment.train.max_seconds
        if self.rank == 0 and self.seconds >= (most or math.inf):  # by one clock
            self.budget_spent = f"train.max_seconds = {most:g} were spent"
        mine = END if self.stop_reason or self.budget_spent else GO_ON
        wanted = self.world.most(INTERRUPTED if self.stop.name else mine)
        if wanted > self.agreed:
            told = self.world.all_gather((self.stop.name, self.stop_reason, self.budget_spent))
            first = [next(filter(None, words), "") for words in zip(*told, strict=True)]
            self.stop.name, self.stop_reason, self.budget_spent = first
            self.agreed = wanted
        return self.agreed

    def interrupted(self) -> bool:
        """By a signal, at any rank."""
        return self.agree_to_stop() == INTERRUPTED

    def record(self, hook: str, metrics: Mapping[str, float]) -> None:
        """Into metrics.jsonl, then to the callbacks; an evaluation that a resumed run repeats is in there already."""
        tokens = self.step * self.experiment.train.batch_tokens
        progress = {"tokens": tokens, "seconds": round(self.seconds, 3)}
        before = self.saving.evaluated_before
        repeated = hook == "evaluated" and before.get("step") == self.step and metrics.keys() <= before.keys()
        if self.rank == 0 and not repeated:
            self.log.write({"step": self.step, **progress, **metrics})
        told = {**progress, **metrics} if hook == "logged" else metrics
        self.hooks.call(hook, trackers=not repeated, run=self, step=self.step, metrics=told)

    def evaluate(self) -> None:
        if self.evaluated_at == self.step:
            return
        self.finite.check_model()
        with self.hooks.evaluation(self):
            metrics = run_evaluators(self)
        if metrics is not None:  # else a signal came meanwhile; a resumed run evaluates here again
            self.evaluated_at = self.step
            self.record("evaluated", metrics)
            self.saving.evaluated(metrics)

    def request_stop(self, reason: str) -> None:
        self.stop_reason = self.stop_reason or reason
