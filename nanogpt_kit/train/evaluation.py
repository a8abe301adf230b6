"""Evaluation during a run and after it: in eval mode, with separate random numbers, so that training never changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nanogpt_kit.checkpoint.rng import isolated_rng
from nanogpt_kit.core.errors import Fault, KitError, RunFailed
from nanogpt_kit.core.evaluator_metrics import metric_of_source
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.hooks import Hooks
from nanogpt_kit.core.kinds import Encoder, Evaluator, LiveRun, Sampler, SplitLoss
from nanogpt_kit.core.options import TEST, TEST_IS_CLOSED, RunContext
from nanogpt_kit.data.batches import evaluation_batches
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.split import Split
from nanogpt_kit.generate.generator import TextGenerator
from nanogpt_kit.nn.sharded import reshard
from nanogpt_kit.runs import samples
from nanogpt_kit.train.batch_losses import BatchLosses
from nanogpt_kit.train.compile import eager_mode
from nanogpt_kit.train.finite import FiniteChecks
from nanogpt_kit.train.precision import Precision
from nanogpt_kit.train.world import World

DEFAULT_WINDOWS = 16  # of a batch where the experiment does not set it: enough to keep a processor busy


class Interrupted(Exception):
    """Ends a long evaluation when a signal asks the run to stop."""


@dataclass
class Evaluation:
    """The EvaluateContext of evaluators. They share the loss of each split, so that it is computed once."""

    generator: TextGenerator
    precision: Precision
    world: World
    batch_size: int
    data: Callable[[], PreparedData]
    interrupted: Callable[[], bool]
    show: Callable[[Sequence[str]], None]
    may_open_test: bool = False
    threads: int = 1  # that compute batches at once
    split_losses: dict[tuple[str, str], SplitLoss] = field(default_factory=dict)  # by split and source
    finite_metrics: set[str] = field(default_factory=set)  # names of metrics that must be finite
    source: str = ""  # whose losses it has; "": those of all sources together

    @property
    def model(self) -> nn.Module:
        return self.generator.model

    @property
    def encoder(self) -> Encoder:
        return self.generator.encoder

    @property
    def device(self) -> str:
        return self.generator.device

    @property
    def block_size(self) -> int:
        return self.generator.experiment.model.block_size

    def autocast(self) -> AbstractContextManager[object]:
        return self.precision.autocast()

    def check_stop(self) -> None:
        if self.interrupted():
            raise Interrupted

    def split_loss(self, split: str) -> SplitLoss:
        if split == TEST and not self.may_open_test:
            raise KitError(TEST_IS_CLOSED)
        if (split, self.source) not in self.split_losses:
            data = self.data()
            record = data.splits[split]
            text_bytes = [source.measured_bytes for source in record.sources] or [record.measured_bytes]
            losses = {
                (split, name): self._loss_of(part, size)
                for (name, part), size in zip(data.split(split).by_source.items(), text_bytes, strict=True)
            }
            self.split_losses |= {(split, ""): added_losses(losses.values()), **losses}
        return self.split_losses[split, self.source]

    def _loss_of(self, split: Split, text_bytes: int) -> SplitLoss:
        """The loss over a split or the part of one source; the text of its tokens that count has that many bytes."""
        losses = self.world.all_gather(list(self._batch_losses(split)))
        nats = sum(loss for of_ranks in zip(*losses, strict=True) for loss in of_ranks)  # in the batches' order
        first = np.zeros(1, np.int64)
        first_bytes = len(self.encoder.decode_bytes([int(split.tokens[0])])) if split.counts(first)[0] else 0
        return SplitLoss(nats, int(split.count_targets(first, len(split.tokens))[0]), text_bytes - first_bytes)

    def _batch_losses(self, split: Split) -> Iterator[float]:
        """The losses of this rank's batches."""
        ranks = {"rank": self.world.rank, "world_size": self.world.size}
        options = self.generator.experiment.model
        batches = evaluation_batches(split, self.block_size, self.batch_size, options.document_mask, **ranks)
        for loss in BatchLosses(self.model, options, self.precision, self.threads).of(batches):
            self.check_stop()
            yield loss

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, seed: int, samplers: Sequence[Sampler] | None = None
    ) -> list[str]:
        texts = list(prompts)
        for token in self.generator.stream_tokens(texts, max_new_tokens, seed=seed, samplers=samplers):
            self.check_stop()
            texts[token.text_index] += token.text
        return texts

    def measure(self, evaluators: Sequence[Evaluator]) -> dict[str, float]:
        """Runs the evaluators: {"val/loss": 1.9, ...}. Raises RunFailed for a result that is not a metric."""
        metrics: dict[str, float] = {}
        for evaluator in evaluators:
            measured = {**evaluator.evaluate(self), **self._measure_sources(evaluator)}
            for name, value in measured.items():
                if "/" not in name or name in metrics or not isinstance(value, int | float):
                    expected = "expected numbers under unique names such as val/loss"
                    raise RunFailed(f"evaluator {type(evaluator).__name__} returned {name!r}: {value!r}; {expected}")
            metrics |= measured
            if evaluator.requires_finite:
                self.finite_metrics |= measured.keys()
        return metrics

    def _measure_sources(self, evaluator: Evaluator) -> dict[str, float]:
        """What an evaluator measures of each source of the dataset."""
        return {
            metric_of_source(name, source): value
            for source in self.generator.experiment.dataset.sources
            if evaluator.measures_sources
            for name, value in evaluator.evaluate(replace(self, source=source)).items()
        }


def added_losses(losses: Iterable[SplitLoss]) -> SplitLoss:
    """The loss over the tokens of all of them."""
    columns = zip(*((loss.nats, loss.tokens, loss.text_bytes) for loss in losses), strict=True)
    return SplitLoss(*map(sum, columns))


def run_evaluators(
    evaluation: Evaluation, evaluators: Sequence[Evaluator], finite: FiniteChecks
) -> dict[str, float] | None:
    """The metrics of all evaluators: {"val/loss": 1.9, ...}; None where a signal interrupted them.

    Raises NotFinite where a metric is infinite or NaN, unless its evaluator allows that.
    """
    try:
        metrics = evaluation.measure(evaluators)
    except Interrupted:
        return None
    finite.check_metrics({name: metrics[name] for name in metrics if name in evaluation.finite_metrics})
    return metrics


def publish_samples(texts: Sequence[str], run: LiveRun, hooks: Hooks, file: Path) -> None:
    """Writes generated texts to samples.txt, and passes them to the callbacks."""
    is_new = run.rank or samples.add_samples(file, run.step, texts)
    resumed_here = run.step == run.first_step > 0  # so that the process before may have shown them
    hooks.call("sampled", trackers=bool(is_new or not resumed_here), run=run, step=run.step, texts=texts)


def evaluate_trained_model(
    generator: TextGenerator, show: Callable[[Sequence[str]], None], may_open_test: bool = False
) -> dict[str, float]:
    """Runs the evaluators of an experiment on a loaded model. Raises KitError where one refuses.

    `may_open_test` is for `measure_test_split` alone, which records that the test split was opened.
    """
    experiment = generator.experiment
    precision, _ = Precision.choose(experiment.train.precision, generator.device)
    ctx = RunContext(
        device=generator.device,
        precision=precision.name,
        world_size=1,
        splits=experiment.dataset.splits,
        block_size=experiment.model.block_size,
        may_open_test=may_open_test,
    )
    for index, evaluator in enumerate(experiment.evaluator):
        if reason := evaluator.refusal_reason(ctx):
            raise KitError(Fault(reason, f"evaluator.{index}", evaluator_location(experiment, index)))
    check_evaluators(experiment, generator.encoder)
    windows = experiment.evaluate.batch_size or experiment.train.micro_batch_size
    of_a_step = experiment.train.batch_tokens // experiment.model.block_size  # as written: no schedule is needed
    evaluation = Evaluation(
        generator,
        precision,
        World(),
        batch_size=windows if isinstance(windows, int) else min(of_a_step, DEFAULT_WINDOWS),
        data=partial(evaluation_data, generator),
        interrupted=lambda: False,
        show=show,
        may_open_test=may_open_test,
        threads=torch.get_num_threads(),
    )
    with isolated_rng(experiment.train.seed), torch.no_grad(), precision.matmul_precision():
        return evaluation.measure(experiment.evaluator)


def check_evaluators(experiment: Experiment, encoder: Encoder) -> None:
    """Raises KitError with a fault for each evaluator whose texts this vocabulary or context cannot hold."""
    faults: list[Fault] = []
    for index, evaluator in enumerate(experiment.evaluator):
        try:
            evaluator.check(encoder, experiment.model.block_size)
        except KitError as error:
            location = evaluator_location(experiment, index)
            faults += [fault.reported_at(f"evaluator.{index}", location) for fault in error.faults]
    if faults:
        raise KitError(*faults)


def evaluator_location(experiment: Experiment, index: int) -> str:
    return experiment.location(("evaluator", index, "use"))


def evaluation_data(generator: TextGenerator) -> PreparedData:
    """The tokens of the model's experiment. Raises KitError where the vocabulary has changed since the run."""
    state = generator.encoder.state() if generator.experiment.tokenizer.from_run else None  # that run may be gone
    data = prepare(generator.experiment, tokenizer_state=state)
    if data.encoder.state() != generator.encoder.state():
        raise KitError("the experiment's text has changed since the run, and with it its vocabulary")
    return data


@contextmanager
def eval_mode(model: nn.Module, threads: int, seed: int) -> Iterator[None]:
    """The model in eval mode, uncompiled, without gradients, and with random numbers separate from training's."""
    was_training, threads_before = model.training, torch.get_num_threads()
    model.eval()
    torch.set_num_threads(threads)
    try:
        with isolated_rng(seed), torch.no_grad(), eager_mode(model):
            yield
    finally:
        torch.set_num_threads(threads_before)
        reshard(model)
        model.train(was_training)
