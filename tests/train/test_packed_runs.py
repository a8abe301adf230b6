"""Runs on windows of whole documents: the losses of the documents alone, resumed and on several ranks the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nanogpt_kit.api import ModelContext, OrderContext
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.components.order.documents import Documents
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.batches import Batches
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.data.split import Split
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.train import session
from tests.train.test_parallel import losses, run, runs, weights

pytestmark = pytest.mark.usefixtures("with_dropout")


BLOCK, VOCAB, EOT = 24, 13, 12
DOCUMENTS = ("order=documents", "model.document_mask=true", "model.position=rope", "dataset.source={}/stories.jsonl")


@pytest.fixture
def stories(tiny: Path) -> Path:
    """An experiment on documents that are shorter and longer than its windows of 16."""
    texts = [f"{n}: " + "ab " * (n * n % 11) for n in range(300)]
    tiny.with_name("stories.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return tiny


def documents(stories: Path, *more: str) -> list[str]:
    return [word.format(stories.parent) for word in (*DOCUMENTS, *more)]


def model_of(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = GPT(n_layer=2, n_head=4, n_embd=24, block_size=BLOCK, **options).build(ModelContext(vocab_size=VOCAB))
    GPT2(std=0.3).apply(model, parameter_shapes(model))
    return model.eval().double()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "naive"])
@pytest.mark.parametrize("position", ["rope", "alibi", "none"])
def test_the_loss_of_a_batch_is_the_sum_of_its_documents_own_losses(position: str, attention: str) -> None:
    """For positions that count in differences alone: a document's own begin anywhere in its window."""
    generator = np.random.default_rng(4)
    sizes = generator.integers(2, 15, 50)
    tokens = generator.integers(0, EOT, sizes.sum()).astype(np.uint16)
    firsts = np.cumsum(sizes) - sizes
    tokens[firsts[1:] - 1] = tokens[-1] = EOT
    split = Split(tokens, firsts, has_eot=True)
    ctx = OrderContext(
        n_tokens=len(tokens),
        block_size=BLOCK,
        first_window=0,
        batch_windows=30,  # more than an epoch
        seed=3,
        documents=firsts,
        has_eot=True,
    )
    batch = Batches(split, Documents(), ctx, with_segments=True).at(0)
    model = model_of(position=position, attention=attention)
    together = model(batch.ids, batch.targets, segments=batch.segments)
    packed, alone = Documents().packed(0, ctx), 0.0
    for start, length in zip(packed.starts.tolist(), packed.lengths.tolist(), strict=True):
        text = torch.from_numpy(tokens[start : start + length + 1].astype(np.int64))[None]
        alone += model(text[:, :-1], text[:, 1:]).item()
    assert together.item() == pytest.approx(alone, rel=1e-6)
    assert len(packed.starts) > 40


def test_a_resumed_run_is_the_same_to_the_bit(stories: Path) -> None:
    options = documents(stories, "callback=[]", "sample.num_samples=0", "schedule=constant")
    whole = session.run(Experiment.load(stories, options))
    begun = session.run(Experiment.load(stories, [*options, "train.steps=10"]))
    resumed = session.run(Experiment.load(stories, options), resume=str(begun.path))
    assert lines(resumed) == lines(whole)
    training = [line["train/loss"] for line in lines(whole) if "train/loss" in line]
    assert training[-1] < training[0] - 1


def lines(folder: RunFolder) -> list[dict[str, float]]:
    names = ("step", "tokens", "train/loss", "optim/grad_norm", "val/loss")
    return [{name: line[name] for name in names if name in line} for line in read_metrics(folder.metrics)]


def test_tokens_in_the_metrics_are_places_of_the_batch(stories: Path) -> None:
    options = documents(stories, "callback=[]", "sample.num_samples=0", "train.steps=3")
    experiment = Experiment.load(stories, options)
    found = [line["tokens"] for line in lines(session.run(experiment)) if "train/loss" in line]
    assert found == [80, 160, 240]
    split = prepare(experiment).split("train")
    assert split.has_eot


@pytest.mark.slow
def test_ranks_killed_and_resumed_and_any_number_of_them_train_the_same(stories: Path) -> None:
    more = documents(stories, "train.steps=24", "checkpoint.every_steps=5", "train.batch_tokens=112")
    one, two, four, killed, resumed = runs(
        *(run(stories, size, *more, f"name=n{size}") for size in (1, 2, 4)),
        run(stories, 2, *more, "name=killed", kill=[1, 7]),
        run(stories, 2, *more, "name=killed", resume=""),
    )
    assert -9 in killed["codes"]
    for other in (two, four, resumed):
        assert losses(other) == pytest.approx(losses(one), abs=1e-5)
        assert losses(other, "val/loss") == pytest.approx(losses(one, "val/loss"), abs=1e-5)
    assert losses(resumed) == losses(two)
    assert all(torch.equal(weights(resumed)[name], weight) for name, weight in weights(two).items())
