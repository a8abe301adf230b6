"""Evaluation: whole splits, in eval mode, with random numbers of its own, so that training never notices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from nanogpt_kit.checkpoint.rng import own_rng
from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, SplitLoss
from nanogpt_kit.data.batches import every_token_once
from nanogpt_kit.data.manifest import Prepared
from nanogpt_kit.train.precision import Precision
from nanogpt_kit.train.stop import StopSignals


class Interrupted(Exception):
    """A signal asks for an orderly end, which a long evaluation should not delay."""


class Evaluation:
    """What evaluators are given. The pass over a split is made once and shared."""

    def __init__(
        self, model: nn.Module, data: Prepared, experiment: Experiment, precision: Precision, stop: StopSignals
    ) -> None:
        self.model = model
        self.data = data
        self.block_size = experiment.model.block_size
        self.document_mask = experiment.model.document_mask
        self.batch_size = experiment.evaluate.batch_size or experiment.micro_batch_size
        self.precision = precision
        self.stop = stop
        self.known: dict[str, SplitLoss] = {}

    @property
    def encoder(self) -> Encoder:
        return self.data.encoder

    def split_loss(self, split: str) -> SplitLoss:
        if split not in self.known:
            tokens, device = self.data.split(split), self.precision.device
            nats = 0.0  # summed in double precision: a split may be long
            for batch in every_token_once(tokens, self.block_size, self.batch_size, self.document_mask):
                more = {} if batch.segments is None else {"segments": batch.segments.to(device)}
                if self.stop.name:
                    raise Interrupted
                with self.precision.autocast():
                    nats += self.model(batch.ids.to(device), batch.targets.to(device), **more).item()
            first = len(self.encoder.decode_bytes([int(tokens.tokens[0])]))
            self.known[split] = SplitLoss(nats, len(tokens.tokens) - 1, self.data.splits[split]["bytes"] - first)
        return self.known[split]


def evaluate(
    model: nn.Module, data: Prepared, experiment: Experiment, precision: Precision, stop: StopSignals
) -> dict[str, float] | None:
    """Every evaluator of the experiment: {"val/loss": 1.9, ...}; None where a signal came meanwhile."""
    metrics: dict[str, float] = {}
    with apart(model, experiment.train.seed):
        ctx = Evaluation(model, data, experiment, precision, stop)
        for evaluator in experiment.evaluator:
            try:
                found = evaluator.evaluate(ctx)
            except Interrupted:
                return None
            for name, value in found.items():
                if "/" not in name or name in metrics or not isinstance(value, int | float):
                    expected = "expected numbers under names of their own, such as val/loss"
                    raise RunFailed(f"evaluator {type(evaluator).__name__} gave {name!r}: {value!r}; {expected}")
            metrics |= found
    return metrics


@contextmanager
def apart(model: nn.Module, seed: int) -> Iterator[None]:
    """The model in eval mode, without gradients, and random numbers that training does not share."""
    was_training = model.training
    model.eval()
    try:
        with own_rng(seed), torch.no_grad():
            yield
    finally:
        model.train(was_training)
