"""Evaluation: whole splits, in eval mode, with random numbers of its own, so that training never notices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from nanogpt_kit.checkpoint.rng import own_rng
from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.kinds import Encoder, SplitLoss
from nanogpt_kit.data.batches import every_token_once
from nanogpt_kit.data.split import Split
from nanogpt_kit.nn.spread import reshard
from nanogpt_kit.train.compile import as_written

if TYPE_CHECKING:
    from nanogpt_kit.train.trainer import Trainer


class Interrupted(Exception):
    """A signal asks for an orderly end, which a long evaluation should not delay."""


class Evaluation:
    """What evaluators are given. The pass over a split is made once and shared."""

    def __init__(self, run: Trainer) -> None:
        self.run = run
        self.model = run.model
        self.encoder: Encoder = run.data.encoder
        self.batch_size = run.experiment.evaluate.batch_size or run.micro_batch_size
        self.known: dict[str, SplitLoss] = {}

    def split_loss(self, split: str) -> SplitLoss:
        if split not in self.known:
            tokens = self.run.data.split(split)
            found = self.run.world.all_say(list(self._losses(tokens)))  # of each rank, its batches'
            nats = sum(loss for round_ in zip(*found, strict=True) for loss in round_)  # in the order of the batches
            first = len(self.encoder.decode_bytes([int(tokens.tokens[0])]))
            text_bytes = self.run.data.splits[split]["bytes"] - first
            self.known[split] = SplitLoss(nats, len(tokens.tokens) - 1, text_bytes)
        return self.known[split]

    def _losses(self, split: Split) -> Iterator[float]:
        """Of this rank's batches, as Python's floats: a split may be long, and they have double precision."""
        run, model = self.run, self.run.experiment.model
        share = {"rank": run.world.rank, "world_size": run.world.size}
        for batch in every_token_once(split, model.block_size, self.batch_size, model.document_mask, **share):
            if run.interrupted():
                raise Interrupted
            here = batch.to(run.precision.device)
            more = {} if here.segments is None else {"segments": here.segments}
            with run.precision.autocast():
                loss = self.model(here.ids, here.targets, **more)
            yield loss.item()


def evaluate(run: Trainer) -> dict[str, float] | None:
    """Every evaluator of the experiment: {"val/loss": 1.9, ...}; None where a signal came meanwhile."""
    metrics: dict[str, float] = {}
    with apart(run, run.experiment.train.seed):
        ctx = Evaluation(run)
        for evaluator in run.experiment.evaluator:
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
def apart(run: Trainer, seed: int) -> Iterator[None]:
    """The model in eval mode, not compiled, without gradients, and random numbers that training does not share."""
    model = run.model
    was_training, threads = model.training, torch.get_num_threads()
    model.eval()
    torch.set_num_threads(run.cores.undivided)
    try:
        with own_rng(seed), torch.no_grad(), as_written(model):
            yield
    finally:
        torch.set_num_threads(threads)
        reshard(model)
        model.train(was_training)
