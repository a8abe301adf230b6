"""The mean magnitude of features at each place of a network, and of their change by training.

The places are the input of the first block, each part of a block that has a matrix (mixer, MLP), each block, each other
module of the model with parameters (the last norm), the logits, and the mean loss of the windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.bench.width_slopes import LOGITS, Trajectory
from nanogpt_kit.nn.loss import IGNORED
from nanogpt_kit.nn.parts import HeadLinear, transformer_blocks

INPUT, LOSS = "input", "loss"

Windows = tuple[Tensor, Tensor, Tensor | None]  # ids, targets and segments (B, T)


class FeatureProbe:
    """Passes the same windows through a model, and measures features and their change since the first pass."""

    def __init__(self, model: nn.Module, windows: Windows) -> None:
        self.model = model
        self.windows = windows
        self.first: dict[str, Tensor] = {}
        self.trajectory = Trajectory()

    def measure(self) -> None:
        """One pass in eval mode, without gradients; appends to the trajectory."""
        found = self.features()
        self.first = self.first or found
        for place, features in found.items():
            self.trajectory.append(place, mean_magnitude(features), mean_magnitude(features - self.first[place]))

    @torch.no_grad()
    def features(self) -> dict[str, Tensor]:
        """The fp32 features of the windows at each place, in the order of the computation."""
        found: dict[str, Tensor] = {}
        was_training = self.model.training
        ids, targets, segments = self.windows
        with record_features(self.model, found):
            self.model.eval()
            logits = self.model(ids, **({} if segments is None else {"segments": segments})).float()  # (B, T, V)
            self.model.train(was_training)
        found[LOGITS] = logits
        # One number, in which the random changes of single logits cancel
        found[LOSS] = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        return found


@contextmanager
def record_features(model: nn.Module, found: dict[str, Tensor]) -> Iterator[None]:
    """While entered, a pass through the model puts the features of each place into `found`.

    Hooks are removed afterwards, since the windows of a batch are not split among threads while a module has some.
    """
    blocks = transformer_blocks(model)
    names = {module: name for name, module in model.named_modules()}
    inside = {module for block in blocks for module in block.modules()}
    outside = [part for part in model.children() if has_parameters(part) and not inside.intersection(part.modules())]
    places = [part for part in outside if not isinstance(part, HeadLinear | nn.Embedding)]
    places += [part for block in blocks for part in (*block.children(), block) if has_matrix(part)]

    def recorder(name: str) -> Callable[..., None]:
        def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            found[name] = (output[0] if isinstance(output, tuple) else output).float()  # (B, T, C)

        return record

    def record_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found[INPUT] = inputs[0].float()  # (B, T, C)

    with ExitStack() as stack:
        if blocks:
            stack.callback(blocks[0].register_forward_pre_hook(record_input).remove)
        for part in places:
            stack.callback(part.register_forward_hook(recorder(names[part])).remove)
        yield


def has_parameters(part: nn.Module) -> bool:
    return next(part.parameters(), None) is not None


def has_matrix(part: nn.Module) -> bool:
    """Whether a block or a part of one computes with a matrix; norms do not."""
    return any(parameter.ndim >= 2 for parameter in part.parameters())


def mean_magnitude(features: Tensor) -> float:
    """The mean over tokens and features; NaN where one is not finite."""
    mean = features.abs().mean().item()
    return mean if math.isfinite(mean) else math.nan
