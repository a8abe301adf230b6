"""Auxiliary losses, with a mixture of experts: sums over tokens are exact however a batch is computed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.nn.thread_probe import training_hazard
from nanogpt_kit.report.metric_curves import read_curves
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.testing.conformance import ignore_torch_warnings
from nanogpt_kit.testing.mlp import MLPConformance
from nanogpt_kit.train import session
from nanogpt_kit.train.cores import CoreAllocation
from nanogpt_kit.train.metric_names import check_study_metric
from nanogpt_kit.train.setup import Placement, Setup
from nanogpt_kit.train.stop import StopSignals
from nanogpt_kit.train.trainer import Trainer
from nanogpt_kit.train.world import World

MOE = Path(__file__).with_name("components") / "moe.py"
RANKS = Path(__file__).parents[1] / "train" / "ranks.py"
QUIET = ("callback=[]", "sample.num_samples=0", "model.dropout=0.0", f'components=["{MOE}"]')
SUM = 'model.mlp={use="moe", top_k=2, width=1.0, balance=0.0, z_loss=0.3}'  # extras that are sums over tokens alone
Z = 0.3


def experiment(tiny: Path, *overrides: str, mlp: str = SUM) -> Experiment:
    return Experiment.load(tiny, [*QUIET, mlp, *overrides])


def run(tiny: Path, *overrides: str, mlp: str = SUM, resume: str | None = None) -> RunFolder:
    return session.run(experiment(tiny, *overrides, mlp=mlp), resume=resume)


def logged(folder: RunFolder, metric: str) -> list[float]:
    return [line[metric] for line in read_metrics(folder.metrics) if metric in line]


def balanced(weight: float) -> str:
    return f'model.mlp={{use="moe", width=1.0, balance={weight}, z_loss={weight}}}'


# What they change, and what not


def test_they_change_the_training_and_are_in_no_loss_that_is_logged(tiny: Path) -> None:
    none, strong = (run(tiny, "train.steps=3", "checkpoint.every_steps=1", mlp=balanced(w)) for w in (0.0, 10.0))
    assert logged(none, "train/loss")[0] == logged(strong, "train/loss")[0]  # of the same weights
    assert logged(none, "train/loss")[1:] != logged(strong, "train/loss")[1:]
    assert logged(none, "optim/grad_norm")[0] < 0.5 * logged(strong, "optim/grad_norm")[0]
    assert logged(none, "aux/load_balance") == [0.0] * 3
    assert logged(strong, "aux/load_balance")[0] > 1.9 * 10  # of two layers; 1 where all experts have the same load
    for layer in range(2):
        loads = [logged(strong, f"aux/load_{layer}_{expert}") for expert in range(4)]
        assert [sum(step) for step in zip(*loads, strict=True)] == pytest.approx([1.0] * 3)


def test_evaluation_has_none(tiny: Path) -> None:
    """The loss of the validation data is the same to the bit whatever their weights."""
    none, strong = (run(tiny, "train.steps=0", mlp=balanced(weight)) for weight in (0.0, 10.0))
    assert logged(none, "val/loss") == logged(strong, "val/loss")
    trained = load_run(run(tiny, "train.steps=2", mlp=balanced(10.0))).model
    ids = torch.arange(32).view(2, 16)
    logits = trained(ids).flatten(0, 1)
    assert torch.equal(trained(ids, ids), F.cross_entropy(logits, ids.flatten(), reduction="sum"))


def test_weights_of_zero_train_like_the_same_part_without_extras(tiny: Path, tmp_path: Path) -> None:
    """To the bit: what the loop does with extras changes nothing else."""
    source = MOE.read_text().replace("return (y, self.extras(logits, probabilities, chosen)) if self.training else y",
                                     "return y")  # fmt: skip
    (tmp_path / "bare.py").write_text(source)
    bare = run(tiny, f'components=["{tmp_path}/bare.py"]', mlp=balanced(0.0).replace('"moe"', '"bare"'))
    with_extras = run(tiny, mlp=balanced(0.0))
    assert logged(with_extras, "train/loss") == logged(bare, "train/loss")
    assert logged(with_extras, "val/loss") == logged(bare, "val/loss")
    assert not any(name.startswith("aux/") for line in read_metrics(bare.metrics) for name in line)


# Sums over tokens are exact


def trainer(tiny: Path, *overrides: str, chunks: int = 1) -> Trainer:
    one = experiment(tiny, "train.grad_clip=0", *overrides)
    (tiny.parent / "by-hand").mkdir(exist_ok=True)
    ctx = RunContext(device="cpu", precision="fp32", world_size=1, splits=("train", "val"), block_size=16)
    setup = Setup(one, Placement(World(), ctx, ""), prepare(one), CoreAllocation(chunks, 1, 1))
    made = Trainer(setup, RunFolder(tiny.parent / "by-hand"), StopSignals())
    made.model.train()
    return made


def gradients_of(model: nn.Module, mean: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(mean, list(model.parameters()), materialize_grads=True))


def z_losses(model: Any, ids: Tensor) -> Tensor:
    """The router's z-loss of a batch by its formula, from the features that enter the MLPs."""
    entering: list[Tensor] = []
    handles = [block.mlp.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0])) for block in model.h]
    model(ids)
    for handle in handles:
        handle.remove()
    pairs = zip(entering, model.h, strict=True)
    logits = [features @ block.mlp.router.weight.T for features, block in pairs]
    return sum(torch.log(each.exp().sum(-1)).square().sum() for each in logits)  # type: ignore[return-value]


WAYS: dict[str, tuple[int, tuple[str, ...]]] = {
    "micro-batches of 5": (1, ("train.micro_batch_size=5",)),
    "micro-batches of 2": (1, ("train.micro_batch_size=2",)),
    "micro-batches of 1": (1, ("train.micro_batch_size=1",)),
    "two threads": (2, ("train.micro_batch_size=5",)),
    "three threads and micro-batches of 4": (3, ("train.micro_batch_size=4",)),
    "activation checkpointing": (1, ("train.activation_checkpointing=true", "train.micro_batch_size=2")),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_sum_over_tokens_is_exact_however_a_batch_is_split(tiny: Path, way: str) -> None:
    chunks, options = WAYS[way]
    one = trainer(tiny, *options, chunks=chunks)
    batch = one.batches.at(0)
    loss = F.cross_entropy(one.model(batch.ids).flatten(0, 1), batch.targets.flatten())
    extra = Z * z_losses(one.model, batch.ids) / batch.targets.numel()
    expected = gradients_of(one.model, loss + extra)
    for _ in range(2):  # the chunks of the second are computed in threads
        one.optimizer.zero_grad()
        means = one.accumulate(batch)
        assert means["aux/router_z"].item() == pytest.approx(extra.item(), rel=1e-6)
        assert means["train/loss"].item() == pytest.approx(loss.item(), rel=1e-6)
        for parameter, gradient in zip(one.model.parameters(), expected, strict=True):
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(found, gradient, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
@pytest.mark.parametrize("by_block", [False, True])
def test_a_compiled_model_is_one_graph_with_the_same_objective(tiny: Path, by_block: bool) -> None:
    one = trainer(tiny, 'model.mlp={use="moe"}')
    ids = one.batches.at(0).ids
    expected = one.model(ids, ids)
    gradients = gradients_of(one.model, expected.objective)
    torch._dynamo.reset()
    for module in one.model.h if by_block else [one.model]:  # type: ignore[union-attr]
        module.compile(fullgraph=True, backend="aot_eager")  # type: ignore[operator]
    found = one.model(ids, ids)
    assert found.extras.keys() == expected.extras.keys()
    for name, extra in expected.extras.items():
        torch.testing.assert_close(found.extras[name], extra)
    torch.testing.assert_close(found.objective, expected.objective)
    for mine, theirs in zip(gradients_of(one.model, found.objective), gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_threads_may_split_a_batch_with_extras(tiny: Path) -> None:
    one = experiment(tiny)
    ctx = RunContext(device="cpu", precision="fp32", world_size=1, splits=("train", "val"), block_size=16)
    assert training_hazard(one.model, one.parallel, ctx) is None


@pytest.mark.parametrize("precision", ["bf16", "fp16"])  # the gradients of fp16 are scaled
def test_extras_are_in_fp32_in_any_precision(tiny: Path, precision: str) -> None:
    found, expected = (run(tiny, "train.steps=2", f"train.precision={name}") for name in (precision, "fp32"))
    for metric in ("aux/router_z", "optim/grad_norm"):
        assert logged(found, metric) == pytest.approx(logged(expected, metric), rel=0.03)


def test_watching_callbacks_and_measured_memory_take_extras(tiny: Path) -> None:
    options = ['train.watch=["activations"]', "train.micro_batch_size=auto", 'callback=["ema", "tensorboard"]']
    folder = run(tiny, "train.steps=2", *options)
    assert 0 < logged(folder, "activations/max_1")[0] < 100
    assert logged(folder, "aux/router_z") == pytest.approx(logged(run(tiny, "train.steps=2"), "aux/router_z"), rel=1e-5)
    (events,) = folder.path.rglob("events.out.*")
    assert b"aux/router_z" in events.read_bytes()
    assert len(read_curves(folder.metrics)["aux/router_z"].values) == 2


@pytest.mark.slow
@ignore_torch_warnings
def test_a_compiled_run_has_the_same_losses_and_extras(tiny: Path) -> None:
    plain, compiled = (run(tiny, "train.steps=4", f"train.compile={mode}") for mode in ("off", "default"))
    for metric in ("train/loss", "aux/router_z", "val/loss"):
        assert logged(compiled, metric) == pytest.approx(logged(plain, metric), rel=1e-4)


# Several processes


def runs(tiny: Path, *wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """One after the other, each in as many processes as it says; see tests/train/ranks.py."""
    each = [
        {"file": str(tiny), "gradients": True, **one, "overrides": [*QUIET[1:], *one["overrides"]]} for one in wanted
    ]
    command = [sys.executable, "-P", str(RANKS)]
    done = subprocess.run(command, input=json.dumps(each), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    for answer in answers:
        assert all(rank["code"] == 0 for rank in answer["ranks"]), answer["ranks"][0].get("told")
    return answers


# Ranks, parallel, micro-batch. Of 5 windows; a rank with fewer has one that only fills its batch
SPREAD = [
    (2, "ddp", 2),  # it is alone in a micro-batch
    (3, "ddp", 2),  # it is in a micro-batch with another
    (2, "fsdp", 3),
]
MORE = [(3, "fsdp", 1), (2, "ddp", 1), (4, "ddp", 2), (2, "fsdp", 2)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its ranks")
@pytest.mark.parametrize("ways", [SPREAD, pytest.param(MORE, marks=pytest.mark.slow)], ids=["some", "others"])
def test_windows_that_fill_a_batch_count_in_no_extra_on_any_number_of_ranks(
    tiny: Path, ways: list[tuple[int, str, int]]
) -> None:
    options = [SUM, "train.steps=3", "train.grad_clip=0", "checkpoint.every_steps=3"]
    wanted = [{"size": 1, "overrides": [*options, "train.micro_batch_size=5", "name=alone"]}]
    for number, (size, parallel, micro) in enumerate(ways):
        more = [f"parallel={parallel}", f"train.micro_batch_size={micro}", f"name=spread{number}"]
        wanted.append({"size": size, "overrides": [*options, *more]})
    alone, *others = runs(tiny, *wanted)
    whole = RunFolder(Path(alone["ranks"][0]["folder"]))
    for way, answer in zip(ways, others, strict=True):
        folder = RunFolder(Path(answer["ranks"][0]["folder"]))
        for metric in ("train/loss", "aux/router_z", "val/loss"):
            assert logged(folder, metric) == pytest.approx(logged(whole, metric), rel=1e-6), (way, metric)
        loads = [logged(folder, f"aux/load_0_{expert}")[0] for expert in range(4)]
        assert sum(loads) == pytest.approx(1.0, abs=1e-6), way
        for found, expected in zip(answer["ranks"][0]["gradients"], alone["ranks"][0]["gradients"], strict=True):
            assert found == pytest.approx(expected, abs=1e-6), way


# Resuming, and mistakes


def test_a_run_that_was_stopped_resumes_exactly(tiny: Path) -> None:
    options = ("schedule.use=constant", "train.threads=1", "model.dropout=0.1", "checkpoint.every_steps=3")
    mlp = balanced(0.1)
    whole, part = run(tiny, *options, "train.steps=9", mlp=mlp), run(tiny, *options, "train.steps=5", mlp=mlp)
    resumed = run(tiny, *options, "train.steps=9", mlp=mlp, resume=str(part.path))
    assert resumed.path == part.path
    for metric in ("train/loss", "aux/load_balance", "aux/router_z", "aux/load_1_2"):
        assert logged(resumed, metric) == logged(whole, metric)
        assert len(logged(whole, metric)) == 9


BROKEN = """\
import torch
from nanogpt_kit.api import MLP, Field, TwoLayerMLP

class Broken(MLP):
    extra: str = Field("", description="what is wrong")

    def build(self, ctx):
        return Module(self.extra, ctx)

class Module(TwoLayerMLP):
    def __init__(self, extra, ctx):
        super().__init__(ctx, torch.nn.GELU(), ctx.n_embd)
        self.extra = extra

    def forward(self, x):
        return super().forward(x), eval(self.extra, {"x": x, "torch": torch})
"""


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("x.square().sum(-1)", "the extra 'mlp' of mlp is a tensor of shape (2, 16) in float32; it should be the sum"),
        ("x.sum().bfloat16()", "the extra 'mlp' of mlp is a tensor of shape () in bfloat16; it should be the sum"),
        ("{'size': 1.0}", "the extra 'size' of mlp is a float; it should be the sum"),
        ("{'a/b': x.sum()}", "mlp returned an extra named 'a/b'; the name should be one word, such as 'load_balance'"),
    ],
)
def test_an_extra_that_is_no_sum_is_refused_at_the_first_step(
    tiny: Path, command: Callable[..., Any], extra: str, words: str
) -> None:
    (tiny.parent / "broken.py").write_text(BROKEN)
    mlp = f'model.mlp={{use="broken", extra="{extra}"}}'
    answer = command("run", tiny, 'components=["broken.py"]', mlp, "callback=[]", "train.threads=1")
    assert answer.code != 0
    assert words in answer.err
    assert "Traceback" not in answer.err


def test_an_extra_that_is_not_a_number_is_named(tiny: Path, command: Callable[..., Any]) -> None:
    (tiny.parent / "broken.py").write_text(BROKEN)
    mlp = """model.mlp={use="broken", extra="{'size': x.sum() * float('nan')}"}"""
    answer = command("run", tiny, 'components=["broken.py"]', mlp, "callback=[]", "train.threads=1")
    assert answer.code == 1
    assert "run failed: the auxiliary loss aux/size is nan at step 1, on the windows that start at" in answer.err


def test_the_metric_of_a_sweep_may_be_an_extra_and_a_typo_is_refused(tiny: Path) -> None:
    one = experiment(tiny, mlp='model.mlp="moe"')
    check_study_metric(one, "aux/load_balance")
    check_study_metric(one, "aux/load_1_3")
    with pytest.raises(KitError, match=r"no run of it has a metric 'aux/load_balanc'; did you mean 'aux/load_balance'"):
        check_study_metric(one, "aux/load_balanc")
    with pytest.raises(KitError, match="no run of it has a metric 'aux/load_balance'"):
        check_study_metric(Experiment.load(tiny), "aux/load_balance")


# The documentation, and the component


def test_the_documented_part_logs_what_the_page_says(tiny: Path) -> None:
    page = (MOE.parents[3] / "docs" / "extending" / "auxiliary-losses.md").read_text(encoding="utf-8")
    (component,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tiny.parent / "small_features.py").write_text(component, encoding="utf-8")
    mlp = 'model.mlp={use="small_features", penalty=0.1}'
    folder = run(tiny, 'components=["small_features.py"]', "train.steps=1", mlp=mlp)
    assert logged(folder, "aux/hidden_size")[0] > 0
    assert logged(folder, "h.0.mlp/largest_weight")[0] > 0


def mixture(**options: Any) -> Any:
    return type(experiment_mlp()).model_validate(options)


def experiment_mlp() -> Any:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("moe_of_the_tests", MOE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.MoE()


class TestMoE(MLPConformance):
    component = mixture(experts=3, top_k=2, width=1.5)
    batch_statistics = ("load_balance",)


class TestSwitch(MLPConformance):
    component = mixture(experts=5, width=0.5, balance=3.0, z_loss=0.2)
    batch_statistics = ("load_balance",)
    compiles = False
