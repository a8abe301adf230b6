"""Schedules of a run: what they drive equals loops written by hand, and every budget ends at the last multiplier."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.errors import KitError, NotFinite, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.system.reading import sha256_file
from nanogpt_kit.train import session, trainer
from nanogpt_kit.train.before_data import check_without_running
from nanogpt_kit.train.extension import clock_of, extension_hint
from nanogpt_kit.train.progress import Progress
from nanogpt_kit.train.schedules import Schedules, checked_multiplier
from nanogpt_kit.train.world import World
from tests.train.test_parallel import runs
from tests.train.test_trainer import fresh_trainer

Same = Callable[[Any, Any], None]
QUIET = ("callback=[]", "sample.num_samples=0", "train.compile=off")
PLAIN = ("model.dropout=0", "train.grad_clip=0", "train.micro_batch_size=5")
STEPS = 8
RAMP = "{{use='piecewise', knots=[[0, {0}], [0.5, {1}], [1, {2}]], target='{3}'}}"


RAMPS = {"lr": (0.25, 1.0, 0.5), "group.0.lr": (1.0, 0.5, 0.25), "group.1.lr": (0.5, 2.0, 1.0)}


def ramp(target: str, *values: float) -> str:
    return RAMP.format(*values, target)


def ramp_at(step: int, *values: float) -> float:
    """By another formula: two lines that meet in the middle of the run."""
    low, high, part = (values[0], values[1], step) if 2 * step < STEPS else (values[1], values[2], step - STEPS / 2)
    return low + (high - low) * part / (STEPS / 2)


def run(tiny: Path, *overrides: str, resume: str | None = None) -> RunFolder:
    return session.run(Experiment.load(tiny, [*QUIET, *overrides]), resume)


def values(folder: RunFolder, name: str) -> list[float]:
    return [line[name] for line in read_metrics(folder.metrics) if name in line]


# --- loops written by hand --------------------------------------------------------------------------------------


def loop_by_hand(
    made: trainer.Trainer, optimizer: torch.optim.Optimizer, model: torch.nn.Module, change: Callable[[int], None]
) -> None:
    """STEPS updates of the model on the run's batches; `change` sets the options of the optimizer."""
    model.train()
    for step in range(STEPS):
        batch = made.batches.at(step)
        change(step)
        (model(batch.ids, batch.targets) / batch.all_tokens).backward()
        optimizer.step()
        optimizer.zero_grad()


def assert_equal_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


def test_a_schedule_of_weight_decay_equals_a_loop_by_hand(tiny: Path) -> None:
    decay = ramp("optimizer.weight_decay", 1.5, 0.25, 2.0)
    made = fresh_trainer(tiny, *PLAIN, f"train.steps={STEPS}", f"schedule=['linear', {decay}]")
    model = copy.deepcopy(made.model)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)

    def change(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * ((step + 1) / 101)  # the warmup of 100 steps
        optimizer.param_groups[0]["weight_decay"] = 0.1 * ramp_at(step, 1.5, 0.25, 2.0)

    loop_by_hand(made, optimizer, model, change)
    made.train()
    assert_equal_weights(made.model, model)
    assert values(made.folder, "schedule/optimizer.weight_decay") == [ramp_at(s, 1.5, 0.25, 2.0) for s in range(STEPS)]


def test_a_schedule_of_momentum_alone_equals_a_loop_by_hand(tiny: Path) -> None:
    """Without a schedule of it the learning rate is constant."""
    momentum = ramp("optimizer.momentum", 0.5, 1.0, 0.75)
    sgd = ("optimizer={use='sgd', lr=0.2, momentum=0.9}", f"schedule={momentum}")
    made = fresh_trainer(tiny, *PLAIN, f"train.steps={STEPS}", *sgd)
    model = copy.deepcopy(made.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)

    def change(step: int) -> None:
        optimizer.param_groups[0]["momentum"] = 0.9 * ramp_at(step, 0.5, 1.0, 0.75)

    loop_by_hand(made, optimizer, model, change)
    made.train()
    assert_equal_weights(made.model, model)
    assert set(values(made.folder, "optim/lr")) == {0.2}


def test_two_groups_with_their_own_schedules_equal_a_loop_by_hand(tiny: Path) -> None:
    """One group has a learning rate of its own as well; a third part of the model follows the schedule of all."""
    groups = "optimizer.group=[{match='wte|lm_head', lr=0.01}, {match='mlp'}]"
    schedules = [ramp(f"optimizer.{key}", *values) for key, values in RAMPS.items()]
    options = (groups, f"schedule=[{', '.join(schedules)}]", f"train.steps={STEPS}")
    made = fresh_trainer(tiny, *PLAIN, *options)
    model = copy.deepcopy(made.model)
    parts: dict[str, list[torch.nn.Parameter]] = {"group.0.lr": [], "group.1.lr": [], "lr": []}
    vectors: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        key = "group.0.lr" if "wte" in name or "lm_head" in name else "group.1.lr" if "mlp" in name else "lr"
        (vectors if parameter.ndim == 1 else parts[key]).append(parameter)
    torch_groups = [{"params": parameters, "weight_decay": 0.1} for parameters in parts.values()]
    torch_groups.append({"params": vectors, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(torch_groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, fused=True)

    def change(step: int) -> None:
        rates = [(0.01 if key == "group.0.lr" else 3e-3) * ramp_at(step, *RAMPS[key]) for key in parts]
        for group, rate in zip(optimizer.param_groups, [*rates, rates[-1]], strict=True):
            group["lr"] = rate

    loop_by_hand(made, optimizer, model, change)
    made.train()
    assert_equal_weights(made.model, model)
    assert values(made.folder, "optim/lr") == [3e-3 * ramp_at(step, *RAMPS["lr"]) for step in range(STEPS)]
    assert values(made.folder, "schedule/optimizer.group.1.lr") == [
        ramp_at(step, *RAMPS["group.1.lr"]) for step in range(STEPS)
    ]


def test_a_schedule_of_one_beta_leaves_the_other(tiny: Path) -> None:
    made = fresh_trainer(tiny, *PLAIN, f"train.steps={STEPS}", f"schedule={ramp('optimizer.betas.1', 0.5, 1.0, 0.75)}")
    found = []
    for step in range(STEPS):
        made.progress.step = step
        made.schedules.apply()
        found.append([group["betas"] for group in made.optimizer.param_groups])
    assert found == [[(0.9, 0.95 * ramp_at(step, 0.5, 1.0, 0.75))] * 3 for step in range(STEPS)]


def test_a_schedule_of_the_clipping_norm_clips(tiny: Path) -> None:
    clip = ramp("train.grad_clip", 1.0, 0.5, 0.25)
    made = fresh_trainer(tiny, "train.grad_clip=0.02", f"train.steps={STEPS}", f"schedule=['constant', {clip}]")
    norms, step = [], made.optimizer.step

    def watched(*args: object, **kwargs: object) -> None:
        norms.append(float(torch.stack([p.grad.norm() for p in made.model.parameters()]).norm()))
        step()

    made.optimizer.step = watched  # type: ignore[method-assign]
    made.train()
    assert norms == pytest.approx([0.02 * ramp_at(step, 1.0, 0.5, 0.25) for step in range(STEPS)], rel=1e-3)
    assert set(values(made.folder, "optim/clip_fraction")) == {1.0}


# --- the most specific schedule ---------------------------------------------------------------------------------


def optimizer_of(*groups: dict[str, Any]) -> torch.optim.Optimizer:
    made = [{"params": [torch.nn.Parameter(torch.zeros(n + 1))], "lr_multiplier": 1, **g} for n, g in enumerate(groups)]
    return torch.optim.AdamW(made, lr=0.5)


def test_the_most_specific_schedule_drives_each_group(tiny: Path) -> None:
    multipliers = {"optimizer.lr": 0.5, "optimizer.others.lr": 0.25, "optimizer.weight_decay": 2.0}
    schedules = [f"{{use='piecewise', knots=[[0, {m}]], target='{target}'}}" for target, m in multipliers.items()]
    experiment = Experiment.load(tiny, ["optimizer=muon", f"schedule=[{', '.join(schedules)}]"])
    optimizer = optimizer_of(
        {"lr": 0.5}, {"lr": 0.125, "lr_multiplier": 4, "slot": "others"}, {"slot": "inner", "weight_decay": 0.25}
    )
    made = Schedules(experiment, optimizer, Progress(), World())
    optimizer.param_groups[0]["lr"] = 9.0  # as a checkpoint may set it: the options' values count
    metrics = made.apply()
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.125, 0.25]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.02, 0.02, 0.5]
    assert metrics == {"optim/lr": 0.25, "schedule/optimizer.others.lr": 0.25, "schedule/optimizer.weight_decay": 2.0}


MUON = ("optimizer=muon", "optimizer.group=[{match='c_fc.weight'}]")
WITHOUT_EFFECT = {  # the targets of two schedules, options -> key and beginning of the message
    ("optimizer.lr", "optimizer.group.0.betas.0", *MUON): (
        "schedule.1.target: 'optimizer.group.0.betas.0' has no effect: muon has no betas.0 for these parameters; "
        "did you mean 'optimizer.group.0."
    ),
    ("optimizer.lr", "optimizer.group.0.lr", "optimizer.group=[{match='.'}]"): (
        "schedule.0.target: 'optimizer.lr' has no effect: schedules with more specific targets change it for all "
        "parameters; remove this schedule"
    ),
}


@pytest.mark.parametrize("case", WITHOUT_EFFECT)
def test_a_schedule_that_changes_nothing_is_refused_before_a_run(tiny: Path, case: tuple[str, ...]) -> None:
    schedules = ", ".join(f"{{use='constant', target='{target}'}}" for target in case[:2])
    with pytest.raises(KitError) as refused:
        check_without_running(Experiment.load(tiny, [*case[2:], f"schedule=[{schedules}]"]), 1)
    (fault,) = refused.value.faults
    assert str(fault).startswith(f"command line: {WITHOUT_EFFECT[case]}")


def test_a_schedule_of_what_the_torch_optimizer_lacks_is_refused_by_a_run(tiny: Path) -> None:
    """Where it could not be checked before, as of an optimizer that is not built without values."""
    several = "schedule=['constant', {use='constant', target='optimizer.others.lr'}]"
    experiment = Experiment.load(tiny, ["optimizer=muon", several])
    with pytest.raises(KitError, match=r"optimizer\.others\.lr' has no effect: muon has no lr for these parameters"):
        Schedules(experiment, optimizer_of({}), Progress(), World())


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("float('nan')", NotFinite),
        ("float('inf')", NotFinite),
        ("-1.0", RunFailed),
        ("'1'", RunFailed),
        ("None", RunFailed),
    ],
)
def test_a_wrong_multiplier_is_blamed_on_its_schedule_and_target(tiny: Path, value: str, error: type) -> None:
    (tiny.parent / "odd.py").write_text(
        "from nanogpt_kit.api import Schedule\n\nclass Odd(Schedule):\n    def multiplier(self, step, total_steps):\n"
        f"        return {value} if step == 2 else 1.0\n"
    )
    odd = "schedule=['constant', {use='odd', target='optimizer.eps'}]"
    experiment = Experiment.load(tiny, ["components=['odd.py']", odd], trust_code=True)
    assert checked_multiplier(experiment, experiment.schedules[1], 1, 0.0) == 1.0
    with pytest.raises(RunFailed, match=r"the multiplier of optimizer.eps is \S+ at step 3 by schedule Odd") as failed:
        checked_multiplier(experiment, experiment.schedules[1], 2, 0.0)
    assert type(failed.value) is error


def test_a_value_that_the_option_does_not_allow_is_blamed_as_well(tiny: Path) -> None:
    with pytest.raises(
        RunFailed, match=r"optimizer.betas.0 is 1.008 at step 7 .* Piecewise; expected a number below 1"
    ):
        run(tiny, f"schedule={ramp('optimizer.betas.0', 1.0, 1.2, 1.0)}")


# --- budgets of seconds -----------------------------------------------------------------------------------------

UNEVEN = [0.75, 0.125, 0.375, 0.25, 0.875, 0.25, 0.5]  # seconds of the steps, over and over; their sums are exact
LINEAR = "schedule={use='linear', warmup_steps=3, final_fraction=0.2}"
LIMITED = ("train.steps=1000", "train.max_seconds=7", "checkpoint.every_steps=4", LINEAR)


class Clock:
    """Of which each step takes the same time whenever it is taken."""

    def __init__(self, step: int = 0, pace: float = 1.0) -> None:
        self.now, self.reads, self.step, self.pace = 0.0, 0, step, pace

    def perf_counter(self) -> float:
        if self.reads % 2:  # at the end of a step
            self.now += UNEVEN[self.step % len(UNEVEN)] * self.pace
            self.step += 1
        self.reads += 1
        return self.now


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *args: monkeypatch.setattr(trainer, "time", Clock(*args))


def state(folder: RunFolder) -> dict[str, Any]:
    path = store.newest_whole_checkpoint(folder.checkpoints)
    assert path is not None
    timing = ("perf/tokens_per_second", "memory/peak_bytes")
    metrics = [{key: line[key] for key in line if key not in timing} for line in read_metrics(folder.metrics)]
    return {"weights": sha256_file(path / store.MODEL), "training": store.load_training(path), "metrics": metrics}


@pytest.mark.parametrize("pace", [1.0, 0.5])
def test_a_budget_of_seconds_ends_at_the_final_fraction_within_a_step(
    tiny: Path, set_clock: Callable[..., None], pace: float
) -> None:
    set_clock(0, pace)
    folder = run(tiny, *LIMITED)
    assert folder.status().ended_by == "max_seconds"
    lines = [line for line in read_metrics(folder.metrics) if "optim/lr" in line]
    rates, seconds = [line["optim/lr"] for line in lines], [0.0, *(line["seconds"] for line in lines)]
    assert len(rates) == folder.status().step < 40
    before = len(rates) - 1  # steps, of which 3 are of the warmup
    last_step = (seconds[-1] - seconds[-2]) / 7 * before / (before - 3)  # as a fraction of the decay
    assert 0.2 < rates[-1] / 3e-3 <= 0.2 + 0.8 * last_step
    assert all(later <= earlier for earlier, later in pairwise(rates[3:]))
    for step in range(3, len(rates)):  # by hand: the fraction of the seconds is that of the run
        length = step / (seconds[step] / 7)
        assert rates[step] == pytest.approx(3e-3 * (0.2 + 0.8 * (length - step) / (length - 3)), rel=1e-3)


@pytest.mark.parametrize("killed_at", [5, 9])
def test_killed_and_resumed_a_budget_of_seconds_gives_the_same_run(
    tiny: Path, set_clock: Callable[..., None], monkeypatch: pytest.MonkeyPatch, assert_same: Same, killed_at: int
) -> None:
    """To the bit, where each step takes as long as it took: its progress is that of the stored clock."""
    set_clock()
    whole = run(tiny, *LIMITED, "name=whole")
    update = trainer.Trainer.update

    def kill(self: trainer.Trainer, batch: Any) -> Any:
        if self.step == killed_at:
            raise KeyboardInterrupt
        return update(self, batch)

    set_clock()
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "update", kill)
        with pytest.raises(KeyboardInterrupt):
            run(tiny, *LIMITED)
    set_clock(killed_at // 4 * 4)
    resumed = run(tiny, *LIMITED, resume="")
    assert_same(state(resumed), state(whole))


def test_steps_that_end_a_run_before_its_seconds_give_the_same_run(
    tiny: Path, set_clock: Callable[..., None], assert_same: Same
) -> None:
    set_clock()
    limited = state(run(tiny, LINEAR, "train.max_seconds=1000", "name=limited"))
    set_clock()
    assert_same(limited, state(run(tiny, LINEAR)))


RECORDER = """\
import os
from pathlib import Path
from nanogpt_kit.api import Schedule

class Recorder(Schedule):
    def multiplier(self, step, total_steps):
        with open(Path(__file__).parent / f"rank{os.environ.get('RANK', 0)}.txt", "a") as file:
            file.write(f"{step} {total_steps!r}\\\\n")
        return 1 - step / total_steps
"""


def test_all_ranks_go_by_the_clock_of_the_first(tiny: Path) -> None:
    (tiny.parent / "recorder.py").write_text(RECORDER.replace("\\\\n", "\\n"))
    more = ["components=['recorder.py']", "schedule=recorder", "train.steps=100000", "train.max_seconds=0.4"]
    (answer,) = runs({"file": str(tiny), "size": 2, "overrides": ["parallel=ddp", "sample.num_samples=0", *more]})
    assert answer["codes"] == [0, 0]
    folder = Path(answer["ranks"][0]["folder"]) / "components"
    texts = [path.read_text() for path in sorted([*tiny.parent.glob("rank*.txt"), *folder.glob("rank*.txt")])]
    assert len(texts) == 2
    assert texts[0] == texts[1]
    assert "." in texts[0].splitlines()[-1]  # a length at the pace so far


# --- another budget ---------------------------------------------------------------------------------------------


def test_more_seconds_continue_a_run_where_no_schedule_depends_on_them(
    tiny: Path, set_clock: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    wsd = ("train.steps=1000", "schedule={use='wsd', warmup_steps=2, decay_fraction=0.5}", "checkpoint.every_steps=4")
    set_clock()
    first = run(tiny, *wsd, "train.max_seconds=7", "checkpoint.keep_every_steps=4")
    with pytest.raises(KitError, match=r"train\.max_seconds: 14\.0 now, 7\.0 in \S+; the schedule depends on it") as no:
        run(tiny, *wsd, "train.max_seconds=14", resume=str(first))
    (notes,) = no.value.__notes__
    assert (
        f"nanogpt-kit run {first}@8 train.max_seconds=14" in notes
    )  # its step 7 began after 3.125 s, and the decay after 3.5 s
    set_clock(8)
    branch = run(tiny, *wsd, "train.max_seconds=14", resume=f"{first}@8")
    set_clock()
    whole = run(tiny, *wsd, "train.max_seconds=14", "name=whole")
    assert values(branch, "optim/lr") == values(whole, "optim/lr")
    assert values(branch, "train/loss") == values(whole, "train/loss")
    assert branch != first
    with pytest.raises(KitError, match="the schedule depends on it") as fewer:
        run(tiny, *wsd, "train.max_seconds=5", resume=str(first))
    assert not any("to train longer" in note for note in fewer.value.__notes__)


def test_the_clock_of_a_run_covers_the_steps_after_its_last_line(tiny: Path) -> None:
    folder = run(tiny, "train.steps=1")
    folder.metrics.write_text('{"step": 2, "seconds": 0.5}\n{"step": 10, "seconds": 2.5}\n', encoding="utf-8")
    folder.set_status("interrupted", step=14, seconds=3.5)
    clock = clock_of(folder)
    assert [clock(step) for step in (1, 2, 3, 10, 11, 14)] == pytest.approx([0.5, 0.5, 2.5, 2.5, 3.5, 3.5], abs=2e-3)


def test_more_seconds_continue_a_run_whose_batches_follow_a_budget_of_tokens(
    tiny: Path, set_clock: Callable[..., None]
) -> None:
    batches = "{use='piecewise', target='train.batch_tokens', knots=[[0, 0.5], [1, 1]]}"
    options = (f"schedule=['constant', {batches}]", "train.steps=1000", "train.max_tokens=4000", "train.max_seconds=2")
    set_clock()
    folder = run(tiny, *options)
    hint = extension_hint(folder, Experiment.load(tiny, [*QUIET, *options]), folder.status())
    assert hint == f"continue with: nanogpt-kit run {folder} train.max_seconds=4.75"


def test_another_budget_is_refused_for_any_schedule_that_depends_on_it(tiny: Path) -> None:
    decay = "schedule=['constant', {use='linear', target='optimizer.weight_decay', warmup_steps=0}]"
    folder = run(tiny, decay, "train.steps=5")
    with pytest.raises(KitError, match=r"the schedule of optimizer\.weight_decay depends on it, so the steps already"):
        run(tiny, decay, "train.steps=8", resume=str(folder))
