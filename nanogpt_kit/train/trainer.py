"""The training loop, top to bottom.

A step is one optimizer update, a micro-step one forward and backward pass; `step` counts the updates done. Everything
the loop calls is an object that was made before the first step: nothing is looked up on the way.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.rng import rng_state, seed_everything, set_rng_state
from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.hooks import Hooks
from nanogpt_kit.core.kinds import ModelContext, OrderContext
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.data.batches import Ahead, Batch, Batches
from nanogpt_kit.data.manifest import Prepared
from nanogpt_kit.nn.roles import by_role
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import MetricsLog, truncate_after
from nanogpt_kit.train.efficiency import Efficiency
from nanogpt_kit.train.evaluate import evaluate
from nanogpt_kit.train.memory import memory
from nanogpt_kit.train.precision import Precision
from nanogpt_kit.train.stop import StopSignals


class Trainer:
    """One run's training, from its first step or from its newest checkpoint. Callbacks see it as their LiveRun."""

    def __init__(
        self,
        experiment: Experiment,
        data: Prepared,
        folder: RunFolder,
        ctx: RunContext,
        stop: StopSignals,
        weights: Mapping[str, Tensor] | None = None,  # to start from; left out, the init draws them
    ) -> None:
        self.experiment = experiment
        self.data = data
        self.folder = folder
        self.path = folder.path
        self.precision = Precision(ctx.precision, ctx.device)
        self.rank = 0
        self.references: Mapping[str, float] = data.references
        self.total_steps = experiment.train.steps
        self.step = 0
        self.seconds = 0.0  # spent in steps; evaluation and checkpoints are not counted
        self.stop = stop  # asked for by the user
        self.stop_reason = ""  # asked for by a callback
        # Steps. Random weights are not worth an evaluation, unless nothing else is asked for.
        self.evaluated_at = self.saved_at = 0 if weights is None and self.total_steps else -1
        self.unread: tuple[int, Batch, Tensor, Tensor] | None = None  # the newest loss and norm, perhaps not finite

        seed_everything(experiment.train.seed)
        self.model = experiment.model.build(ModelContext(vocab_size=data.encoder.vocab_size))
        experiment.init.apply(self.model)
        if weights is not None:
            store.fit(self.model, weights, str(experiment.model.init_from))
        self.model.to(ctx.device)
        self.spread = experiment.parallel.spread(self.model, ctx)
        self.optimizer = experiment.optimizer.build(self.groups())
        self.peaks = [group["lr"] * group["lr_multiplier"] for group in self.optimizer.param_groups]
        self.scaler = self.precision.scaler()
        self.efficiency = Efficiency.of(experiment.model, data.encoder.vocab_size, ctx)
        split = data.split("train")
        order = OrderContext(
            n_tokens=len(split.tokens),
            block_size=experiment.model.block_size,
            batch_windows=experiment.batch_windows,
            seed=experiment.train.seed,
            documents=split.documents,
        )
        with_segments, pin = experiment.model.document_mask, ctx.device == "cuda"
        batches = Batches(split, experiment.order, order, with_segments=with_segments, pin=pin)
        self.batches = Ahead(batches, self.total_steps)

        saved = self.restore()
        self.first_step = self.step
        self.hooks = Hooks(experiment.callback, self)
        seed_everything(experiment.train.seed)  # dropout starts here, whatever was drawn while building
        if saved:
            self.hooks.load_state_dict(saved["callbacks"])
            set_rng_state(saved["rng"])

    def train(self) -> None:
        """Runs to the last step, or until it is asked to stop. Raises RunFailed where the loss is no number."""
        every = self.experiment
        self.hooks.call("run_started", run=self)
        self.model.train()
        tokens, since = 0, self.seconds  # of the steps that are not logged yet
        if self.step % every.evaluate.every_steps == 0:
            self.evaluate()  # where the process before was stopped during it

        while self.step < self.total_steps and not (self.stop_reason or self.stop.name):
            began = time.perf_counter()
            batch = self.batches.at(self.step)
            rate = self.set_learning_rate()
            loss, grad_norm = self.update(batch)
            self.check_finite()  # the step before, whose flag was not waited for
            self.unread = (self.step, batch, loss, grad_norm)
            self.step += 1
            tokens += batch.tokens

            log = self.step in (1, self.total_steps) or self.step % every.train.log_every_steps == 0
            if log:
                self.check_finite()  # waits for the device, so the clock is read after it
            self.seconds += time.perf_counter() - began
            if log:
                metrics = {"train/loss": loss.item(), "optim/lr": rate, "optim/grad_norm": grad_norm.item()}
                metrics["perf/tokens_per_second"] = speed = tokens / (self.seconds - since)
                metrics |= {**self.efficiency.metrics(speed), **memory(self.precision.device)}
                tokens, since = 0, self.seconds
                self.record("logged", metrics)
            self.hooks.call("step_finished", run=self, step=self.step)
            if self.step % every.evaluate.every_steps == 0:
                self.evaluate()
            if self.step % every.checkpoint.every_steps == 0:
                self.save()

        if not self.stop.name:
            self.evaluate()
        self.save()

    def update(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One optimizer step: (mean loss of the batch, norm of its gradient), both still on the device."""
        device, wanted = self.precision.device, batch.tokens
        total = torch.zeros((), device=device)
        parts = list(batch.to(device).micro_batches(self.experiment.micro_batch_size))
        for number, (ids, targets, segments) in enumerate(parts, start=1):
            with self.spread.sync(last=number == len(parts)):
                with self.precision.autocast():
                    loss = self.spread(ids, targets, segments)  # summed over the tokens
                self.scaler.scale(loss / wanted).backward()  # so every token of the batch weighs the same
            total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        grad_norm = self.spread.clip(self.experiment.train.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return total / wanted, grad_norm

    def set_learning_rate(self) -> float:
        multiplier = self.experiment.schedule.multiplier(self.step, self.total_steps)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * multiplier
        return float(self.optimizer.param_groups[0]["lr"])

    def groups(self) -> list[dict[str, Any]]:
        """The model's parameters as the optimizer gets them, one group a role."""
        return [
            {"params": parameters, "role": role, "lr_multiplier": self.experiment.init.lr_multiplier(role)}
            for role, parameters in by_role(self.model).items()
        ]

    def check_finite(self) -> None:
        """Reads the flag that the last step left, before its weights are evaluated, saved or trained on for long."""
        if self.unread is None:
            return
        (step, batch, loss, grad_norm), self.unread = self.unread, None
        values = {"loss": loss.item()}
        if not self.scaler.is_enabled():  # else it skips such steps, and lowers its scale
            values["norm of the gradient"] = grad_norm.item()
        wrong = next((name for name, value in values.items() if not math.isfinite(value)), None)
        if wrong:
            starts = ", ".join(map(str, batch.starts[:8])) + (", ..." if len(batch.starts) > 8 else "")
            raise RunFailed(
                f"the {wrong} is {values[wrong]} at step {step + 1}, on the windows that start at tokens {starts} "
                'of train; a lower optimizer.lr, a longer warmup or train.precision = "fp32" often helps'
            )

    def record(self, hook: str, metrics: Mapping[str, float]) -> None:
        """Into metrics.jsonl, then to the callbacks."""
        tokens = self.step * self.experiment.train.batch_tokens
        progress = {"tokens": tokens, "seconds": round(self.seconds, 3)}
        self.log.write({"step": self.step, **progress, **metrics})
        told = {**progress, **metrics} if hook == "logged" else metrics
        self.hooks.call(hook, run=self, step=self.step, metrics=told)

    def evaluate(self) -> None:
        if self.evaluated_at == self.step:
            return
        self.check_finite()
        metrics = evaluate(self.model, self.data, self.experiment, self.precision, self.stop)
        if metrics is not None:  # else a signal came meanwhile; a resumed run evaluates here again
            self.evaluated_at = self.step
            self.record("evaluated", metrics)

    def save(self) -> None:
        """Everything that the next step depends on: saved and restored, it is as if nothing had happened."""
        if self.saved_at == self.step:
            return
        self.check_finite()
        training = {
            "step": self.step,
            "evaluated_at": self.evaluated_at,
            "seconds": self.seconds,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": rng_state(),
            "callbacks": self.hooks.state_dict(),
        }
        folder, keep = self.folder.checkpoints, self.experiment.checkpoint.keep_last
        try:
            path = store.save(folder, self.step, self.model, training, self.data.manifest["tokenizer"], keep)
        except (OSError, RuntimeError, SafetensorError) as error:  # what Python, torch and safetensors call a full disk
            free = shutil.disk_usage(self.path).free
            told = f"the checkpoint of step {self.step} cannot be written: {error} ({free:,} bytes are free there)"
            raise RunFailed(told) from error
        self.saved_at = self.step
        self.hooks.call("checkpoint_saved", run=self, step=self.step, path=path)

    def restore(self) -> dict[str, Any] | None:
        """Takes the newest whole checkpoint of the run; None where there is none yet."""
        path = store.newest(self.folder.checkpoints)
        saved = None
        if path is None and store.numbered(self.folder.checkpoints):
            raise KitError(f"no checkpoint in {self.folder.checkpoints} is whole; remove them all to start from step 0")
        if path is not None:
            saved = store.load_training(path)
            store.load_weights(path, self.model)
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
            self.step, self.seconds = saved["step"], saved["seconds"]
            self.evaluated_at, self.saved_at = saved["evaluated_at"], saved["step"]
        truncate_after(self.folder.metrics, self.step)
        self.log = MetricsLog(self.folder.metrics)
        return saved

    def request_stop(self, reason: str) -> None:
        self.stop_reason = self.stop_reason or reason
