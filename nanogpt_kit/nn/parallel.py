"""ParallelModel, the base class of the models that `Parallel.wrap` returns."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

from torch import Tensor, nn

from nanogpt_kit.nn.parts import transformer_blocks
from nanogpt_kit.nn.sharded import clip_gradients
from nanogpt_kit.nn.training_loss import TrainingLoss


class ParallelModel:
    """A model as one process computes it: call it like the model. Subclasses lay it out over several processes.

    They sum gradients over the processes and do not average them: the loss is already divided by the tokens of all.

    `gradients_stay_local`: gradients that are computed after `sync(last=False)` are in `parameter.grad` only, where
    `zero_grad` discards them. The first passes, which compile, are then computed so: a rank whose compiling fails would
    not take part in a reduction, and the others would wait for it.
    """

    gradients_stay_local: ClassVar[bool] = False

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = list(model.parameters())

    def __call__(self, ids: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor | TrainingLoss:
        """The fp32 sum of the losses of ids (B, T) given targets (B, T), or a TrainingLoss: what the model returns."""
        more = {} if segments is None else {"segments": segments}
        loss: Tensor | TrainingLoss = self.model(ids, targets, **more)
        return loss

    def sync(self, last: bool) -> AbstractContextManager[None]:
        """Entered around each micro-step: gradients are reduced on the last one only."""
        return nullcontext()

    def clip(self, max_norm: float) -> Tensor:
        """Scales the gradients down to `max_norm` (0 leaves them); returns the norm that they had."""
        return clip_gradients(self.parameters, max_norm)

    @staticmethod
    def blocks(model: nn.Module) -> list[nn.Module]:
        """The blocks of a transformer: the members of the outermost module lists, in order."""
        return transformer_blocks(model)
