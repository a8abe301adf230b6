"""A run as callbacks see it: a small model, trained for a few steps with every hook at its moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nanogpt_kit.checkpoint.store import save_checkpoint
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.hooks import Hooks
from nanogpt_kit.data.batches import Batch
from nanogpt_kit.nn.optimizers import build_optimizer
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.testing.evaluation_context import Utf8Encoder, small_model
from nanogpt_kit.train.batch_hook import batch_after_hooks
from nanogpt_kit.train.pending import PendingScalars
from nanogpt_kit.train.world import World

T, WINDOWS = 8, 4
TOTAL_STEPS, LOG_EVERY, EVALUATE_EVERY, SAVE_EVERY = 12, 2, 3, 8
EXPERIMENT: dict[str, Any] = {
    "name": "simulated",
    "dataset": {"use": "text", "source": "text.txt"},
    "tokenizer": "byte",
    "model": {"use": "gpt", "n_layer": 2, "n_head": 2, "n_embd": 12, "block_size": T},
    "optimizer": {"use": "adamw", "lr": 1e-2},
    "schedule": "constant",
    "train": {"steps": TOTAL_STEPS, "batch_tokens": T * WINDOWS, "watch": ["attention"]},
    "evaluate": {"every_steps": EVALUATE_EVERY},
    "checkpoint": {"every_steps": SAVE_EVERY},
    "callback": [],
}


class SimulatedRun:
    """A LiveRun; `play` trains its model. The same steps always give the same bits."""

    first_step = 0
    total_steps = TOTAL_STEPS
    vocab_size = Utf8Encoder.vocab_size

    def __init__(self, path: Path, rank: int = 0, metrics_read: tuple[str, ...] = ()) -> None:
        """`metrics_read` are metrics that an evaluation reports besides the loss."""
        self.path, self.rank, self.metrics_read = path, rank, metrics_read
        self.experiment = Experiment.model_validate(EXPERIMENT)
        self.config: Mapping[str, Any] = self.experiment.resolved()
        self.model: nn.Module = small_model(T).train()
        self.optimizer = build_optimizer(self.experiment, self.model, parameter_shapes(self.model))
        self.summary: Mapping[str, str] = {"device": "cpu, 1 thread", "folder": str(path)}
        self.references: Mapping[str, float] = {"gzip -9": 3.1}
        self.step = 0
        self.scalars = PendingScalars()
        self.stop_reason = ""

    def request_stop(self, reason: str) -> None:
        self.stop_reason = self.stop_reason or reason

    def play(self, hooks: Hooks, until: int = TOTAL_STEPS, ends: bool = True) -> None:
        """Trains to step `until`, or until a callback stops the run; `ends`: it is the end of the run, too."""
        hooks.call("run_started", run=self)
        while self.step < until and not self.stop_reason:
            self.take_step(hooks)
            if self.step % EVALUATE_EVERY == 0:
                self.evaluate(hooks)
            if self.step % SAVE_EVERY == 0:
                path = save_checkpoint(self.path / "checkpoints", self.step, self.model, {}, {})
                hooks.call("checkpoint_saved", run=self, step=self.step, path=path)
        if ends:
            with hooks.evaluation(self, "sampling"):
                hooks.call("sampled", run=self, step=self.step, texts=["\nOnce upon a time"])
            hooks.call("run_finished", run=self, status="finished")

    def take_step(self, hooks: Hooks) -> None:
        batch = batch_after_hooks(batch_of(self.step), self, hooks, World())
        loss: Tensor = self.model(batch.ids, batch.targets) / batch.divisor
        loss.backward()
        hooks.call("gradients_ready", run=self, step=self.step)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scalars = PendingScalars(loss.detach(), norm)
        self.step += 1
        if self.step % LOG_EVERY == 0 or self.step == 1:
            hooks.call("logged", run=self, step=self.step, metrics=self.logged_metrics(loss.item(), norm.item()))
        hooks.call("step_finished", run=self, step=self.step)

    def logged_metrics(self, loss: float, norm: float) -> dict[str, float]:
        tokens = float(self.step * T * WINDOWS)
        return {
            "step": self.step,
            "tokens": tokens,
            "seconds": 0.01 * self.step,
            "train/loss": loss,
            "optim/lr": 1e-2,
            "optim/grad_norm": norm,
            "optim/clip_fraction": 0.5,
            "perf/tokens_per_second": 3200.0,
            "memory/peak_bytes": 1e8,
            "attention/max_logit": 3.0,
        }

    def evaluate(self, hooks: Hooks) -> None:
        """Losses that fall, as if the model learnt."""
        with hooks.evaluation(self, "evaluation"):
            self.model.eval()
        self.model.train()
        metrics = dict.fromkeys(("val/loss", "val/bits_per_byte", *self.metrics_read), 5 / (1 + 0.1 * self.step))
        hooks.call("evaluated", run=self, step=self.step, metrics=metrics)


def batch_of(step: int) -> Batch:
    """A function of the step, as the batches of a run."""
    draws = np.random.default_rng(step)
    tokens = torch.from_numpy(draws.integers(0, 256, (WINDOWS, T + 1)))
    starts = draws.integers(0, 1000, WINDOWS)
    return Batch(tokens[:, :-1].clone(), tokens[:, 1:].clone(), starts, WINDOWS * T)
