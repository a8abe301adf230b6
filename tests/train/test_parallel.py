"""Several processes: the same batches, the same losses, and any of them may die."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its ranks"),
    pytest.mark.usefixtures("with_dropout"),
]

PLAIN = ("sample.num_samples=0", "model.dropout=0.0")
SEAMS = Path(__file__).parents[1] / "seams" / "components"
THIRD_LESS = """\
from nanogpt_kit.api import Callback, hookimpl

class ThirdLess(Callback):
    def build(self, run):
        return Mask()

class Mask:
    @hookimpl
    def batch_ready(self, step, batch):
        batch.targets[batch.targets % 3 == step % 3] = -1  # another number in each rank's windows
"""


def runs(*wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """One after the other, each in as many processes as it says. What they answered."""
    command = [sys.executable, "-P", str(Path(__file__).with_name("ranks.py"))]
    asked = subprocess.run(command, input=json.dumps(wanted), capture_output=True, text=True, timeout=240)
    assert asked.returncode == 0, asked.stderr[-3000:]
    answers: list[dict[str, Any]] = json.loads(asked.stdout.splitlines()[-1])
    for answer in answers:
        for rank in answer["ranks"]:
            assert rank["code"] != 3, rank["told"]
    return answers


def run(tiny: Path, size: int, *overrides: str, **more: Any) -> dict[str, Any]:
    parallel = [] if size == 1 or any(word.startswith("parallel") for word in overrides) else ["parallel=ddp"]
    return {"file": str(tiny), "size": size, "overrides": [*PLAIN, *parallel, *overrides], **more}


def losses(answer: dict[str, Any], key: str = "train/loss") -> list[float]:
    return [line[key] for line in read_metrics(RunFolder(Path(answer["ranks"][0]["folder"])).metrics) if key in line]


def weights(answer: dict[str, Any]) -> dict[str, torch.Tensor]:
    path = store.newest_whole_checkpoint(RunFolder(Path(answer["ranks"][0]["folder"])).checkpoints)
    assert path is not None
    return store.read_weights(path)


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Of tied weights each kind of checkpoint keeps one name, not the same one."""
    shared = {"lm_head.weight": "wte.weight"}
    found, expected = ({shared.get(name, name): value for name, value in some.items()} for some in (found, expected))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "micro", ["train.micro_batch_size=2", pytest.param("train.micro_batch_size=1", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("dropout", [0.2, pytest.param(0.0, marks=pytest.mark.slow)])
def test_any_number_of_ranks_sees_the_same_batches_and_gets_the_same_losses(
    tiny: Path, micro: str, dropout: float
) -> None:
    more = (
        micro,
        f"model.dropout={dropout}",
        "train.steps=8",
        "evaluate.every_steps=4",
        "checkpoint.every_steps=8",
        "name=n{}",
    )
    wanted = [run(tiny, size, *(word.format(size) for word in more)) for size in (1, 2, 4)]
    wanted += [run(tiny, 2, "parallel=fsdp", *(word.format("f") for word in more))]
    one, *others = runs(*wanted)
    for other in others:
        assert other["codes"] == [0] * len(other["ranks"])
        for step, windows in enumerate(one["ranks"][0]["batches"]):
            assert [window for rank in other["ranks"] for window in rank["batches"][step]] == windows
        assert losses(other) == pytest.approx(losses(one), abs=1e-5)
        assert losses(other, "optim/grad_norm") == pytest.approx(losses(one, "optim/grad_norm"), rel=1e-4)
        assert losses(other, "val/loss") == pytest.approx(losses(one, "val/loss"), abs=1e-5)
        assert_close(weights(other), weights(one))


def test_noise_on_gradients_and_other_windows_are_the_same_on_any_number_of_ranks(tiny: Path) -> None:
    tiny.with_name("third_less.py").write_text(THIRD_LESS)
    files = [*(str(SEAMS / f"{name}.py") for name in ("gradient_noise", "data_noising")), "third_less.py"]
    callbacks = "[{use='gradient_noise', eta=0.01}, {use='data_noising', fraction=0.3}, 'third_less']"
    more = (f"components={files}", f"callback={callbacks}", "train.steps=6", "train.grad_clip=0.0")
    several = run(tiny, 3, *more, "name=n3"), run(tiny, 2, *more, "parallel=fsdp", "name=nf")
    one, *others = runs(run(tiny, 1, *more, "name=n1"), *several)
    for other in (one, *others):
        assert other["codes"] == [0] * len(other["ranks"]), other["ranks"][0].get("told")
    for other in others:
        assert losses(other) == pytest.approx(losses(one), abs=2e-5)
        assert losses(other, "optim/grad_norm") == pytest.approx(losses(one, "optim/grad_norm"), rel=1e-4)
        assert_close(weights(other), weights(one))


@pytest.mark.slow
def test_groups_and_frozen_weights_are_the_same_on_any_number_of_ranks(tiny: Path) -> None:
    """With fused matrices, whose rows no rank has whole under fsdp, and a first block without any gradient."""
    groups = "[{match='wte|wpe|h\\.0', freeze=true}, {match='c_attn', lr=5e-3}]"
    more = (
        f"optimizer={{use='muon', group={groups}}}",
        "model.n_head=4",
        "model.n_kv_head=2",
        "train.steps=6",
        "checkpoint.every_steps=6",
        "train.grad_clip=0.1",
        "callback=['ema']",
    )
    one, *others = runs(run(tiny, 1, *more), run(tiny, 2, *more), run(tiny, 2, "parallel=fsdp", *more))
    for other in others:
        assert other["codes"] == [0, 0]
        assert losses(other) == pytest.approx(losses(one), abs=1e-5)
        assert losses(other, "optim/grad_norm") == pytest.approx(losses(one, "optim/grad_norm"), rel=1e-4)
        assert_close(weights(other), weights(one))


def test_a_run_goes_from_ddp_to_fsdp_to_single_and_back(tiny: Path) -> None:
    more = ("train.steps=8", "checkpoint.every_steps=2", "checkpoint.keep_last=9", "callback=['ema']")
    kinds = ["ddp", "fsdp", "single", "fsdp"]
    wanted = [
        run(tiny, 1 if kind == "single" else 2, f"parallel={kind}", *more, "name=mixed", kill=[0, 2 * number + 3])
        for number, kind in enumerate(kinds[:-1])
    ]
    for number, each in enumerate(wanted):
        each["resume"] = "" if number else None
    wanted.append(run(tiny, 3, "parallel=fsdp", *more, "name=mixed", resume=""))
    wanted.append(run(tiny, 1, *more, "name=whole"))
    *killed, last, whole = runs(*wanted)
    assert all(-9 in answer["codes"] for answer in killed)
    assert last["codes"] == [0, 0, 0]
    assert [
        line["step"]
        for line in read_metrics(RunFolder(Path(last["ranks"][0]["folder"])).metrics)
        if "train/loss" in line
    ] == [*range(1, 9)]
    assert losses(last) == pytest.approx(losses(whole), abs=1e-5)
    assert_close(weights(last), weights(whole))
    averages = [load_run(answer["ranks"][0]["folder"], weights="ema").model for answer in (last, whole)]
    for mine, theirs in zip(averages[0].parameters(), averages[1].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_ranks_killed_and_resumed_are_bit_for_bit_as_if_they_were_not(tiny: Path, kind: str) -> None:
    more = (f"parallel={kind}", "checkpoint.every_steps=4", "train.steps=11", "model.dropout=0.2", "optimizer=muon")
    killed, resumed, whole, left = runs(
        run(tiny, 2, *more, "name=killed", kill=[1, 6]),
        run(tiny, 2, *more, "name=killed", resume=""),
        run(tiny, 2, *more, "name=whole"),
        run(tiny, 2, *more, "name=left", kill=[1, 6]),
    )
    assert killed["codes"][1] == -9
    assert killed["codes"][0] == 1
    assert killed["ranks"][0]["error"] == "LostRank"
    status = find_run("left").folder.status()
    assert (status.state, status.ended_by, status.cause, status.rank) == ("failed", "fault", "lost_rank", 0)
    assert status.reason == left["ranks"][0]["told"]
    assert "rank 0 of 2 noticed it at step 6" in status.reason
    assert not any(word in status.reason for word in ("gloo", "tcp", "peer", "/"))
    assert losses(resumed) == losses(whole)
    assert all(torch.equal(weights(resumed)[name], weight) for name, weight in weights(whole).items())


def test_a_signal_to_one_rank_stops_all_after_the_same_step(tiny: Path) -> None:
    stopped, resumed, whole = runs(
        run(tiny, 2, "name=stopped", signal=[1, 5]),
        run(tiny, 2, "name=stopped", resume=""),
        run(tiny, 2, "name=whole"),
    )
    assert stopped["codes"] == [130, 130]
    assert losses(resumed) == losses(whole)


def test_ranks_with_different_experiments_are_refused(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "lr.py").write_text(
        "import os\nfrom nanogpt_kit.api import Schedule\n\nclass Lr(Schedule):\n"
        "    slow: bool = os.environ['RANK'] == '1'\n"
        "    def multiplier(self, step, total_steps):\n        return 1.0\n"
    )
    (answer,) = runs(run(tiny, 2, 'components=["lr.py"]', "schedule=lr"))
    assert answer["codes"] == [1, 1]
    for rank in answer["ranks"]:
        assert rank["error"] == "KitError"
        assert rank["told"].startswith("rank 1 has the experiment ")
    assert not (tmp_path / "runs" / "tiny").exists() or not list((tmp_path / "runs" / "tiny").iterdir())


def test_the_command_starts_its_processes_and_reports_a_failure_once(tiny: Path) -> None:
    command = [sys.executable, "-m", "nanogpt_kit", "run", str(tiny), "--nproc", "2", "train.steps=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("device     cpu, 2 processes of 1 thread\nprecision  fp32\n") == 1
    assert done.stderr.count("finished: ") == 1
    (tiny.parent / "bad.py").write_text(
        "from nanogpt_kit.api import Callback, hookimpl\n\nclass Bad(Callback):\n    def build(self, run):\n"
        "        return Listener()\n\nclass Listener:\n    @hookimpl\n    def step_finished(self, run, step):\n"
        "        if run.rank == 1:\n            raise ValueError('a bug of mine')\n"
    )
    failed = subprocess.run([*command, 'components=["bad.py"]', "callback=['bad']"], capture_output=True, text=True)
    assert failed.returncode == 1
    lines = [line for line in failed.stderr.splitlines() if "failed" in line]
    assert lines == ["rank 1: run failed: Bad failed in step_finished: ValueError('a bug of mine')"]
    folder = sorted((tiny.parent / "runs" / "tiny").iterdir())[-1]
    status = RunFolder(folder).status()
    assert (status.state, status.rank) == ("failed", 1)
    assert "a bug of mine" in status.reason


def test_a_batch_of_fewer_windows_than_ranks_is_the_same_batch(tiny: Path) -> None:
    more = ("train.batch_tokens=16", "train.steps=6", "train.micro_batch_size=1")
    one, two = runs(run(tiny, 1, *more, "name=one"), run(tiny, 2, *more, "name=two"))
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert Experiment.load(tiny, [*more]).step_plan.most_windows == 1


KINDS = {
    "fp32": (1, "train.precision=fp32"),
    "bf16": (1, "train.precision=bf16"),
    "fp16": (1, "train.precision=fp16"),
    "ddp": (2, "parallel=ddp"),
    "ddp-fp16": (2, "parallel=ddp", "train.precision=fp16"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_ten_times_at_any_moment_it_ends_in_the_same_bits(
    tiny: Path, kind: str, assert_same: Callable[[Any, Any], None]
) -> None:
    """With EMA, Muon, dropout and early stopping, over several epochs; fifty kills over all kinds."""
    size, *options = KINDS[kind]
    options += ["train.steps=150", "checkpoint.every_steps=3", "evaluate.every_steps=25", "train.batch_tokens=960"]
    options += ["model.dropout=0.2", "optimizer=muon", 'callback=["ema", {use="early_stopping", patience=50}]']
    (whole,) = runs(run(tiny, size, *options, "name=whole"))
    seconds = whole["ranks"][0]["seconds"]
    dice = random.Random(kind)
    moments = [dice.uniform(0.02, 0.06) * seconds for _ in range(10)]
    killed = [
        run(tiny, size, *options, "name=killed", resume="" if number else None, kill_after=moment)
        for number, moment in enumerate(moments)
    ]
    answers = runs(*killed, run(tiny, size, *options, "name=killed", resume=""))
    assert sum(-9 in answer["codes"] for answer in answers) >= 8, [answer["codes"] for answer in answers]
    folders = [find_run(name).folder for name in ("killed", "whole")]
    assert [folder.status().state for folder in folders] == ["finished", "finished"]
    assert_same(*map(result, folders))


def result(folder: RunFolder) -> dict[str, Any]:
    """All that two equal runs have in common, to the bit."""
    checkpoint = store.newest_whole_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    state = store.read_training_file(checkpoint, lambda name: True)
    del state["seconds"]
    exact = ("train/", "val/", "optim/")
    lines = [{key: line[key] for key in line if key.startswith(exact)} for line in read_metrics(folder.metrics)]
    return {"state": state, "weights": store.read_weights(checkpoint), "metrics": lines}


@pytest.mark.slow
def test_a_signal_during_the_last_step_is_agreed_on_too(tiny: Path) -> None:
    stopped, resumed = runs(
        run(tiny, 2, "name=last", "train.steps=7", "evaluate.every_steps=50", signal=[0, 6]),
        run(tiny, 2, "name=last", "train.steps=7", "evaluate.every_steps=50", resume=""),
    )
    assert stopped["codes"] == [130, 130]
    assert stopped["ranks"][1]["told"] == "SIGTERM"  # though it went to the other one
    assert resumed["codes"] == [0, 0]
    assert losses(resumed, "val/loss")


def test_layers_that_stay_gathered_are_given_back_after_an_evaluation(tiny: Path) -> None:
    gathered = "parallel={use='fsdp', reshard_after_forward=false}"
    more = ("train.steps=12", "evaluate.every_steps=4", "callback=['ema']")
    kept, plain = runs(run(tiny, 2, gathered, *more, "name=kept"), run(tiny, 1, *more[:2], "name=plain"))
    assert kept["codes"] == [0, 0], kept["ranks"][0]["told"]
    assert losses(kept) == pytest.approx(losses(plain), abs=1e-5)


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_several_processes_write_what_one_writes(tiny: Path, parallel: str) -> None:
    samples = 'evaluator=["loss", {use="samples", prompts=["7", "12 times"], max_new_tokens=9}]'
    options = ("sample.num_samples=3", "train.precision=fp32", "evaluate.every_steps=10", samples)
    one, two = runs(run(tiny, 1, *options), run(tiny, 2, *options, f"parallel={parallel}"))
    alone, together = (RunFolder(Path(answer["ranks"][0]["folder"])).samples.read_text() for answer in (one, two))
    assert alone.count(" step 10\n") == 1
    assert alone.count(" step 20\n") == 2
    assert together == alone


BREAKING = """\
from nanogpt_kit.api import Callback, hookimpl

class Breaking(Callback):
    def build(self, run):
        return Hand()

class Hand:
    @hookimpl
    def step_finished(self, run, step):
        if step == 6 and run.rank == 1:
            weight = run.model.h[1].mlp.c_proj.weight.detach()
            (weight.to_local() if hasattr(weight, "to_local") else weight).view(-1)[3] = float("inf")
"""


def test_weights_that_are_not_finite_on_one_rank_are_saved_by_none(tiny: Path) -> None:
    (tiny.parent / "breaking.py").write_text(BREAKING, encoding="utf-8")
    more = (
        "components=['breaking.py']",
        "callback=['breaking']",
        "checkpoint.every_steps=3",
        "evaluate.every_steps=99",
    )
    for kind, answer in zip(
        ("ddp", "fsdp"),
        runs(*(run(tiny, 2, f"parallel={kind}", *more, f"name={kind}") for kind in ("ddp", "fsdp"))),
        strict=True,
    ):
        assert [rank["error"] for rank in answer["ranks"]] == ["NotFinite"] * 2
        assert all("not finite after step 6: h.1.mlp.c_proj.weight;" in rank["told"] for rank in answer["ranks"])
        folder = find_run(kind).folder
        assert folder.status().cause == "not_finite"
        newest = store.newest_whole_checkpoint(folder.checkpoints)
        assert newest is not None
        assert newest.name == "step-00000003"
