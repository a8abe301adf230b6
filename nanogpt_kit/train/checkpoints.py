"""Saves a run, and decides which of its checkpoints are kept."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.rng import rng_state
from nanogpt_kit.core.errors import RunFailed, did_you_mean
from nanogpt_kit.core.evaluation_weights import evaluation_weights
from nanogpt_kit.core.hooks import Hooks
from nanogpt_kit.core.sections import Checkpoint
from nanogpt_kit.runs.machine_choices import record_choices
from nanogpt_kit.runs.status import Best
from nanogpt_kit.train.finite import FiniteChecks
from nanogpt_kit.train.progress import Progress
from nanogpt_kit.train.run_log import RunLog
from nanogpt_kit.train.training_state import TrainingState
from nanogpt_kit.train.world import World


@dataclass
class Checkpoints:
    """The checkpoints that one run writes."""

    folder: Path
    options: Checkpoint
    world: World
    progress: Progress
    model: nn.Module
    tokenizer: Mapping[str, Any]  # its record
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    finite: FiniteChecks
    hooks: Hooks
    log: RunLog
    newest: Path | None  # the checkpoint that the run continues from

    def __post_init__(self) -> None:
        # A fresh model is saved at step 0 only where it is evaluated there
        self.saved_at = self.progress.evaluated_at if self.newest is None else self.progress.step
        self.newest_is_verified = self.newest is None  # else the process before may have been killed right after saving

    def save(self) -> Path | None:
        """Saves everything that the next step depends on. Returns the folder, or None if this step was saved before."""
        progress = self.progress
        if self.saved_at == progress.step:
            return None
        with evaluation_weights(self.optimizer):  # those that whoever loads the model uses
            self.finite.check_model()
            state = TrainingState(
                progress=progress,
                optimizer=self.optimizer.state_dict(),
                scaler=self.scaler.state_dict(),
                rng=self.world.all_gather(rng_state()),
                callbacks=self.hooks.state_dict(),
            ).to_dict()
            self.finite.check_training_state(state)
            self.prune_once_verified()
            self.log.sync()
            # The one before stays for now
            self.newest = self._write(state, self._retention(self.options.keep_last + 1))
        self.world.broadcast(None)  # rank 0 may write for long; a rank that ended meanwhile would be taken for lost
        self.saved_at, self.newest_is_verified = progress.step, False
        return self.newest

    def prune_once_verified(self, run_ends: bool = False) -> None:
        """Deletes older checkpoints once the newest is known to be good: by the first step from it, or as the run ends.

        Finite weights may give a gradient that is not finite.
        """
        if self.newest_is_verified or not (run_ends or self.finite.last_good_step >= self.saved_at):
            return
        self.newest_is_verified = True
        if self.world.rank == 0 and self.newest is not None:
            store.prune_checkpoints(self.folder, self.newest, self._retention(self.options.keep_last))

    def update_best(self, metrics: Mapping[str, float]) -> bool:
        """Whether the metric that `keep_best` names is its lowest so far. Raises RunFailed where it is not there."""
        name, best = self.options.keep_best, self.progress.best
        if name is None:
            return False
        if name not in metrics:
            raise RunFailed(f"checkpoint.keep_best: no evaluator reports {name!r}{did_you_mean(name, metrics)}")
        lowest = math.inf if best is None or best.value is None else best.value
        if not -math.inf < metrics[name] < lowest:
            return False
        self.progress.best = Best(step=self.progress.step, value=metrics[name])
        return True

    def _retention(self, last: int) -> store.Retention:
        best = self.progress.best
        return store.Retention(last, self.options.keep_every_steps, best.step if best else None)

    def _write(self, state: Mapping[str, Any], retention: store.Retention) -> Path:
        step = self.progress.step
        try:
            if self.world.rank == 0:
                record_choices(self.folder.parent)
            return store.save_checkpoint(self.folder, step, self.model, state, self.tokenizer, retention)
        except (OSError, RuntimeError, SafetensorError) as error:  # what Python, torch and safetensors call a full disk
            if self.world.is_lost_rank_error(error):
                raise
            free = shutil.disk_usage(self.folder.parent).free
            reason = f"the checkpoint of step {step} cannot be written: {error} ({free:,} bytes are free there)"
            raise RunFailed(reason) from error
