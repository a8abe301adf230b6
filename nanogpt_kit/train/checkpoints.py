"""What a checkpoint of a run holds, when it is written, and how training goes on from it."""

from __future__ import annotations

import logging
import math
import shutil
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from torch import nn

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.damaged import cause, damaged
from nanogpt_kit.checkpoint.rng import rng_state, seed_everything, set_rng_state
from nanogpt_kit.core.errors import KitError, RunFailed, did_you_mean
from nanogpt_kit.nn.sharded import distribute_state_like
from nanogpt_kit.runs import samples
from nanogpt_kit.runs.metrics import read, truncate_metrics
from nanogpt_kit.train.memory import is_out_of_memory
from nanogpt_kit.train.training_state import check_groups, check_tensors, check_types

if TYPE_CHECKING:
    from nanogpt_kit.train.trainer import Trainer

logger = logging.getLogger(__name__)

UNFIT = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)
RANK_STRIDE = 1_000_003  # between the seeds of two ranks' dropout: a prime


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, run: Trainer) -> None:
        self.run = run
        self.options = run.experiment.checkpoint
        self.folder = run.folder.checkpoints
        self.best: dict[str, Any] = {}  # {"step": ..., "value": ...} of the metric that keep_best names
        # Rank 0 looks for all: it is the one that will say "running" when it comes to that
        found = (store.newest(self.folder), run.folder.status().state) if run.world.rank == 0 else None
        self.path, self.state_before = run.world.broadcast(found)
        self.saved_at = 0
        self.evaluated_before: Mapping[str, Any] = {}  # what the metrics hold of an evaluation at the step resumed from
        self.is_proven = True  # whether the newest checkpoint is known to be good, so that older ones may go
        if self.path is None and store.numbered(self.folder):
            raise KitError(f"no checkpoint in {self.folder} is whole; remove them all to start from step 0")

    def load_weights(self, model: nn.Module) -> bool:
        """Into a model that is whole yet. False where there is no checkpoint."""
        if self.path is None:
            return False
        store.load_weights(self.path, model)
        return True

    def restore(self) -> Mapping[str, Any] | None:
        """All but the weights, the random numbers and what callbacks keep, which `resume` takes last."""
        if self.path is None:
            return None
        run, saved = self.run, store.load_training(self.path)
        with damaged(self.path / store.TRAINING):
            check_types(saved, store.step_of(self.path))
            state = saved["optimizer"]
            check_groups(state["param_groups"], run.optimizer.param_groups)
            check_tensors(state, run.optimizer.param_groups)
            if store.in_parts(run.model):
                from nanogpt_kit.checkpoint.shards import optimizer_state_as

                state = optimizer_state_as(state, run.optimizer)
            run.optimizer.load_state_dict(state)
            if saved["scaler"]:  # there is none where "auto" was another type on another machine
                run.scaler.load_state_dict(saved["scaler"])
        run.step, run.seconds, run.evaluated_at = saved["step"], saved["seconds"], saved["evaluated_at"]
        self.saved_at, self.best = saved["step"], saved["best"]
        run.finite.steps_read, run.finite.steps_clipped = saved["clipping"]
        self.is_proven = False  # perhaps the process before was stopped at once
        if self.state_before != "finished":  # else more is asked of it now
            run.stop_reason = saved["stop_reason"]
        return saved

    def resume(self, saved: Mapping[str, Any] | None) -> None:
        """Dropout begins, or goes on: on each rank with numbers of its own."""
        run = self.run
        rank, seed = run.world.rank, run.experiment.train.seed
        seed_everything((seed + rank * RANK_STRIDE) % 2**63)
        if saved is None or self.path is None:
            return
        with damaged(self.path / store.TRAINING):
            run.hooks.load_state_dict(distribute_state_like(saved["callbacks"], run.hooks.state_dict()))
            if rank < len(saved["rng"]):
                set_rng_state(saved["rng"][rank])
                return
        seed_everything((seed + rank * RANK_STRIDE + run.step) % 2**63)  # there were fewer ranks

    def named(self, error: BaseException) -> BaseException:
        """The same, or a RunFailed that names the checkpoint where the first step from it failed.

        What an optimizer keeps for a parameter is known to it alone, so that its step is what shows whether it fits.
        """
        run = self.run
        is_first = self.path is not None and run.step == run.first_step == store.step_of(self.path)
        if not is_first or not isinstance(error, UNFIT) or is_out_of_memory(error) or run.world.lost(error):
            return error
        reason = f"the first step from {self.path} failed ({cause(error)}); its {store.TRAINING} may be damaged"
        return RunFailed(f"{reason}: remove this checkpoint to continue from the one before")

    def cut_logs(self) -> None:
        """Takes from the logs what was written after this checkpoint; called by rank 0, before anything is written."""
        run = self.run
        after = -1 if self.path is None else run.step
        reached = truncate_metrics(run.folder.metrics, after)
        samples.truncate_samples(run.folder.samples, after)
        last = next(iter(deque(read(run.folder.metrics), maxlen=1)), {})
        if last.get("step") == run.step and "train/loss" not in last:
            self.evaluated_before = last
        if self.path is None and reached:
            logger.warning(
                "%s has no checkpoint, but its metrics reach step %d: it starts again at 0", run.path, reached
            )
        every = run.experiment.train.log_every_steps
        logged = run.step - run.step % every or min(1, run.step)
        if reached < logged:
            message = "%s ends at step %d, before the checkpoint of step %d: what was measured in between is missing"
            logger.warning(message, run.folder.metrics, reached, run.step)

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Saves at once where the metric to go by is the best so far."""
        name = self.options.keep_best
        if name is None:
            return
        if name not in metrics:
            raise RunFailed(f"checkpoint.keep_best: no evaluator gives {name!r}{did_you_mean(name, metrics)}")
        if -math.inf < metrics[name] < self.best.get("value", float("inf")):
            self.best = {"step": self.run.step, "value": metrics[name]}
            self.save()

    def save(self) -> None:
        """Everything that the next step depends on: saved and restored, it is as if nothing had happened."""
        run = self.run
        if self.saved_at == run.step:
            return
        run.finite.check_model()
        training = {
            "step": run.step,
            "evaluated_at": run.evaluated_at,
            "seconds": run.seconds,
            "micro_batch_size": run.micro_batch_size,
            "best": self.best,
            "clipping": [run.finite.steps_read, run.finite.steps_clipped],
            "stop_reason": run.stop_reason,
            "optimizer": run.optimizer.state_dict(),
            "scaler": run.scaler.state_dict(),
            "rng": run.world.all_gather(rng_state()),
            "callbacks": run.hooks.state_dict(),
        }
        run.finite.check_state(training)
        self.prove()
        if run.rank == 0:
            run.log.sync()
        self.path = self.write(training, self.keep(self.options.keep_last + 1))  # the one before stays for now
        run.world.broadcast(None)  # rank 0 may write for long; who has ended meanwhile would be taken for lost
        self.saved_at, self.is_proven = run.step, False
        run.hooks.call("checkpoint_saved", run=run, step=run.step, path=self.path)

    def prove(self, ended: bool = False) -> None:
        """Forgets older checkpoints once the newest is known to be good: by the first step from it, or as a run ends.

        Finite weights may give a gradient that is not.
        """
        if self.is_proven or not (ended or self.run.finite.known_good >= self.saved_at):
            return
        self.is_proven = True
        if self.run.rank == 0 and self.path is not None:
            store.forget(self.folder, self.path, self.keep(self.options.keep_last))

    def keep(self, last: int) -> store.Keep:
        return store.Keep(last, self.options.keep_every_steps, self.best.get("step"))

    def write(self, training: Mapping[str, Any], keep: store.Keep) -> Path:
        run = self.run
        try:
            return store.save(self.folder, run.step, run.model, training, run.data.manifest.tokenizer.as_json(), keep)
        except (OSError, RuntimeError, SafetensorError) as error:  # what Python, torch and safetensors call a full disk
            if run.world.lost(error):
                raise
            free = shutil.disk_usage(run.path).free
            told = f"the checkpoint of step {run.step} cannot be written: {error} ({free:,} bytes are free there)"
            raise RunFailed(told) from error
