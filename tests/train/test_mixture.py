"""Runs on a mixture: proportions of the windows, the loss of each source, passes, and resuming."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.evaluator_metrics import evaluator_metrics
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import OrderContext
from nanogpt_kit.data.batches import Batches
from nanogpt_kit.data.order_of_sources import order_of_sources
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.data.proportions import quota_of
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.train import session
from nanogpt_kit.train.evaluation import evaluate_trained_model
from nanogpt_kit.train.open_test import measure_test_split
from nanogpt_kit.train.passes import check_passes
from tests.data.mixtures import alone, mixture, sentences
from tests.train.test_parallel import losses, run, runs

FAST = {"callback": [], "sample.num_samples": 0, "model.dropout": 0.0}


@pytest.fixture
def mixed(tiny: Path) -> Experiment:
    """Three windows of letters to one of digits."""
    digits = [" ".join(str(number**3) for number in range(first, first + 30)) for first in range(50)]
    letters = {"texts": sentences("words", 60), "weight": 3}
    experiment = mixture(tiny, letters=letters, digits={"texts": digits, "weight": 1})
    return experiment.with_(FAST)


def digit_windows(ids: np.ndarray) -> np.ndarray:
    """(W,) whether a window of bytes is of the part of digits: the other part has a lowercase letter in each window."""
    return ~((ids >= ord("a")) & (ids <= ord("z"))).any(axis=1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its ranks")
def test_three_to_one_on_one_two_and_three_ranks_and_after_a_kill(mixed: Experiment, tiny: Path) -> None:
    """7 windows a step, so that no step has the proportions by itself."""
    short = {"train.batch_tokens": 7 * 16, "train.steps": 12, "checkpoint.every_steps": 5, "evaluate.every_steps": 6}
    mixed = mixed.with_(short)
    tiny.write_text(mixed.to_toml(), encoding="utf-8")
    dies = [run(tiny, 2, "name=dies", kill=[1, 8]), run(tiny, 2, "name=dies", resume="")]
    one, *others, died, resumed = runs(*(run(tiny, size, f"name=n{size}") for size in (1, 2, 3)), *dies)
    expected = one["ranks"][0]["batches"]
    for other in others:
        assert windows_of(other) == expected
        assert losses(other) == pytest.approx(losses(one), abs=1e-5)
        for name in ("val/loss", "val/loss/letters", "val/loss/digits"):
            assert losses(other, name) == pytest.approx(losses(one, name), abs=1e-5)
    assert died["codes"] != [0, 0]
    assert windows_of(resumed) == expected[5:]  # from the checkpoint of step 5
    assert losses(resumed) == losses(others[0])  # to the bit
    of_digits = windows = 0
    for is_digits in digit_windows(training_windows(mixed, 12)):
        of_digits, windows = of_digits + int(is_digits), windows + 1
        assert abs(of_digits - windows / 4) < 1
    assert (of_digits, windows) == (21, 84)


def windows_of(answer: dict[str, Any]) -> list[list[int]]:
    """The checksums of the windows of each step, those of the ranks one after the other."""
    ranks = [rank["batches"] for rank in answer["ranks"]]
    return [[window for rank in ranks for window in rank[step]] for step in range(len(ranks[0]))]


def training_windows(experiment: Experiment, n_steps: int) -> np.ndarray:
    """(W, T) the tokens of all windows of a run's first steps."""
    data = prepare(experiment)
    split = data.split("train")
    ctx = OrderContext(
        n_tokens=len(split.tokens),
        block_size=experiment.model.block_size,
        first_window=0,
        batch_windows=experiment.step_plan.at(0).n_windows,
        seed=experiment.train.seed,
    )
    batches = Batches(split, order_of_sources(experiment.order, split, quota_of(experiment, data)), ctx)
    return np.concatenate([batches.at(step).ids.numpy() for step in range(n_steps)])


@pytest.mark.parametrize("mask", [False, True])
def test_the_loss_of_a_source_is_that_of_evaluating_it_alone(mask: bool, mixed: Experiment, tiny: Path) -> None:
    mixed = mixed.with_({"model.document_mask": mask, "model.position": "rope"})
    folder = session.run(mixed)
    metrics = {name: value for row in read_metrics(folder.metrics) for name, value in row.items()}
    model = load_run(folder)
    of_parts = []
    for name in ("letters", "digits"):
        on_part = alone(tiny, name).with_({"model.document_mask": mask, "model.position": "rope"})
        measured = evaluate_trained_model(replace(model, experiment=on_part), show=lambda _: None)
        for metric in ("val/loss", "val/bits_per_byte"):
            assert metrics[f"{metric}/{name}"] == measured[metric]
        of_parts.append((measured["val/loss"], prepare(on_part).splits["val"]))
    tokens = [record.tokens - 1 for _, record in of_parts]
    nats = [loss * count for (loss, _), count in zip(of_parts, tokens, strict=True)]
    assert metrics["val/loss"] == pytest.approx(sum(nats) / sum(tokens), rel=1e-12)
    read = [record.bytes - 1 for _, record in of_parts]  # all but the first token, which is one byte here
    assert metrics["val/bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / sum(read), rel=1e-12)


def test_the_test_split_of_each_source_is_opened_with_that_of_all(tiny: Path) -> None:
    with_test = {"test_fraction": 0.2}
    experiment = mixture(
        tiny,
        code={"texts": sentences("code", 60), "dataset": with_test},
        notes={"texts": sentences("notes", 60), "dataset": with_test},
    )
    opened = measure_test_split(session.run(experiment.with_(FAST).with_({"train.steps": 1})))
    assert set(opened.metrics) == {f"test/{m}{of}" for m in ("loss", "bits_per_byte") for of in ("", "/code", "/notes")}


def test_metrics_of_sources_are_declared_and_can_be_kept_and_watched(mixed: Experiment) -> None:
    names = {f"val/{metric}{of}" for metric in ("loss", "bits_per_byte") for of in ("", "/letters", "/digits")}
    assert evaluator_metrics(mixed) == names
    kept = mixed.with_({"checkpoint.keep_best": "val/loss/digits", "train.steps": 10})
    folder = session.run(kept)
    rows = [row for row in read_metrics(folder.metrics) if "val/loss" in row]
    assert all(names <= row.keys() for row in rows)
    with pytest.raises(KitError, match=r"no evaluator reports 'val/loss/digit'; did you mean 'val/loss/digits'\?"):
        session.run(mixed.with_({"checkpoint.keep_best": "val/loss/digit"}))


def test_a_run_that_would_pass_too_often_over_a_part_is_refused_before_it_trains(mixed: Experiment) -> None:
    """100 windows: 25 of digits, of which one pass has more."""
    parts = mixed.resolved()["dataset"]["part"]
    one_pass = (prepare(mixed).splits["train"].sources[1].tokens - 1) // 16
    largest = 10.5 / one_pass  # allows 10 windows of digits: those of 42 windows, so of 8 steps of 5
    capped = mixed.with_(dataset={"part": [parts[0], {**parts[1], "max_passes": largest}]})
    with pytest.raises(KitError) as caught:
        session.run(capped)
    (fault,) = caught.value.faults
    assert fault.key == "dataset.part.1.max_passes"
    assert f"the run takes 25 windows from 'digits', which has {one_pass}" in fault.message
    assert f"max_passes = {largest:g} allows 10" in fault.message
    assert "train for at most 8 steps" in fault.message
    allowed = capped.with_({"train.steps": 8, "evaluate.every_steps": 8})
    assert session.run(allowed).path.exists()


def test_the_steps_that_are_allowed_are_those_of_a_run_whose_batches_grow_as_fast(mixed: Experiment) -> None:
    """Within fewer steps the batch grows sooner, so the first steps of a longer run have fewer windows."""
    growing = "schedule=[{use='constant'}, {use='piecewise', knots=[[0, 0.2], [1, 1]], target='train.batch_tokens'}]"
    data, parts = prepare(mixed), mixed.resolved()["dataset"]["part"]
    one_pass = (data.splits["train"].sources[1].tokens - 1) // 16
    capped = mixed.with_(growing, dataset={"part": [parts[0], {**parts[1], "max_passes": 6.5 / one_pass}]})
    with pytest.raises(KitError, match="train for at most 11 steps"):  # 26 windows; of 20 steps the first 14 have 27
        check_passes(capped, data)
    check_passes(capped.with_({"train.steps": 11}), data)
    with pytest.raises(KitError):
        check_passes(capped.with_({"train.steps": 12}), data)


def test_a_run_records_the_proportions_of_its_sources(mixed: Experiment, command: Callable[..., Any]) -> None:
    folder = session.run(mixed.with_({"train.steps": 8}))
    sources = folder.provenance().data.sources
    tokens = {source.name: source.n_tokens for source in prepare(mixed).sources_of("train")}
    assert {name: (source.fraction, source.tokens) for name, source in sources.items()} == {
        "letters": (0.75, tokens["letters"]),
        "digits": (0.25, tokens["digits"]),
    }
    passes = 8 * 80 * 0.25 / tokens["digits"]
    assert f"25% digits in {passes:.3g} passes" in command("runs", "show", folder.path).out


def test_other_weights_continue_from_weights_with_a_learnt_tokenizer(mixed: Experiment) -> None:
    """As for a last phase of training on other proportions: the text is the same, so the tokens are."""
    learnt = mixed.with_({"tokenizer.use": "bpe", "tokenizer.vocab_size": 270, "train.steps": 4})
    folder = session.run(learnt)
    parts = learnt.resolved()["dataset"]["part"]
    annealed = learnt.with_(
        {"name": "annealed", "model.init_from": str(folder.path)},
        dataset={"part": [{**parts[0], "weight": 1}, {**parts[1], "weight": 1}]},
    )
    assert session.run(annealed).provenance().init_from is not None
    other = mixed.with_(dataset={"part": [parts[0]]})
    with pytest.raises(KitError, match="newly learnt from other text"):
        session.run(
            learnt.with_({"model.init_from": str(folder.path)}, dataset={"part": other.resolved()["dataset"]["part"]})
        )
