"""Options by parameter: groups, frozen parameters, and an optimizer that knows the length of its run."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.testing.optimizer import OptimizerConformance
from nanogpt_kit.train import session
from nanogpt_kit.train.trainer import Trainer
from tests.seams.components.ademamix import AdEMAMix

FILE = Path(__file__).parent / "components" / "ademamix.py"
STEPS = 6
PLAIN = (
    "schedule=constant",
    f"train.steps={STEPS}",
    "model.dropout=0",
    "train.grad_clip=1e9",
    "train.micro_batch_size=5",
    "checkpoint.every_steps=3",
    "checkpoint.keep_last=9",
    "evaluate.every_steps=9",
    "callback=[]",
    "sample.num_samples=0",
)


class TestAdEMAMix(OptimizerConformance):
    component = AdEMAMix(lr=3e-3, betas=(0.9, 0.99, 0.999))


class Seen:
    """What a run went through: its batches, the weights before and after, and its optimizer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[Any] = []
        self.starts: list[dict[str, torch.Tensor]] = []
        self.ends: list[dict[str, torch.Tensor]] = []
        self.optimizer: Any = None
        train, update = Trainer.train, Trainer.update

        def keep_batches(trainer: Trainer, batch: Any) -> Any:
            self.batches.append([(ids.clone(), targets.clone()) for ids, targets, _ in batch.micro_batches(99, "cpu")])
            return update(trainer, batch)

        def keep_weights(trainer: Trainer) -> None:
            self.optimizer = trainer.optimizer
            for kept, when in ((self.starts, lambda: None), (self.ends, lambda: train(trainer))):
                when()
                kept.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})

        monkeypatch.setattr(Trainer, "update", keep_batches)
        monkeypatch.setattr(Trainer, "train", keep_weights)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def experiment_of(tiny: Path, groups: str, *more: str) -> Experiment:
    return Experiment.load(tiny, [*PLAIN, f"optimizer.group=[{groups}]", *more], trust_code=True)


def test_two_learning_rates_are_torchs_own_groups_to_the_bit(tiny: Path, seen: Seen) -> None:
    """A loop by hand over the batches of the run, with torch's AdamW."""
    of_mlp = {"lr": 7e-4, "betas": (0.8, 0.9), "weight_decay": 0.03}
    groups = "{match='mlp', lr=7e-4, betas=[0.8, 0.9], weight_decay=0.03}, {match='lm_head', lr=2e-2}"
    experiment = experiment_of(tiny, groups, "model.bias=true")
    session.run(experiment)
    model: Any = experiment.model.build(experiment.model_context(257)).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(seen.starts[0][name])
    named = dict(model.named_parameters())
    others = {name: p for name, p in named.items() if "mlp" not in name and name != "wte.weight"}
    reference = torch.optim.AdamW(
        [
            {"params": [p for name, p in named.items() if "mlp" in name], **of_mlp},  # its biases decay too
            {"params": [named["wte.weight"]], "lr": 2e-2},  # which is tied to lm_head.weight
            {"params": [p for p in others.values() if p.ndim > 1]},
            {"params": [p for p in others.values() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=3e-3,
        betas=(0.9, 0.95),
        weight_decay=0.1,
        fused=True,
    )
    for ((ids, targets),) in seen.batches:
        reference.zero_grad()
        (model(ids, targets) / targets.numel()).backward()
        reference.step()
    assert len(seen.batches) == STEPS
    for name, parameter in named.items():
        assert torch.equal(parameter, seen.ends[0][name]), name
        assert not torch.equal(parameter, seen.starts[0][name]), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_frozen_weights_stay_the_same_and_have_no_state_also_resumed(
    tiny: Path, seen: Seen, optimizer: str, tmp_path: Path
) -> None:
    options = (f"optimizer={optimizer}", "callback=['ema']", "callback.ema.decay=0.5")
    groups = "{match='wte|h\\.0\\.', freeze=true}, {match='h\\.1\\.mlp', lr=1e-2}"
    whole = session.run(experiment_of(tiny, groups, *options))
    frozen = {name for name in seen.starts[0] if name == "wte.weight" or name.startswith("h.0.")}
    changed = {name for name, start in seen.starts[0].items() if not torch.equal(start, seen.ends[0][name])}
    assert changed == seen.starts[0].keys() - frozen

    part = session.run(experiment_of(tiny, groups, *options, "train.steps=3"))
    resumed = session.run(experiment_of(tiny, groups, *options), resume=str(part.path))
    for name, end in seen.ends[0].items():
        assert torch.equal(seen.ends[2][name], end), name
    held = [name for group in seen.optimizer.param_groups for name in group["names"]]
    assert sorted(held) == sorted(changed)
    parameters = [p for group in seen.optimizer.param_groups for p in group["params"]]
    assert set(seen.optimizer.state) == set(parameters)
    states = [store.load_training(run.checkpoint(STEPS)) for run in (whole, resumed)]
    assert len(states[0]["optimizer"]["state"]) == len(changed)
    averages = [next(iter(state["callbacks"].values()))["weights"] for state in states]
    assert all(torch.equal(averages[1][name], averages[0][name]) for name in averages[0])
    assert all(torch.equal(averages[0][name], seen.starts[0][name]) for name in frozen)
    count, trained = (sum(seen.starts[0][name].numel() for name in names) for names in (seen.starts[0], changed))
    assert (whole.status().parameters, whole.status().trained_parameters) == (count, trained)


def test_a_resumed_run_keeps_its_groups(tiny: Path) -> None:
    part = session.run(experiment_of(tiny, "{match='wte', lr=1e-3}", "train.steps=3"))
    with pytest.raises(KitError, match=r"optimizer\.group\.0\.lr: 0\.002 now, 0\.001 in .*cannot change"):
        session.run(experiment_of(tiny, "{match='wte', lr=2e-3}"), resume=str(part.path))


def test_a_run_from_other_weights_keeps_those_that_are_frozen(tiny: Path, seen: Seen) -> None:
    first = session.run(experiment_of(tiny, ""))
    session.run(experiment_of(tiny, "{match='matrix', freeze=true}", f"model.init_from={first.path}", "train.seed=7"))
    source, start, end = seen.ends[0], seen.starts[1], seen.ends[1]
    matrices = [name for name in source if "attn" in name or "mlp" in name]
    assert all(torch.equal(start[name], source[name]) for name in source)
    assert [name for name in source if torch.equal(end[name], source[name])] == matrices


def test_frozen_weights_change_no_other_update(tiny: Path, seen: Seen) -> None:
    """With a learning rate of nearly 0 weights stay as they are, too, though they are not frozen."""
    more = ["train.activation_checkpointing=true", "train.precision=bf16"]
    session.run(experiment_of(tiny, "{match='wte|h\\.0\\.', freeze=true}", *more))
    session.run(experiment_of(tiny, "{match='wte|h\\.0\\.', lr=1e-30}", *more))
    for name, end in seen.ends[0].items():
        torch.testing.assert_close(end, seen.ends[1][name], rtol=0, atol=0, msg=name)


def test_the_learning_rate_of_a_group_is_multiplied_by_that_of_mup(tiny: Path, seen: Seen) -> None:
    mup = ("init={use='mup', base_width=12}", "train.steps=1")
    session.run(experiment_of(tiny, "", *mup))
    plain = {name: group["lr"] for group in seen.optimizer.param_groups for name in group["names"]}
    session.run(experiment_of(tiny, "{match='mlp|wte', lr=9e-3}", *mup))
    assert plain["h.0.attn.c_attn.weight"] == pytest.approx(1.5e-3)  # 3e-3 at half of this width
    for group in seen.optimizer.param_groups:
        for name in group["names"]:
            in_group = "mlp" in name or name == "wte.weight"
            assert group["group"] == (0 if in_group else None)
            assert group["lr"] == pytest.approx(plain[name] * (3 if in_group else 1)), name


def test_muon_and_its_others_take_the_options_of_a_group(tiny: Path, seen: Seen) -> None:
    session.run(experiment_of(tiny, "{match='h\\.1', lr=5e-3, weight_decay=0.5}", "optimizer=muon", "train.steps=1"))
    found = {
        name: (group["lr"], group["weight_decay"], group.get("slot"))
        for group in seen.optimizer.param_groups
        for name in group["names"]
    }
    assert found["h.1.mlp.c_fc.weight"] == (5e-3, 0.5, None)
    assert found["h.1.ln_1.weight"] == (5e-3, 0.5, "others")
    assert found["h.0.mlp.c_fc.weight"] == (2e-3, 0.1, None)
    assert found["h.0.ln_1.weight"] == (1e-3, 0.0, "others")


def ademamix_by_hand(start: torch.Tensor, gradients: list[torch.Tensor], total: int) -> torch.Tensor:
    """Algorithm 1 of the paper, in fp64, with its lr 0.01, betas (0.8, 0.9, 0.99), alpha 3 and decay 0.1."""
    theta, m1, m2, nu = (start.double(), *(torch.zeros_like(start, dtype=torch.float64) for _ in range(3)))
    for t, gradient in enumerate(gradients, start=1):
        g = gradient.double()
        alpha = min(t * 3 / total, 3)
        low, high = math.log(0.8), math.log(0.99)
        beta3 = min(math.exp(low * high / ((1 - t / total) * high + t / total * low)), 0.99)
        m1, m2, nu = 0.8 * m1 + 0.2 * g, beta3 * m2 + (1 - beta3) * g, 0.9 * nu + 0.1 * g * g
        root = (nu / (1 - 0.9**t)).sqrt() + 1e-8
        theta = theta - 0.01 * ((m1 / (1 - 0.8**t) + alpha * m2) / root + 0.1 * theta)
    return theta


def test_an_optimizer_knows_the_steps_of_its_run() -> None:
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    gradients = list(torch.randn(9, 5, 3, generator=torch.Generator().manual_seed(2)))
    parameter = torch.nn.Parameter(start.clone())
    keys = {"names": ["w"], "rows": [None], "role": "matrix", "lr_multiplier": 1.0, "group": None, "total_steps": 9}
    optimizer = AdEMAMix(lr=0.01, betas=(0.8, 0.9, 0.99), alpha=3).build([{"params": [parameter], **keys}])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(parameter.double(), ademamix_by_hand(start, gradients, total=9), rtol=0, atol=1e-5)


def ademamix_of(tiny: Path, *more: str) -> Experiment:
    return experiment_of(tiny, "{match='wte', betas=[0.8, 0.9, 0.99]}", f"components=['{FILE}']", *more)


def test_its_run_is_resumed_to_the_bit_and_sampled_and_not_extended(tiny: Path, seen: Seen) -> None:
    options = ("optimizer.use=ademamix", "optimizer.lr=3e-3")
    whole = session.run(ademamix_of(tiny, *options))
    assert {group["total_steps"] for group in seen.optimizer.param_groups} == {STEPS}
    stopped = RunFolder(whole.path.with_name("stopped"))
    half = session.run(ademamix_of(tiny, *options, "train.max_seconds=1e-9"), into=str(stopped.path))
    resumed = session.run(ademamix_of(tiny, *options, "train.max_seconds=1e9"), resume=str(half.path))
    losses = [
        [row["train/loss"] for row in read_metrics(run.metrics) if "train/loss" in row] for run in (whole, resumed)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS
    assert load_run(whole.path, trust_code=True).generate("a", max_new_tokens=5)
    with pytest.raises(KitError, match=r"train\.steps: 9 now, 6 in .*the optimizer depends on it") as refused:
        session.run(ademamix_of(tiny, *options, "train.steps=9"), resume=str(whole.path))
    assert "from its weights" in "".join(refused.value.__notes__)
    assert "wsd" not in "".join(refused.value.__notes__)


def test_betas_of_another_number_are_refused(tiny: Path) -> None:
    experiment = experiment_of(
        tiny, "{match='wte', betas=[0.8, 0.9]}", f"components=['{FILE}']", "optimizer.use=ademamix"
    )
    with pytest.raises(KitError, match=r"optimizer\.group\.0\.betas: should have 3 values, as in \[0\.9, 0\.999"):
        session.run(experiment)


DOCS = Path(__file__).parents[2] / "docs" / "guide" / "parameter-groups.md"


def test_the_documented_groups_match_and_are_listed_as_documented(
    tiny: Path, tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (listed,) = re.findall(r"```\n(optimizer\.group.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    text = tiny.read_text(encoding="utf-8")
    tiny.write_text(re.sub(r"\[optimizer\][^[]*", lambda _: first, text), encoding="utf-8")
    sizes = ("model.n_layer=4", "model.n_head=4", "model.n_embd=128", "model.block_size=40")
    shown = command("check", tiny, "--explain", *sizes)
    assert shown.out.endswith(listed), shown.err

    tiny.write_text(text, encoding="utf-8")
    source = session.run(Experiment.load(tiny, [*PLAIN, "model.n_layer=4", "train.steps=0"]))
    init_from, _, groups = second.replace("my-run", str(source.path)).partition("\n\n")
    tiny.write_text(f"{text.replace('[model]', init_from)}\n{groups}", encoding="utf-8")
    status = session.run(Experiment.load(tiny, [*PLAIN, "model.n_layer=4"])).status()
    assert 0 < (status.trained_parameters or 0) < (status.parameters or 0) / 2


def test_the_documented_layer_is_several_in_one() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["gate"].shape == names["up"].shape == (3, 256)
    assert names["gate_and_up"].rows == (256, 256)
