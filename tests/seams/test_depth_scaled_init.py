"""An init that knows the depth and the name of each parameter, as a plugin author would write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt_kit.api import Init, ModelContext
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.testing.init import InitConformance
from nanogpt_kit.train import session
from nanogpt_kit.train.trainer import Trainer
from tests.seams.components.depth_scaled import DepthScaled

FILE = Path(__file__).parent / "components" / "depth_scaled.py"
STEPS = 6


class TestDepthScaled(InitConformance):
    component = DepthScaled()


def experiment_of(tiny: Path, *more: str) -> Experiment:
    options = [
        f"components=['{FILE}']",
        "init.use=depth_scaled",
        "init.slow=mlp",
        "init.factor=0.25",
        "model.bias=true",
        "schedule=constant",
        f"train.steps={STEPS}",
        "model.dropout=0",
        "train.grad_clip=1e9",
        "train.micro_batch_size=5",
        "checkpoint.every_steps=3",
        "callback=['console']",
        "sample.num_samples=0",
    ]
    return Experiment.load(tiny, [*options, *more], trust_code=True)


def built(init: Init, layers: int = 4) -> Any:
    model: Any = GPT(n_layer=layers, n_head=4, n_embd=128, block_size=13).build(ModelContext(vocab_size=37))
    torch.manual_seed(0)
    init.apply(model, parameter_shapes(model))
    return model


def test_it_scales_what_writes_into_the_stream_by_depth() -> None:
    model = built(DepthScaled(std=0.05))
    for layer, block in enumerate(model.h):
        for module in (block.attn.c_proj, block.mlp.c_proj):
            assert module.weight.std().item() == pytest.approx(0.05 / (layer + 1) ** 0.5, rel=0.03)
        assert block.attn.c_attn.weight.std().item() == pytest.approx(0.05, rel=0.03)


def test_a_learning_rate_by_name_is_that_of_torchs_own_groups(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop by hand over the batches of the run, with one group for the names and one for the others."""
    batches, starts, ends = [], [], []
    train, update = Trainer.train, Trainer.update

    def keep_batches(self: Trainer, batch: Any) -> Any:
        batches.append([(ids.clone(), targets.clone()) for ids, targets, _ in batch.micro_batches(99, "cpu")])
        return update(self, batch)

    def keep_weights(self: Trainer) -> None:
        starts.append({name: p.detach().clone() for name, p in self.model.named_parameters()})
        train(self)
        ends.append({name: p.detach().clone() for name, p in self.model.named_parameters()})

    monkeypatch.setattr(Trainer, "update", keep_batches)
    monkeypatch.setattr(Trainer, "train", keep_weights)
    experiment = experiment_of(tiny)
    session.run(experiment)

    model: Any = experiment.model.build(experiment.model_context(257)).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(starts[0][name])
    named = dict(model.named_parameters())

    def decayed(slow: bool, flat: bool) -> list[torch.nn.Parameter]:
        return [p for name, p in named.items() if ("mlp" in name) == slow and (p.ndim < 2) == flat]

    lr = experiment.optimizer.lr  # type: ignore[attr-defined]
    rates = [(slow, flat, lr * (0.25 if slow else 1), 0 if flat else 0.1) for slow in (0, 1) for flat in (0, 1)]
    reference = torch.optim.AdamW(
        [{"params": decayed(bool(s), bool(f)), "lr": rate, "weight_decay": wd} for s, f, rate, wd in rates],
        betas=(0.9, 0.95),
        fused=True,
    )
    for ((ids, targets),) in batches:
        reference.zero_grad()
        (model(ids, targets) / targets.numel()).backward()
        reference.step()
    assert len(batches) == STEPS
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, ends[0][name], rtol=0, atol=0, msg=name)
        assert not torch.equal(parameter, starts[0][name]), name


def test_its_run_is_reported_resumed_and_sampled(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = session.run(experiment_of(tiny))
    assert "embedding 0.003, vector 0.00075 to 0.003, matrix 0.00075 to 0.003" in capsys.readouterr().out

    part = session.run(experiment_of(tiny, "train.steps=3"))
    resumed = session.run(experiment_of(tiny), resume=str(part.path))
    losses = [
        [row["train/loss"] for row in read_metrics(run.metrics) if "train/loss" in row] for run in (whole, resumed)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS
    assert load_run(whole.path, trust_code=True).generate("a", max_new_tokens=5)
