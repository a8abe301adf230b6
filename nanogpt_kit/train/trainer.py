"""The training loop, top to bottom.

A step is one optimizer update, a micro-step one forward and backward pass; `step` counts the updates done. The loop
calls objects that were made before the first step; it looks nothing up. Every process of a run goes through it, and
they communicate through `world` and `parallel`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from torch import Tensor

from nanogpt_kit.checkpoint.rng import seed_everything
from nanogpt_kit.core.hooks import Hooks
from nanogpt_kit.data.batches import Batch, Prefetcher
from nanogpt_kit.generate.generator import TextGenerator
from nanogpt_kit.nn.initial_weights import build_initialized
from nanogpt_kit.nn.optimizers import build_optimizer
from nanogpt_kit.nn.parameter_groups import rates_by_role
from nanogpt_kit.nn.training_loss import TrainingLoss, sum_by_name
from nanogpt_kit.nn.training_pass import TrainingPass
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.machine_choices import record_choices
from nanogpt_kit.train.batch_hook import batch_after_hooks
from nanogpt_kit.train.checkpoints import Checkpoints
from nanogpt_kit.train.compile import Trial
from nanogpt_kit.train.diagnostics import Diagnostics
from nanogpt_kit.train.efficiency import Throughput
from nanogpt_kit.train.evaluation import Evaluation, eval_mode, publish_samples, run_evaluators
from nanogpt_kit.train.finite import FiniteChecks
from nanogpt_kit.train.memory import choose_micro_batch_size, memory_metrics, step_memory_hint
from nanogpt_kit.train.model_options import ScheduledOptions
from nanogpt_kit.train.precision import Precision
from nanogpt_kit.train.progress import Progress
from nanogpt_kit.train.resume_point import ResumePoint
from nanogpt_kit.train.run_log import RunLog
from nanogpt_kit.train.schedules import Schedules
from nanogpt_kit.train.setup import Setup
from nanogpt_kit.train.starting_weights import load_starting_weights
from nanogpt_kit.train.stop import Decision, StopSignals, StopState
from nanogpt_kit.train.summary import summarize_run


class Trainer:
    """One run's training, from its first step or from its newest checkpoint. Callbacks see it as their LiveRun."""

    def __init__(
        self, setup: Setup, folder: RunFolder, signals: StopSignals, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """`weights` are those to start from; omitted: random ones, drawn by the experiment's init."""
        self.experiment, self.data, self.cores = setup.experiment, setup.data, setup.cores
        self.folder, self.path = folder, folder.path
        self.world, self.rank = setup.placement.world, setup.placement.world.rank
        self.references: Mapping[str, float] = setup.data.references
        self.total_steps, self.vocab_size = setup.experiment.total_steps, setup.data.encoder.vocab_size
        # A fresh model is neither evaluated nor saved at step 0, unless the run has no steps
        self.progress = Progress(evaluated_at=0 if weights is None and self.total_steps else -1)
        self.stop = StopState(signals, self.progress, self.world, self.experiment.train.max_seconds)
        self.precision = Precision(setup.placement.ctx.precision, setup.placement.ctx.device)
        self.scaler = self.precision.scaler()
        self.batches = Prefetcher(setup.training_batches(), self.total_steps)

        self.resume_point = ResumePoint.find(folder, self.world)
        seed_everything(self.experiment.train.seed)
        self.model, shapes = build_initialized(self.experiment, self.vocab_size)
        starts = self.batches.batches.starts
        self.finite = FiniteChecks(self.experiment, self.model, self.world, self.progress, self.scaler, starts)
        if not self.resume_point.load_weights(self.model) and weights is not None:
            load_starting_weights(self.model, weights, self.experiment.model)
        self.diagnostics = Diagnostics(self.model, self.experiment.train.watch)
        self.parallel = setup.parallel_model(self.model)
        self.optimizer = build_optimizer(self.experiment, self.model, shapes)
        options = ScheduledOptions(self.experiment, self.model, self.progress)
        self.schedules = Schedules(self.experiment, self.optimizer, self.progress, self.world, options.setters)

        state = self.resume_point.restore(self.progress, self.model, self.optimizer, self.scaler)
        options.restore()
        self.first_step = self.step
        windows, largest_batch = setup.windows_per_rank, self.batches.batches.largest
        self.progress.micro_batch_size = choose_micro_batch_size(
            self.experiment.train, windows, largest_batch, self.model, self.precision, self.world, self.progress
        )
        stay_local, seed = getattr(self.parallel, "gradients_stay_local", False), self.experiment.train.seed
        local_pass = partial(self.trial_pass, False) if stay_local else self.trial_pass
        self.trial = Trial(self.model, self.trial_pass, self.precision.device, seed, local_pass)
        self.compile = setup.compile_model(self.trial, self.progress)
        rates = rates_by_role(self.optimizer, self.schedules.peak_rates)
        self.summary: Mapping[str, str] = summarize_run(
            setup, self.path, self.model, rates, self.step, self.compile.mode
        )
        self.throughput = Throughput(setup.efficiency(), self.progress, self.experiment.step_plan.tokens)
        self.log = RunLog(folder, self.experiment, self.progress, state is not None, self.rank)
        self.config = self.experiment.resolved()
        self.hooks = Hooks(self.experiment.callback, self)
        self.finite.name_callbacks(self.hooks)
        self.resume_point.restore_callbacks(state, self.hooks, self.experiment.train.seed, self.world)
        self.checkpoints = self.build_checkpoints()

    @property
    def step(self) -> int:
        return self.progress.step

    def train(self) -> None:
        """Trains to the last step, or until the run is asked to stop. Raises RunFailed where the loss is not finite."""
        evaluate_every, save_every = self.experiment.evaluate.every_steps, self.experiment.checkpoint.every_steps
        self.hooks.call("run_started", run=self)
        self.warm_up_compile()
        if self.rank == 0:
            record_choices(self.path)
        self.model.train()
        if self.step % evaluate_every == 0:
            self.evaluate()  # where the process before was stopped during it

        while self.step < self.total_steps and self.stop.agree() == Decision.CONTINUE:
            self.take_step()
            self.checkpoints.prune_once_verified()
            if self.step % evaluate_every == 0:
                self.evaluate()
            if self.step % save_every == 0:
                self.save()

        if not self.stop.interrupted():
            self.evaluate()
        self.save()
        self.checkpoints.prune_once_verified(run_ends=self.progress.evaluated_at == self.step)

    def warm_up_compile(self) -> None:
        """Compiles the model. A signal ends the run at once meanwhile: there is nothing new to save."""
        if self.compile.mode == "off" or self.stop.agree() != Decision.CONTINUE:
            return
        with self.stop.signals.raise_on_first():
            self.compile = self.compile.warm_up(self.trial, self.world)

    def trial_pass(self, reduces: bool = True) -> None:
        """A forward and backward pass over batches of each shape, without an update."""
        try:
            for batch in self.batches.of_each_shape(self.step, self.progress.micro_batch_size, self.cores.chunks):
                self.accumulate(batch, reduces)
        finally:
            self.optimizer.zero_grad(set_to_none=True)

    def take_step(self) -> None:
        """One optimizer step, and its logging."""
        began, next_step = time.perf_counter(), self.step + 1
        is_logged = next_step in (1, self.total_steps) or next_step % self.experiment.train.log_every_steps == 0
        scheduled = self.schedules.apply()
        batch = batch_after_hooks(self.batches.at(self.step), self, self.hooks, self.world)
        with self.diagnostics.begin(is_logged):
            means, grad_norm = self.update(batch)
        self.finite.check_noted_step()  # the step before, so that the device computes this one meanwhile
        self.scalars = self.finite.note_step(self.step, means, grad_norm, self.schedules.grad_clip)
        self.progress.step = next_step
        self.throughput.add(batch)
        if is_logged:
            self.finite.check_noted_step()  # waits for the device, so the clock is read after it
        self.progress.seconds += time.perf_counter() - began
        if is_logged:
            self.log_step(means, grad_norm, scheduled)
        self.hooks.call("step_finished", run=self, step=self.step)

    def update(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """One optimizer step: (mean losses of all ranks' batch, norm of the gradient), still on the device."""
        with step_memory_hint(self.experiment.train, self.progress):
            means = self.accumulate(batch)
            self.scaler.unscale_(self.optimizer)
            self.hooks.call("gradients_ready", run=self, step=self.step)
            grad_norm = self.parallel.clip(self.schedules.grad_clip)
            self.diagnostics.before_update()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
        if self.step == self.first_step:
            self.world.require_same({"the losses": ", ".join(means)})
        return self.world.sum(means), grad_norm

    def accumulate(self, batch: Batch, reduces: bool = True) -> dict[str, Tensor]:
        """Sums the gradients of this rank's windows over micro-batches. Returns its part of the mean losses."""
        losses, size, seed = [], self.progress.micro_batch_size, self.experiment.train.seed
        micro_batches = batch.micro_batches(size, self.precision.device)
        for index, windows in enumerate(micro_batches):
            part = TrainingPass(seed, self.step, batch.first_index(index, size), len(windows[0]))
            part.seed_generator(self.precision.device)
            is_last = reduces and index == len(micro_batches) - 1
            with self.parallel.sync(last=is_last), part.entered():
                with self.precision.autocast():
                    sums = TrainingLoss.of(self.parallel(*windows)).counted(batch.is_counted(index, size))
                mean = sums.objective / batch.divisor  # of all ranks, so that every token weighs the same
                self.scaler.scale(mean).backward()
            losses.append(sums.metrics(batch.divisor))
        return sum_by_name(losses)

    def log_step(self, means: Mapping[str, Tensor], grad_norm: Tensor, scheduled: dict[str, float]) -> None:
        metrics = {name: mean.item() for name, mean in means.items()} | scheduled
        metrics |= {"optim/grad_norm": grad_norm.item()} | self.throughput.metrics()
        metrics |= memory_metrics(self.precision.device) | self.finite.stability_metrics() | self.diagnostics.metrics()
        self.hooks.call("logged", run=self, step=self.step, metrics=self.log.write(metrics))

    def evaluate(self) -> None:
        """Runs the evaluators, at most once per step, and saves the model where it is the best so far."""
        if self.progress.evaluated_at == self.step:
            return
        self.finite.check_model()
        threads, seed = self.cores.unsplit_threads, self.experiment.train.seed
        with self.hooks.evaluation(self, "evaluation"), eval_mode(self.model, threads, seed):
            metrics = run_evaluators(self.evaluation(), self.experiment.evaluator, self.finite)
        if metrics is not None:  # else a signal came meanwhile; a resumed run evaluates here again
            self.progress.evaluated_at = self.step
            is_new = self.log.write_evaluation_once(metrics)
            self.hooks.call("evaluated", trackers=is_new, run=self, step=self.step, metrics=metrics)
            if self.checkpoints.update_best(metrics):
                self.save()

    def evaluation(self) -> Evaluation:
        return Evaluation(
            self.generator(),
            self.precision,
            self.world,
            batch_size=self.experiment.evaluate.batch_size or self.progress.micro_batch_size,
            data=lambda: self.data,
            interrupted=self.stop.interrupted,
            show=partial(publish_samples, run=self, hooks=self.hooks, file=self.folder.samples),
            threads=self.cores.available,
        )

    def generator(self) -> TextGenerator:
        return TextGenerator(self.experiment, self.model, self.data.encoder, self.precision.device)

    def save(self) -> None:
        if path := self.checkpoints.save():
            self.hooks.call("checkpoint_saved", run=self, step=self.step, path=path)

    def request_stop(self, reason: str) -> None:
        self.progress.stop_reason = self.progress.stop_reason or reason

    def build_checkpoints(self) -> Checkpoints:
        return Checkpoints(
            self.folder.checkpoints,
            self.experiment.checkpoint,
            self.world,
            self.progress,
            self.model,
            self.data.manifest.tokenizer.as_json(),
            self.optimizer,
            self.scaler,
            self.finite,
            self.hooks,
            self.log,
            newest=self.resume_point.path,
        )
