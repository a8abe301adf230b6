"""The hook `batch_ready`: callbacks change the windows of a step before the model sees them."""

from __future__ import annotations

from dataclasses import replace

from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.hooks import Hooks
from nanogpt_kit.core.kinds import LiveRun
from nanogpt_kit.data.batches import Batch
from nanogpt_kit.nn.loss import IGNORED
from nanogpt_kit.train.world import World


def batch_after_hooks(batch: Batch, run: LiveRun, hooks: Hooks, world: World) -> Batch:
    """The batch as the callbacks leave it, with the targets of all ranks counted again; where none has the hook, as it
    is. Raises RunFailed where a tensor has another shape, or a token is not one of the vocabulary."""
    if not hooks.implementations["batch_ready"]:
        return batch
    names = hooks.participants("batch_ready")
    shape = batch.ids.shape
    hooks.call("batch_ready", run=run, step=run.step, batch=batch)
    if not names:  # trackers only look
        return batch
    for name, tensor in (("ids", batch.ids), ("targets", batch.targets), ("segments", batch.segments)):
        if tensor is not None and tensor.shape != shape:
            left = f"{names} left {name} of shape {tuple(tensor.shape)} in the batch of step {run.step + 1}"
            raise RunFailed(f"{left}; expected {tuple(shape)}: change values only")
    batch.targets[batch.n_windows :] = IGNORED  # those only make the batches of all ranks equally large
    for name, tensor, least in (("ids", batch.ids, 0), ("targets", batch.targets, IGNORED)):
        low, high = (int(bound) for bound in tensor.aminmax())
        if low < least or high >= run.vocab_size:
            expected = f"expected {least} to {run.vocab_size - 1}"
            raise RunFailed(f"{names} left {name} from {low} to {high} in the batch of step {run.step + 1}; {expected}")
    counted = {"targets": (batch.targets >= 0).sum()}
    return replace(batch, all_tokens=int(world.sum(counted)["targets"]))
