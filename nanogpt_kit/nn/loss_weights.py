"""The weights of a model's loss: the names of those in its slot `loss` begin with `loss.`. Only training uses them."""

from __future__ import annotations

PREFIX = "loss."


def is_loss_weight(name: str) -> bool:
    """Whether a weight of a model, by its name, is one of its loss."""
    return name.startswith(PREFIX)
