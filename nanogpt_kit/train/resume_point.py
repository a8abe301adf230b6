"""Restores a run from its newest checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.damaged import damage_as_kit_error
from nanogpt_kit.checkpoint.manifest import TRAINING
from nanogpt_kit.checkpoint.rng import seed_everything, set_rng_state
from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.evaluation_weights import set_trained_weights
from nanogpt_kit.core.hooks import Hooks
from nanogpt_kit.nn.parameter_groups import load_optimizer_state
from nanogpt_kit.nn.sharded import distribute_state_like
from nanogpt_kit.nn.tensor_files import describe_error
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train.memory import is_out_of_memory
from nanogpt_kit.train.progress import Progress
from nanogpt_kit.train.training_state import TrainingState, check_groups, check_tensors
from nanogpt_kit.train.world import World

MISMATCHES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)
RANK_STRIDE = 1_000_003  # between the seeds of two ranks' dropout: a prime


@dataclass(frozen=True)
class ResumePoint:
    """The newest checkpoint of a run; without a path the run begins at step 0."""

    path: Path | None
    was_finished: bool  # the run had ended, and continues with more steps

    @classmethod
    def find(cls, folder: RunFolder, world: World) -> ResumePoint:
        """Rank 0 looks for all ranks, since it sets the status to "running" later.

        Raises KitError where there are checkpoints and none is whole.
        """
        mine = (store.newest_whole_checkpoint(folder.checkpoints), folder.status().state) if world.rank == 0 else None
        path, state = world.broadcast(mine)
        if path is None and store.list_checkpoints(folder.checkpoints):
            raise KitError(f"every checkpoint in {folder.checkpoints} is damaged; remove them all to start from step 0")
        return cls(path, state == "finished")

    def load_weights(self, model: nn.Module) -> bool:
        """Loads the weights; called before the model is sharded. Returns False where there is no checkpoint."""
        if self.path is None:
            return False
        store.load_weights(self.path, model)
        return True

    def restore(
        self, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> TrainingState | None:
        """Restores the progress and the optimizer. `restore_callbacks` restores the rest once callbacks are built."""
        if self.path is None:
            return None
        saved = store.load_training(self.path)
        with damage_as_kit_error(self.path / TRAINING):
            state = TrainingState.from_dict(saved, self.path / TRAINING)
            check_groups(state.optimizer["param_groups"], optimizer.param_groups)
            check_tensors(state.optimizer, optimizer.param_groups)
            of_optimizer = dict(state.optimizer)
            if store.has_shards(model):
                from nanogpt_kit.checkpoint.shards import distribute_optimizer_state

                of_optimizer = distribute_optimizer_state(state.optimizer, optimizer)
            load_optimizer_state(optimizer, of_optimizer)
            set_trained_weights(optimizer)  # the checkpoint has those for evaluation
            if state.scaler:  # it is empty where "auto" meant another precision on another machine
                scaler.load_state_dict(dict(state.scaler))
        vars(progress).update(vars(state.progress))
        if self.was_finished:
            progress.stop_reason = ""
        return state

    def restore_callbacks(self, state: TrainingState | None, hooks: Hooks, seed: int, world: World) -> None:
        """Restores the state of callbacks, and last the random numbers: they differ between ranks, for dropout."""
        rank_seed = seed + world.rank * RANK_STRIDE
        seed_everything(rank_seed % 2**63)
        if state is None or self.path is None:
            return
        with damage_as_kit_error(self.path / TRAINING):
            hooks.load_state_dict(distribute_state_like(dict(state.callbacks), hooks.state_dict()))
            if world.rank < len(state.rng):
                set_rng_state(state.rng[world.rank])
                return
        seed_everything((rank_seed + state.progress.step) % 2**63)  # there were fewer ranks

    def explain(self, error: BaseException, world: World) -> BaseException:
        """The error of the first step from this checkpoint, as a RunFailed that names it where it may be the cause.

        Only its optimizer knows which state a parameter needs, so that its step shows whether the state fits.
        """
        if self.path is None or not isinstance(error, MISMATCHES):
            return error
        if is_out_of_memory(error) or world.is_lost_rank_error(error):
            return error
        reason = f"the first step from {self.path} failed ({describe_error(error)}); its {TRAINING} may be damaged"
        return RunFailed(f"{reason}: remove this checkpoint to continue from the one before")
