"""What a model returns in training besides its loss: auxiliary losses, which its parts return with their results.

An auxiliary loss (an extra) is added to what training minimizes, and logged as `aux/<name>`. It depends on the weights
and on the tokens of the pass alone, never on the state of a module: passes are split into micro-batches, threads and
ranks, and repeated by activation checkpointing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nanogpt_kit.core.errors import KitError

EXAMPLE = "load_balance"  # of a name
REMEDY = "it should be the sum over the tokens, a scalar in fp32, as values.float().sum() gives it"


class TrainingLoss(NamedTuple):
    """The sums over the tokens of a pass, fp32 scalars. The objective is the loss plus all extras."""

    objective: Tensor  # what training minimizes
    loss: Tensor  # the cross-entropy in nats, without gradient
    extras: dict[str, Tensor]  # auxiliary losses by name, without gradient

    @classmethod
    def of(cls, computed: Tensor | TrainingLoss) -> TrainingLoss:
        """What a model has returned; a tensor is a loss without extras. Raises KitError for wrong extras."""
        if not isinstance(computed, TrainingLoss):
            return cls(computed, computed.detach(), {})
        for name, value in computed.extras.items():
            check_extra("the model", name, value)
        return computed

    def counted(self, is_counted: bool) -> TrainingLoss:
        """Zero for windows that do not count, as those that only fill up the batch of a rank: also in the extras."""
        if is_counted or not self.extras:
            return self
        extras = {name: value * 0 for name, value in self.extras.items()}
        return TrainingLoss(self.objective * 0, self.loss * 0, extras)

    def metrics(self, all_tokens: int) -> dict[str, Tensor]:
        """The means over all tokens of a step, as it logs them: {"train/loss": ..., "aux/load_balance": ...}."""
        extras = {f"aux/{name}": value / all_tokens for name, value in self.extras.items()}
        return {"train/loss": self.loss.float() / all_tokens, **extras}


def sum_by_name(passes: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The sums over several passes, which all have the same names. Raises KitError where they do not."""
    first = passes[0]
    for one in passes:
        if one.keys() != first.keys():
            names = ", ".join(sorted(one.keys() ^ first.keys()))
            raise KitError(f"the model returned {names} in some passes only; every pass should return the same extras")
    return {name: reduce(torch.add, [one[name] for one in passes]) for name in first}


def take_extra(extras: dict[str, Tensor], part: str, output: Any) -> Tensor:
    """The result y of a part that has returned y or (y, extra); the extra is added to `extras`.

    An extra is an fp32 sum over the part's tokens, named after the `part`, or a dict of such sums by name. Those of one
    name are added, whichever parts return them. Raises KitError where it is something else.
    """
    if isinstance(output, Tensor):
        return output
    if not isinstance(output, tuple):
        raise KitError(f"{part} returned a {type(output).__name__}; it should return a tensor y, or a tuple (y, extra)")
    if len(output) != 2:
        raise KitError(f"{part} returned a tuple of {len(output)}; it should return y, or (y, extra)")
    y: Tensor
    y, extra = output
    for name, value in (extra if isinstance(extra, Mapping) else {part: extra}).items():
        check_extra(part, name, value)
        extras[name] = extras[name] + value if name in extras else value
    return y


def add_extras(computed: Tensor | TrainingLoss, extras: Mapping[str, Tensor]) -> Tensor | TrainingLoss:
    """A loss with the extras of the model's parts; unchanged where there are none.

    Raises KitError where the loss has an extra of the same name.
    """
    if not extras:
        return computed
    objective, loss, others = TrainingLoss.of(computed)
    for name in others:
        if name in extras:
            raise KitError(f"the loss and a part of the model both return an extra named {name!r}; rename one of them")
    detached = {name: value.detach() for name, value in extras.items()}
    return TrainingLoss(objective + sum(extras.values()), loss, {**detached, **others})


def check_extra(part: str, name: object, value: object) -> None:
    """Raises KitError unless the name is a plain word and the value a scalar tensor in fp32."""
    if not (isinstance(name, str) and name.isascii() and name.isidentifier()):
        raise KitError(f"{part} returned an extra named {name!r}; the name should be one word, such as {EXAMPLE!r}")
    if not isinstance(value, Tensor):
        raise KitError(f"the extra {name!r} of {part} is a {type(value).__name__}; {REMEDY}")
    if value.dim() or value.dtype != torch.float32:
        found = f"a tensor of shape {tuple(value.shape)} in {str(value.dtype).removeprefix('torch.')}"
        raise KitError(f"the extra {name!r} of {part} is {found}; {REMEDY}")
