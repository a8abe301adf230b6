"""Whether compiling pays is decided by what was measured here before; each claim is arithmetic, without a compiler."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.graph_identity import graph_identity
from nanogpt_kit.core.runs_to_come import RUNS_TO_COME, expected_runs, runs_to_come
from nanogpt_kit.train.compile_decision import Decision, Seconds, Work, decide

UNKNOWN = Seconds()
KNOWN = Seconds(cold=30, warm=3, eager=0.05, compiled=0.03)  # saves 0.4 of a pass


def decision(work: Work, known: Seconds = UNKNOWN, eager: float = 0.05, gain: float = 0.1) -> Decision:
    return decide(work, known, eager, gain, blocks=4)


@pytest.mark.parametrize(
    ("passes", "known", "compiles"),
    [
        (300, KNOWN, True),  # saves 6 s and costs 3
        (150, KNOWN, False),  # saves 3 s
        (300, Seconds(eager=0.05), False),  # estimated: saves 1.5 s and costs 28
        (8_000, Seconds(eager=0.05), False),  # estimated: saves 40 s, less than 1.5 times as much
        (20_000, Seconds(eager=0.05), True),
        (2_000, Seconds(cold=300), True),  # compiled under load: warm it is estimated at 2.8 s
        (700, Seconds(cold=30, warm=25, eager=0.05, compiled=0.03), True),  # so was this: 6 s at most
        (200, Seconds(cold=30, warm=25, eager=0.05, compiled=0.03), False),
        (800, Seconds(cold=30, warm=3), True),  # the cost is known, and the gain, estimated as 4 s, is measured then
        (1_000_000, Seconds(cold=30, warm=3, eager=0.05, compiled=0.06), False),  # a loss, however long the run is
    ],
)
def test_what_was_measured_decides_and_estimates_where_nothing_was(passes: int, known: Seconds, compiles: bool) -> None:
    assert decision(Work(passes), known).compiles is compiles


def test_runs_that_share_a_graph_compile_it_where_one_alone_would_not() -> None:
    alone, five = Work(5000), Work(5000, runs_to_come=9)  # 10 runs save 250 s and cost 28 + 9 * 2.8
    assert [decision(work).compiles for work in (alone, five)] == [False, True]


def test_a_limit_in_seconds_bounds_what_can_be_saved() -> None:
    assert decision(Work(10**6, max_seconds=3600), KNOWN).compiles
    assert not decision(Work(10**6, max_seconds=5), KNOWN).compiles


def test_a_shape_without_expected_gain_is_compiled_only_where_a_gain_was_measured() -> None:
    assert not decision(Work(10**6), gain=0.0).compiles
    assert decision(Work(10**6), KNOWN, gain=0.0).compiles


def test_a_resumed_run_decides_with_the_steps_that_are_left(tiny: Path) -> None:
    experiment = Experiment.load(tiny, ["train.steps=1000"])
    assert [Work.of(experiment, step, 2).passes for step in (0, 400)] == [1000, 600]


def test_passes_over_growing_batches_count_by_their_tokens(tiny: Path) -> None:
    grown = 'schedule=[{use="constant"}, {use="constant", warmup_steps=9, target="train.batch_tokens"}]'
    experiment = Experiment.load(tiny, [grown, "train.steps=100"])
    plan = experiment.step_plan
    windows = [plan.at(step).n_windows for step in range(100)]
    assert Work.of(experiment, 0, 0).passes == pytest.approx(sum(windows) / (windows[0] + windows[-1]))


@pytest.mark.parametrize(
    "other", ["train.seed=5", "train.steps=99", "optimizer.lr=0.01", "evaluate.batch_size=3", "note=x"]
)
def test_options_that_decide_no_graph_share_it(tiny: Path, other: str) -> None:
    assert graph_identity(Experiment.load(tiny, [other])) == graph_identity(Experiment.load(tiny))


@pytest.mark.parametrize(
    "other", ["model.n_layer=3", "model.norm=rmsnorm", "train.precision=bf16", "model.dropout=0.3"]
)
def test_options_that_decide_a_graph_have_another(tiny: Path, other: str) -> None:
    assert graph_identity(Experiment.load(tiny, [other])) != graph_identity(Experiment.load(tiny))


@pytest.mark.parametrize("text", ["", "-3", "many", "²"])
def test_an_expectation_that_is_no_count_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(RUNS_TO_COME, text)
    assert runs_to_come() == 0


def test_an_expectation_holds_while_it_is_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUNS_TO_COME, raising=False)
    with expected_runs(4):
        with expected_runs(2):
            assert runs_to_come() == 2
        assert runs_to_come() == 4
    assert runs_to_come() == 0
