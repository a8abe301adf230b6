"""What is not finite ends a run as failed and reaches no checkpoint; the last good one stays."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.errors import NotFinite, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.train import session
from nanogpt_kit.train.finite import FiniteChecks, non_finite, tensors_in

NAN, INF = math.nan, math.inf
PLAIN = ("callback=[]", "sample.num_samples=0", "model.dropout=0.0", "schedule=constant", "train.steps=8")


def run(tiny: Path, *overrides: str, resume: str | None = None) -> RunFolder:
    return session.run(Experiment.load(tiny, [*PLAIN, *overrides]), resume)


def failed(tiny: Path, *overrides: str, resume: str | None = None) -> tuple[RunFolder, str]:
    """A run that ends as not finite, and its message."""
    with pytest.raises(NotFinite) as caught:
        run(tiny, *overrides, resume=resume)
    folder = newest(tiny)
    status = folder.status()
    assert (status.state, status.cause, status.reason) == ("failed", "not_finite", str(caught.value))
    return folder, str(caught.value)


def newest(tiny: Path) -> RunFolder:
    return runs.runs_of_experiment(tiny.parent / "runs" / "tiny")[-1]


def saved(folder: RunFolder) -> list[int]:
    return [
        store.step_of(path) for path in store.list_checkpoints(folder.checkpoints) if store.find_damage(path) is None
    ]


def component(tiny: Path, name: str, text: str) -> str:
    (tiny.parent / f"{name}.py").write_text(text, encoding="utf-8")
    return f"components=['{name}.py']"


# --- what is looked at ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_tensors_that_hold_nan_or_infinity_are_found_by_name(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    good = {"large": torch.full((7, 5), largest, dtype=dtype), "empty": torch.ones(0), "scalar": torch.tensor(3.0)}
    bad = {"nan": torch.tensor([1.0, NAN, 2.0]), "inf": torch.tensor([[INF]]), "-inf": torch.tensor(-INF)}
    found = non_finite((name, value.to(dtype)) for name, value in {**good, **bad}.items())
    assert found == list(bad)


def test_only_tensors_of_floating_point_are_checked() -> None:
    others = [("ids", torch.arange(3)), ("mask", torch.tensor([True])), ("text", "nan"), ("number", NAN)]
    assert non_finite(others) == []
    assert non_finite([("short", torch.tensor([NAN]).to(torch.float8_e5m2)), *others]) == ["short"]


def test_tensors_of_a_nested_state_are_found_under_their_paths() -> None:
    state = {"optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}, "list": [1.0, (torch.ones(2),)], "best": INF}
    assert [name for name, _ in tensors_in(state)] == ["optimizer.state.0.exp_avg", "list.1.0"]


# --- weights ----------------------------------------------------------------------------------------------------

OVERFLOW = ("optimizer.lr=1e39", "optimizer.weight_decay=1.0")
ENORMOUS = ("optimizer.use=sgd", "optimizer.lr=1e38", "train.grad_clip=1e30")  # finite weights, no finite loss


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("evaluator=['loss']", *OVERFLOW), "weights are not finite after step 1: wte.weight, "),
        (("evaluator=[]", *OVERFLOW), "weights are not finite after step 1: wte.weight, "),
        (("evaluator=['loss']", *ENORMOUS), "val/loss is nan at step 1"),
    ],
)
def test_a_last_update_that_makes_weights_infinite_fails_the_run(
    tiny: Path, overrides: tuple[str, ...], expected: str
) -> None:
    folder, told = failed(tiny, "train.steps=1", *overrides)
    assert expected in told
    assert "lower optimizer.lr" in told
    assert saved(folder) == []


def test_a_checkpoint_of_enormous_weights_does_not_replace_the_one_before(tiny: Path) -> None:
    more = ("checkpoint.every_steps=3", "checkpoint.keep_last=1", "evaluate.every_steps=99", "callback=['enormous']")
    folder, told = failed(tiny, component(tiny, "enormous", ENORMOUS_WEIGHTS), *more)
    assert "the loss is nan at step 7" in told
    assert 3 in saved(folder)


ENORMOUS_WEIGHTS = """\
from nanogpt_kit.api import Callback, hookimpl

class Enormous(Callback):
    def build(self, run):
        return Hand()

class Hand:
    @hookimpl
    def step_finished(self, run, step):
        if step == 6:
            for parameter in run.model.parameters():
                parameter.data.fill_(1e38)
"""


def test_a_run_that_makes_no_finite_model_exits_with_1(tiny: Path, command: Any) -> None:
    answer = command("run", tiny, *PLAIN, "train.steps=1", "optimizer.lr=1e39", "optimizer.weight_decay=1.0")
    assert answer.code == 1
    assert "wte.weight" in answer.err


BREAKING = """\
from torch.nn import init
from nanogpt_kit.api import Callback, Field, hookimpl

class Breaking(Callback):
    at: int = Field(1)
    value: str = Field("nan")
    what: str = Field("weights")

    def build(self, run):
        return Hand(self)

class Hand:
    def __init__(self, options):
        self.options = options

    @hookimpl
    def step_finished(self, run, step):
        if step == self.options.at:
            state = next(iter(run.optimizer.state.values()))
            tensors = {"weights": run.model.h[1].mlp.c_proj.weight, "state": state["exp_avg"]}
            tensors[self.options.what].data.view(-1)[3] = float(self.options.value)
"""


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("what", ["weights", "state"])
def test_no_checkpoint_holds_a_value_that_is_not_finite(tiny: Path, what: str, value: str) -> None:
    callback = f"callback=[{{use='breaking', at=6, value='{value}', what='{what}'}}]"
    more = (
        component(tiny, "breaking", BREAKING),
        callback,
        "checkpoint.every_steps=3",
        "evaluate.every_steps=99",
        "checkpoint.keep_last=1",
    )
    folder, told = failed(tiny, *more)
    assert "after step 6" in told
    assert ("c_proj.weight" if what == "weights" else "optimizer.state.0.exp_avg") in told
    assert saved(folder) == [3]


def test_averages_that_are_not_finite_are_not_saved(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lerp = torch._foreach_lerp_

    def broken(averages: list[torch.Tensor], *others: Any) -> None:
        lerp(averages, *others)
        averages[2].view(-1)[1] = INF

    monkeypatch.setattr(torch, "_foreach_lerp_", broken)
    folder, told = failed(tiny, "callback=[{use='ema', evaluate=false}]", "checkpoint.every_steps=3")
    assert "training state is not finite after step 3: callbacks.EMA.weights." in told
    assert saved(folder) == []


MASKED = """\
import torch
from torch import nn
from nanogpt_kit.api import Norm

class Masked(Norm):
    def build(self, ctx):
        module = nn.LayerNorm(ctx.n_embd)
        module.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
        return module
"""


def test_buffers_that_are_built_infinite_are_saved(tiny: Path) -> None:
    folder = run(tiny, component(tiny, "masked", MASKED), "model.norm=masked", "train.steps=4")
    run(tiny, component(tiny, "masked", MASKED), "model.norm=masked", "train.steps=5", resume=str(folder))
    assert saved(folder) == [4, 5]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_weights_of_a_good_run_are_checked_only_where_it_evaluates_or_saves(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    seen: list[int] = []
    check = FiniteChecks.check_model
    monkeypatch.setattr(FiniteChecks, "check_model", lambda self: (seen.append(self.progress.step), check(self))[1])
    run(tiny, "checkpoint.every_steps=3", f"train.precision={precision}")
    assert sorted(set(seen)) == [3, 6, 8]


# --- the checkpoint before --------------------------------------------------------------------------------------


def test_the_checkpoint_before_stays_until_a_step_from_the_newest_is_good(tiny: Path) -> None:
    """A gradient that overflows is known a step later only: the weights and their loss are finite."""
    overflowing = component(tiny, "overflowing", OVERFLOWING)
    more = (overflowing, "callback=['overflowing']", "checkpoint.every_steps=1", "checkpoint.keep_last=1")
    folder, told = failed(tiny, *more)
    assert "norm of the gradient is nan at step 5" in told
    assert saved(folder) == [3, 4]


OVERFLOWING = """\
from nanogpt_kit.api import Callback, hookimpl

class Overflowing(Callback):
    def build(self, run):
        return Hand()

class Hand:
    @hookimpl
    def step_finished(self, run, step):
        if step == 4:
            run.model.wte.weight.register_hook(lambda gradient: gradient * float("nan"))
"""


@pytest.mark.parametrize("evaluator", ["evaluator=['loss']", "evaluator=[]"])
def test_a_finished_run_keeps_as_many_checkpoints_as_it_was_asked_for(tiny: Path, evaluator: str) -> None:
    folder = run(tiny, "checkpoint.every_steps=4", "checkpoint.keep_last=1", evaluator)
    assert saved(folder) == [8]


def test_the_checkpoint_before_goes_after_the_first_step_from_the_newest(tiny: Path) -> None:
    listing = component(tiny, "listing", LISTING)
    folder = run(tiny, listing, "callback=['listing']", "checkpoint.every_steps=3", "checkpoint.keep_last=1")
    lines = (folder.path / "listing").read_text().splitlines()
    assert lines[2:] == ["3 []", "4 [3]", "5 [3]", "6 [3]", "7 [3, 6]", "8 [6]"]


LISTING = """\
from nanogpt_kit.api import Callback, hookimpl

class Listing(Callback):
    def build(self, run):
        return Hand()

class Hand:
    @hookimpl
    def step_finished(self, run, step):
        saved = sorted(int(path.name[5:]) for path in run.path.glob("checkpoints/step-*"))
        with (run.path / "listing").open("a") as file:
            print(step, saved, file=file)
"""


def test_a_resumed_run_forgets_the_checkpoint_before_after_its_first_step(tiny: Path) -> None:
    stop = component(tiny, "stopping", STOPPING)
    more = ("checkpoint.every_steps=3", "checkpoint.keep_last=1", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tiny, *more, "callback=[{use='stopping', at=4}]")
    assert saved(newest(tiny)) == [3, 4]
    with pytest.raises(KeyboardInterrupt):
        run(tiny, *more, "callback=[{use='stopping', at=5}]", resume="")
    assert saved(newest(tiny)) == [4, 5]


STOPPING = """\
from nanogpt_kit.api import Callback, hookimpl

class Stopping(Callback):
    at: int

    def build(self, run):
        return Hand(self.at)

class Hand:
    def __init__(self, at):
        self.at = at

    @hookimpl
    def step_finished(self, run, step):
        if step == self.at:
            run.stop.signals.name = "SIGTERM"
"""


def test_the_fraction_of_clipped_steps_counts_those_before_a_resume(tiny: Path) -> None:
    more = ("train.log_every_steps=4", "train.grad_clip=1e-9", component(tiny, "stopping", STOPPING))
    with pytest.raises(KeyboardInterrupt):
        run(tiny, *more, "callback=[{use='stopping', at=6}]")
    training = store.load_training(store.list_checkpoints(newest(tiny).checkpoints)[-1])
    assert (training["steps_since_log"], training["clipped_since_log"]) == (2, 2)
    folder = run(tiny, *more, resume="")
    assert [line["optim/clip_fraction"] for line in read_metrics(folder.metrics) if "train/loss" in line] == [
        1.0,
        1.0,
        1.0,
    ]


# --- evaluations ------------------------------------------------------------------------------------------------

ODD = """\
from nanogpt_kit.api import Evaluator

class Odd(Evaluator):
    value: str
    requires_finite = {finite}

    def evaluate(self, ctx):
        return {{"val/odd": float(self.value), "val/even": 2.0}}
"""


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_metric_that_is_not_finite_fails_the_run(tiny: Path, value: str) -> None:
    odd = component(tiny, "odd", ODD.format(finite=True))
    folder, told = failed(tiny, odd, f"evaluator=['loss', {{use='odd', value='{value}'}}]")
    assert f"val/odd is {value} at step 8" in told
    assert "val/even" not in told
    assert saved(folder) == []


def test_an_evaluator_may_declare_that_its_metrics_need_not_be_finite(tiny: Path) -> None:
    odd = component(tiny, "odd", ODD.format(finite=False))
    folder = run(tiny, odd, "evaluator=['loss', {use='odd', value='-inf'}]", "checkpoint.keep_best=val/odd")
    assert [line["val/odd"] for line in read_metrics(folder.metrics) if "val/even" in line] == [None]
    assert "best" not in folder.status()


# --- learning rates ---------------------------------------------------------------------------------------------

RATE = """\
from nanogpt_kit.api import Schedule

class Rate(Schedule):
    value: str

    def multiplier(self, step, total_steps):
        return float(self.value) if step == 6 else 1.0
"""


@pytest.mark.parametrize("value", ["nan", "inf", "-1.0"])
def test_an_invalid_learning_rate_is_reported_before_its_update(tiny: Path, value: str) -> None:
    with pytest.raises(RunFailed, match=r"the multiplier of optimizer.lr is .* at step 7 by schedule Rate") as caught:
        run(
            tiny, component(tiny, "rate", RATE), f"schedule={{use='rate', value='{value}'}}", "checkpoint.every_steps=3"
        )
    assert isinstance(caught.value, NotFinite) is (value != "-1.0")
    assert saved(newest(tiny)) == [3, 6]
    assert newest(tiny).status().step == 6
