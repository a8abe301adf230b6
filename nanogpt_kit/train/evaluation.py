"""Evaluation, in a run and after it: in eval mode, with random numbers of its own, so that training never notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from nanogpt_kit.checkpoint.rng import own_rng
from nanogpt_kit.core.errors import Fault, KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, Evaluator, Sampler, SplitLoss
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.data.batches import evaluation_batches
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.split import Split
from nanogpt_kit.generate.generator import TextGenerator
from nanogpt_kit.nn.sharded import reshard
from nanogpt_kit.runs import samples
from nanogpt_kit.train.compile import eager
from nanogpt_kit.train.precision import Precision
from nanogpt_kit.train.world import World

if TYPE_CHECKING:
    from nanogpt_kit.train.trainer import Trainer

MOST_WINDOWS = 16  # of a pass, where nothing is said: enough to keep a processor busy


class Interrupted(Exception):
    """A signal asks for an orderly end, which a long evaluation should not delay."""


@dataclass
class Evaluation:
    """What evaluators are given. The pass over a split is made once and shared."""

    loaded: TextGenerator
    precision: Precision
    world: World
    batch_size: int
    data: Callable[[], PreparedData]
    interrupted: Callable[[], bool]
    show: Callable[[Sequence[str]], None]
    known: dict[str, SplitLoss] = field(default_factory=dict)
    finite: set[str] = field(default_factory=set)  # names of metrics that must be

    @property
    def model(self) -> nn.Module:
        return self.loaded.model

    @property
    def encoder(self) -> Encoder:
        return self.loaded.encoder

    @property
    def device(self) -> str:
        return self.loaded.device

    @property
    def block_size(self) -> int:
        return self.loaded.experiment.model.block_size

    def autocast(self) -> AbstractContextManager[object]:
        return self.precision.autocast()

    def check_stop(self) -> None:
        if self.interrupted():
            raise Interrupted

    def split_loss(self, split: str) -> SplitLoss:
        if split not in self.known:
            data = self.data()
            tokens = data.split(split)
            found = self.world.all_gather(list(self._losses(tokens)))  # of each rank, its batches'
            nats = sum(loss for round_ in zip(*found, strict=True) for loss in round_)  # in the order of the batches
            first = len(self.encoder.decode_bytes([int(tokens.tokens[0])]))
            text_bytes = data.splits[split].bytes - first
            self.known[split] = SplitLoss(nats, len(tokens.tokens) - 1, text_bytes)
        return self.known[split]

    def _losses(self, split: Split) -> Iterator[float]:
        """Of this rank's batches, as Python's floats: a split may be long, and they have double precision."""
        share = {"rank": self.world.rank, "world_size": self.world.size}
        masked = self.loaded.experiment.model.document_mask
        for batch in evaluation_batches(split, self.block_size, self.batch_size, masked, **share):
            self.check_stop()
            here = batch.to(self.device)
            more = {} if here.segments is None else {"segments": here.segments}
            with self.autocast():
                loss = self.model(here.ids, here.targets, **more)
            yield loss.item()

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, seed: int, samplers: Sequence[Sampler] | None = None
    ) -> list[str]:
        texts = list(prompts)
        for piece in self.loaded.stream_tokens(texts, max_new_tokens, seed=seed, samplers=samplers):
            self.check_stop()
            texts[piece.text_index] += piece.text
        return texts

    def measure(self, evaluators: Sequence[Evaluator]) -> dict[str, float]:
        """What they find: {"val/loss": 1.9, ...}. Raises RunFailed for what are no metrics."""
        metrics: dict[str, float] = {}
        for evaluator in evaluators:
            found = evaluator.evaluate(self)
            for name, value in found.items():
                if "/" not in name or name in metrics or not isinstance(value, int | float):
                    expected = "expected numbers under names of their own, such as val/loss"
                    raise RunFailed(f"evaluator {type(evaluator).__name__} gave {name!r}: {value!r}; {expected}")
            metrics |= found
            if evaluator.finite:
                self.finite |= found.keys()
        return metrics


def run_evaluators(run: Trainer) -> dict[str, float] | None:
    """Every evaluator of the experiment: {"val/loss": 1.9, ...}; None where a signal came meanwhile.

    Raises NotFinite where a metric is infinite or NaN, unless its evaluator says that it may be.
    """
    ctx = Evaluation(
        TextGenerator(run.experiment, run.model, run.data.encoder, run.precision.device),
        run.precision,
        run.world,
        batch_size=run.experiment.evaluate.batch_size or run.micro_batch_size,
        data=lambda: run.data,
        interrupted=run.interrupted,
        show=partial(publish_samples, run),
    )
    with eval_mode(run, run.experiment.train.seed):
        try:
            metrics = ctx.measure(run.experiment.evaluator)
        except Interrupted:
            return None
        run.finite.check_metrics({name: metrics[name] for name in metrics if name in ctx.finite})
        return metrics


def publish_samples(run: Trainer, texts: Sequence[str]) -> None:
    """What the model wrote, into samples.txt and to the callbacks."""
    is_new = run.rank or samples.add_samples(run.folder.samples, run.step, texts)
    resumed_here = run.step == run.first_step > 0  # so that the process before may have shown them
    run.hooks.call("sampled", trackers=bool(is_new or not resumed_here), run=run, step=run.step, texts=texts)


def evaluate_loaded(loaded: TextGenerator, show: Callable[[Sequence[str]], None]) -> dict[str, float]:
    """The evaluators of an experiment, on a model that was loaded. Raises KitError where one refuses."""
    experiment = loaded.experiment
    precision, _ = Precision.choose(experiment.train.precision, loaded.device)
    ctx = RunContext(
        device=loaded.device,
        precision=precision.name,
        world_size=1,
        splits=experiment.dataset.splits,
        block_size=experiment.model.block_size,
    )
    for number, evaluator in enumerate(experiment.evaluator):
        if reason := evaluator.refuses(ctx):
            raise KitError(Fault(reason, f"evaluator.{number}", place_of(experiment, number)))
    check_evaluators(experiment, loaded.encoder)
    wanted = experiment.evaluate.batch_size or experiment.train.micro_batch_size
    evaluation = Evaluation(
        loaded,
        precision,
        World(),
        batch_size=wanted if isinstance(wanted, int) else min(experiment.batch_windows, MOST_WINDOWS),
        data=partial(data_of, loaded),
        interrupted=lambda: False,
        show=show,
    )
    with own_rng(experiment.train.seed), torch.no_grad(), precision.in_force():
        return evaluation.measure(experiment.evaluator)


def check_evaluators(experiment: Experiment, encoder: Encoder) -> None:
    """Raises KitError with each evaluator whose texts are none in this vocabulary."""
    faults: list[Fault] = []
    for number, evaluator in enumerate(experiment.evaluator):
        try:
            evaluator.check(encoder, experiment.model.block_size)
        except KitError as error:
            place = place_of(experiment, number)
            faults += [fault.under(f"evaluator.{number}", place) for fault in error.faults]
    if faults:
        raise KitError(*faults)


def place_of(experiment: Experiment, number: int) -> str:
    """Where an evaluator was written."""
    return experiment.location(("evaluator", number, "use"))


def data_of(loaded: TextGenerator) -> PreparedData:
    """The tokens of its experiment. Raises KitError where they are of another vocabulary by now."""
    data = prepare(loaded.experiment)
    if data.encoder.state() != loaded.encoder.state():
        raise KitError("the experiment's text has changed since the run, and with it its vocabulary")
    return data


@contextmanager
def eval_mode(run: Trainer, seed: int) -> Iterator[None]:
    """The model in eval mode, not compiled, without gradients, and random numbers that training does not share."""
    model = run.model
    was_training, threads = model.training, torch.get_num_threads()
    model.eval()
    torch.set_num_threads(run.cores.undivided)
    try:
        with own_rng(seed), torch.no_grad(), eager(model):
            yield
    finally:
        torch.set_num_threads(threads)
        reshard(model)
        model.train(was_training)
