"""What a model returns in training besides its loss: auxiliary losses, which its parts return with their results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

LOSS_WEIGHTS = "loss."  # beginning of the names of weights that a model's loss has, which only training uses


class TrainingLoss(NamedTuple):
    """The sums over the tokens of a pass, fp32 scalars."""

    objective: Tensor  # what training minimizes: the loss and all extras
    loss: Tensor  # the cross-entropy in nats, without gradient
    extras: dict[str, Tensor]  # auxiliary losses by name, without gradient

    @classmethod
    def of(cls, computed: Tensor | TrainingLoss) -> TrainingLoss:
        """What a model has returned; a tensor is a loss without extras."""
        return computed if isinstance(computed, TrainingLoss) else cls(computed, computed.detach(), {})


def is_loss_weight(name: str) -> bool:
    """Whether a weight of a model is one of its loss."""
    return name.startswith(LOSS_WEIGHTS)


def take_extra(extras: dict[str, Tensor], part: str, output: Any) -> Tensor:
    """The result y of a part that has returned y or (y, extra); the extra is added to `extras`.

    An extra is an fp32 sum over the part's tokens, named after the `part`, or a dict of such sums by name.
    """
    if not isinstance(output, tuple):
        y: Tensor = output
        return y
    y, extra = output
    for name, value in (extra if isinstance(extra, Mapping) else {part: extra}).items():
        extras[name] = extras[name] + value if name in extras else value
    return y


def add_extras(computed: Tensor | TrainingLoss, extras: Mapping[str, Tensor]) -> Tensor | TrainingLoss:
    """A loss with the extras of the model's parts; unchanged where there are none."""
    if not extras:
        return computed
    objective, loss, others = TrainingLoss.of(computed)
    detached = {name: value.detach() for name, value in extras.items()}
    return TrainingLoss(objective + sum(extras.values()), loss, {**detached, **others})
