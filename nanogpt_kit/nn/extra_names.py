"""The names of a model's auxiliary losses, found without computing anything: on the meta device."""

from __future__ import annotations

import torch

from nanogpt_kit.core.kinds import Model
from nanogpt_kit.nn.concurrent_calls import preserved_random_state
from nanogpt_kit.nn.training_loss import TrainingLoss
from nanogpt_kit.nn.uninitialized import build_on_meta


def extra_names(model: Model) -> frozenset[str] | None:
    """The names of the extras that a pass in training gives; None where a part needs real numbers to compute them."""
    try:
        module = build_on_meta(model)
        if module is None:
            return None
        ids = torch.zeros(1, min(2, model.block_size), dtype=torch.int64, device="meta")
        with preserved_random_state():
            return frozenset(TrainingLoss.of(module.train()(ids, ids)).extras)
    except Exception:  # from a component's code, which may need real numbers; a run reports its mistakes
        return None
