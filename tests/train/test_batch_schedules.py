"""Runs whose batches a schedule shapes: each step has the windows, the tokens and the losses that it should have."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt_kit.api import OrderContext
from nanogpt_kit.comparison.budgets import has_equal_budgets, planned_text
from nanogpt_kit.components.order.shuffled import Shuffled
from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.data.batches import Batch
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.runs.folder import RunFolder, runs_of_experiment, runs_root
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.trial_steps import find_trial_steps
from nanogpt_kit.train import memory, session
from nanogpt_kit.train.cores import CoreAllocation
from nanogpt_kit.train.extension import extension_overrides
from nanogpt_kit.train.memory import check_memory
from nanogpt_kit.train.trainer import Trainer
from tests.train.test_parallel import losses, run, runs
from tests.train.test_resume import result

pytestmark = pytest.mark.usefixtures("with_dropout")
Same = Callable[[Any, Any], None]

BATCH = 'schedule=[{use="constant"}, {use="constant", warmup_steps=9, target="train.batch_tokens"}]'
LENGTH = 'schedule=[{use="constant"}, {use="constant", warmup_steps=9, target="model.block_size"}]'
BOTH = f'{BATCH[:-1]}, {{use="constant", warmup_steps=3, target="model.block_size"}}]'
WINDOWS = [1, 1, 1, 2, 2, 3, 3, 4, 4, *[5] * 11]  # of steps 0 to 19: 5 windows, times 1/10, 2/10, ...
LENGTHS = [1, 2, 4, 4, 8, 8, 8, 8, 8, *[16] * 11]  # divisors of 16
QUIET = ("sample.num_samples=0", "callback=[]")

CRASH = """\
from nanogpt_kit.api import Callback, hookimpl

class Crash(Callback):
    at: int

    def build(self, run):
        return Listener(self.at)

class Listener:
    def __init__(self, at):
        self.at = at

    @hookimpl
    def step_finished(self, step):
        if step == self.at:
            raise ValueError("a bug of mine")
"""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches that runs compute with."""
    found: list[Batch] = []
    update = Trainer.update

    def watched(self: Trainer, batch: Batch) -> Any:
        found.append(batch)
        return update(self, batch)

    monkeypatch.setattr(Trainer, "update", watched)
    return found


def train(tiny: Path, *overrides: str, resume: str | None = None) -> RunFolder:
    return session.run(Experiment.load(tiny, [*QUIET, *overrides]), resume=resume)


def crash(tiny: Path, at: int, *overrides: str) -> RunFolder:
    """A run that ends right after step `at`, without a checkpoint of it."""
    (tiny.parent / "crash.py").write_text(CRASH, encoding="utf-8")
    with pytest.raises(RunFailed, match="a bug of mine"):
        train(tiny, *overrides, 'components=["crash.py"]', f'callback=[{{use="crash", at={at}}}]')
    return runs_of_experiment(runs_root() / "tiny")[-1]


def logged(folder: RunFolder, key: str) -> list[Any]:
    return [line[key] for line in read_metrics(folder.metrics) if "train/loss" in line]


def test_a_batch_that_grows_has_the_windows_of_a_list_written_by_hand(tiny: Path, seen: list[Batch]) -> None:
    folder = train(tiny, BATCH)
    assert [len(batch.starts) for batch in seen] == WINDOWS
    n_tokens = len(prepare(Experiment.load(tiny)).split("train").tokens)
    whole = OrderContext(n_tokens=n_tokens, block_size=16, first_window=0, batch_windows=sum(WINDOWS), seed=1337)
    expected = Shuffled().starts(0, whole).tolist()
    assert [start for batch in seen for start in batch.starts.tolist()] == expected
    assert [batch.all_tokens for batch in seen] == [16 * windows for windows in WINDOWS]
    assert logged(folder, "tokens") == np.cumsum(16 * np.array(WINDOWS)).tolist()
    assert [len(batch.micro_batches(2)) for batch in seen] == [-(-windows // 2) for windows in WINDOWS]


def test_a_window_that_grows_has_the_tokens_that_it_would_have_at_once(tiny: Path, seen: list[Batch]) -> None:
    options = ("model.document_mask=true", "tokenizer.use=byte")
    folders = [train(tiny, *options, "name=whole"), train(tiny, LENGTH, *options, "name=cut")]
    whole, cut = seen[:20], seen[20:]
    for length, large, small in zip(LENGTHS, whole, cut, strict=True):
        assert small.ids.shape == (5 * 16 // length, length)
        for name in ("ids", "targets", "segments"):  # in the same order, and each with the token that follows it
            assert torch.equal(getattr(small, name).flatten(), getattr(large, name).flatten())
        assert [len(ids) for ids, _, _ in small.micro_batches(2)] == [parts * 16 // length for parts in (2, 2, 1)]
        assert small.all_tokens == large.all_tokens == 80
    assert logged(folders[0], "tokens") == logged(folders[1], "tokens") == list(range(80, 1601, 80))
    evaluated = [[line["step"] for line in read_metrics(f.metrics) if "val/loss" in line] for f in folders]
    assert evaluated[0] == evaluated[1]


def test_a_step_of_shorter_windows_is_a_step_of_a_model_with_that_block_size(tiny: Path) -> None:
    ramp = 'schedule=[{use="constant"}, {use="constant", warmup_steps=3, target="model.block_size"}]'  # first a quarter
    options = ("train.steps=1", "model.dropout=0.0", "model.position=rope", "order=sequential")
    found = train(tiny, *options, ramp, "name=quarter")
    expected = train(tiny, *options, "schedule=constant", "model.block_size=4", "name=four")
    for key in ("train/loss", "optim/grad_norm", "tokens"):
        assert logged(found, key) == pytest.approx(logged(expected, key), rel=1e-6)


@pytest.mark.parametrize(
    "shaping",
    [BOTH, pytest.param(BATCH, marks=pytest.mark.slow), pytest.param(LENGTH, marks=pytest.mark.slow)],
    ids=["both", "batch", "length"],
)
def test_a_run_that_dies_within_the_schedule_and_is_resumed_is_the_run_that_did_not(
    tiny: Path, shaping: str, assert_same: Same
) -> None:
    options = (shaping, "checkpoint.every_steps=3", "evaluate.every_steps=4")
    died = crash(tiny, 5, *options)
    assert train(tiny, *options, resume=str(died)) == died
    assert_same(result(died), result(train(tiny, *options)))


def test_a_budget_of_tokens_ends_a_batch_that_grows_before_it_is_exceeded(tiny: Path) -> None:
    stairs = 'schedule=[{use="cosine"}, {use="linear", warmup_steps=3, final_fraction=1, target="train.batch_tokens"}]'
    folder = train(tiny, stairs, "train.steps=1000000", "train.max_tokens=500")
    status = folder.status()
    assert (status.ended_by, status.step, status.total_steps) == ("max_tokens", 8, 8)
    assert logged(folder, "tokens") == [16, 48, 96, 176, 256, 336, 416, 496]
    rates = logged(folder, "optim/lr")
    warmup = [3e-3 * (step + 1) / 101 for step in range(8)]
    assert rates == pytest.approx(warmup)
    cosine = train(
        tiny, stairs.replace('"cosine"', '"cosine", warmup_steps=0'), "train.steps=1000000", "train.max_tokens=500"
    )
    used = [0, 16, 48, 96, 176, 256, 336, 416]
    expected = [3e-3 * (0.1 + 0.9 * (1 + math.cos(math.pi * tokens / 500)) / 2) for tokens in used]
    assert logged(cosine, "optim/lr") == pytest.approx(expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its ranks")
def test_any_number_of_ranks_sees_the_same_windows_also_where_a_step_has_fewer(tiny: Path) -> None:
    """Of `BOTH`, whose first three steps have one window each, cut into 4, 2 and 1."""
    one, *others = runs(
        *(
            run(tiny, size, BOTH, "model.dropout=0.2", "train.steps=8", "evaluate.every_steps=8", f"name=n{size}")
            for size in (1, 4)
        )
    )
    for other in others:
        assert other["codes"] == [0] * len(other["ranks"])
        for step, windows in enumerate(one["ranks"][0]["batches"]):
            assert [window for rank in other["ranks"] for window in rank["batches"][step]] == windows
        assert losses(other) == pytest.approx(losses(one), abs=1e-5)
        assert losses(other, "tokens") == losses(one, "tokens")
        assert losses(other, "optim/grad_norm") == pytest.approx(losses(one, "optim/grad_norm"), rel=1e-4)


def test_a_number_of_further_steps_is_as_many_tokens_as_they_have(tiny: Path) -> None:
    before = Experiment.load(tiny, [BATCH, f"train.max_tokens={16 * 12 + 5}"])
    assert (before.total_steps, before.total_tokens) == (6, 16 * 10)
    after = before.with_(*extension_overrides(before, 3))
    assert after.total_steps == 9
    after = Experiment.load(tiny, [BATCH, *extension_overrides(Experiment.load(tiny, [BATCH]), 3)])
    assert (after.total_steps, after.total_tokens) == (23, 16 * (sum(WINDOWS) + 3 * 5))


def test_auto_measures_windows_of_the_whole_length_in_the_largest_batch(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[int, ...]] = []

    def watched(windows: int, step: Callable[[int], object], device: str, processes: int) -> int:
        ids = step.__closure__  # type: ignore[attr-defined]
        assert ids is not None
        (batch,) = (cell.cell_contents for cell in ids if isinstance(cell.cell_contents, Batch))
        measured.append((windows, *batch.ids.shape))
        return 3

    monkeypatch.setattr(memory, "largest_micro_batch", watched)
    folder = train(tiny, BOTH, "train.micro_batch_size=auto")
    assert measured == [(5, 5, 16)]
    died = crash(tiny, 12, BOTH, "train.micro_batch_size=auto")
    train(tiny, BOTH, "train.micro_batch_size=auto", resume=str(died))
    assert len(measured) == 2, "a resumed run keeps its micro-batches"
    assert logged(folder, "train/loss") == logged(died, "train/loss")


def test_a_longer_run_is_refused_where_its_batches_would_have_been_others(tiny: Path) -> None:
    by_length = (
        'schedule=[{use="constant"}, {use="linear", warmup_steps=0, final_fraction=0.3, target="train.batch_tokens"}]'
    )
    folder = train(tiny, by_length)
    with pytest.raises(KitError, match=r"train\.batch_tokens depends on it") as refused:
        train(tiny, by_length, "train.steps=30", resume=str(folder))
    assert refused.value.faults[0].key == "train.steps"
    grown = train(tiny, BATCH, "name=grown")
    train(tiny, BATCH, "name=grown", "train.steps=23", resume=str(grown))
    straight = train(tiny, BATCH, "name=grown", "train.steps=23")
    assert result(grown)["weights"] == result(straight)["weights"]
    assert logged(grown, "tokens")[-1] == 16 * (sum(WINDOWS) + 3 * 5)


PEAK = 'schedule=[{use="constant"}, {use="piecewise", knots=[[0, 1], [0.5, 1e8]], target="train.batch_tokens"}]'


def test_a_batch_that_becomes_larger_than_the_memory_is_blamed_on_its_schedule(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "machine_memory_bytes", lambda: 10**10)
    ctx = RunContext(device="cpu", precision="fp32", world_size=1, splits=("train", "val"), block_size=16)
    with pytest.raises(KitError) as refused:
        check_memory(Experiment.load(tiny, [PEAK]), None, ctx)
    (fault,) = refused.value.faults
    assert (fault.key, fault.location) == ("schedule.1.target", "command line")
    assert all(word in fault.message for word in ("8,000,000,000 tokens", "128,000,000,000 bytes", "10,000,000,000"))


def test_cores_are_chosen_for_the_largest_step(tiny: Path) -> None:
    ctx = RunContext(device="cpu", precision="bf16", world_size=1, splits=("train", "val"), block_size=16)
    grown = 'schedule=[{use="constant"}, {use="piecewise", knots=[[0.4, 1], [0.5, 2000]], target="train.batch_tokens"}]'
    whole, large = (
        Experiment.load(tiny, overrides)
        for overrides in ([], [grown, "train.micro_batch_size=100000", "train.threads=2", "model.dropout=0.0"])
    )
    unequal, equal = (
        CoreAllocation.choose(one, ctx, 256)
        for one in (large, large.with_({"schedule": "constant", "train.batch_tokens": 80 * 2000}))
    )
    assert unequal == equal != CoreAllocation.choose(whole.with_({"train.threads": 2}), ctx, 256)


def test_a_comparison_and_a_sweep_count_the_tokens_of_every_step(tiny: Path) -> None:
    base, grown = Experiment.load(tiny), Experiment.load(tiny, [BATCH])
    total = 16 * sum(WINDOWS)
    assert planned_text(grown) == f"20 steps and {total:,} tokens"
    assert has_equal_budgets(grown, base.with_({"train.steps": 19, "train.batch_tokens": 64}))
    assert not has_equal_budgets(grown, base.with_({"train.steps": 19}))
    sweep = {"sweep": {"space": {"optimizer.lr": {"float": [0.001, 0.01]}}}, "evaluate.every_steps": 4}
    assert Space(grown.with_(sweep)).trial_tokens == total
    (steps,) = find_trial_steps(Space(grown.with_(sweep)))
    assert steps.evaluated_tokens == tuple(16 * sum(WINDOWS[:step]) for step in (4, 8, 12, 16, 20))
    (steps,) = find_trial_steps(Space(base.with_(sweep)))
    assert steps.evaluated_tokens == ()
