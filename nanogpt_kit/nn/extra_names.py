"""The names of a model's auxiliary losses, found without computing anything: with tensors that have shapes only."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nanogpt_kit.core.kinds import Model, ModelContext
from nanogpt_kit.nn.concurrent_calls import preserved_random_state
from nanogpt_kit.nn.training_loss import TrainingLoss


def extra_names(model: Model) -> frozenset[str] | None:
    """The names of the extras that a pass in training gives; None where a part needs real numbers to compute them."""
    # On the meta device, which needs no such mode, parts that ask for the device of their input may fail
    with preserved_random_state(), FakeTensorMode(allow_non_fake_inputs=True):
        try:
            module = model.build(ModelContext(vocab_size=1)).train()
            ids = torch.zeros(1, min(2, model.block_size), dtype=torch.int64)
            return frozenset(TrainingLoss.of(module(ids, ids)).extras)
        except Exception:  # from a component's code, which may need real numbers; a run reports its mistakes
            return None
