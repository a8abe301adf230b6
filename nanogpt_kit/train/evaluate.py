"""Evaluation: whole splits, in eval mode, with random numbers of its own, so that training never notices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from nanogpt_kit.checkpoint.rng import own_rng
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, SplitLoss
from nanogpt_kit.data.batches import every_token_once
from nanogpt_kit.data.manifest import Prepared
from nanogpt_kit.train.precision import Precision


class Evaluation:
    """What evaluators are given. The pass over a split is made once and shared."""

    def __init__(self, model: nn.Module, data: Prepared, experiment: Experiment, precision: Precision) -> None:
        self.model = model
        self.data = data
        self.block_size = experiment.model.block_size
        self.batch_size = experiment.evaluate.batch_size or experiment.micro_batch_size
        self.precision = precision
        self.known: dict[str, SplitLoss] = {}

    @property
    def encoder(self) -> Encoder:
        return self.data.encoder

    def split_loss(self, split: str) -> SplitLoss:
        if split not in self.known:
            tokens = self.data.tokens(split)
            nats = 0.0  # summed in double precision: a split may be long
            for batch in every_token_once(tokens, self.block_size, self.batch_size):
                ids, targets = batch.ids.to(self.precision.device), batch.targets.to(self.precision.device)
                with self.precision.autocast():
                    nats += self.model(ids, targets).item()
            first = len(self.encoder.decode_bytes([int(tokens[0])]))
            self.known[split] = SplitLoss(nats, len(tokens) - 1, self.data.splits[split]["bytes"] - first)
        return self.known[split]


def evaluate(model: nn.Module, data: Prepared, experiment: Experiment, precision: Precision) -> dict[str, float]:
    """Every evaluator of the experiment: {"val/loss": 1.9, ...}."""
    metrics: dict[str, float] = {}
    with apart(model, experiment.train.seed):
        ctx = Evaluation(model, data, experiment, precision)
        for evaluator in experiment.evaluator:
            metrics |= evaluator.evaluate(ctx)
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
