"""What a model returns in training: its loss, and the extras of its parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.api import (
    MLP,
    Attention,
    KVCache,
    LayerContext,
    Loss,
    Mixer,
    MixerContext,
    Model,
    ModelContext,
    Norm,
    Positional,
    TrainingLoss,
    View,
    add_extras,
    linear_cross_entropy,
    take_extra,
)
from nanogpt_kit.components.attention.naive import Naive
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.nn.extra_names import extra_names
from nanogpt_kit.nn.training_loss import sum_by_name

LAYERS, VOCAB = 3, 37


class WithSize(nn.Module):
    """A module whose extra is the sum of the squares of its result, under a name or that of its part."""

    def __init__(self, module: nn.Module, name: str | None = None) -> None:
        super().__init__()
        self.module, self.name = module, name
        self.results: list[Tensor] = []

    def forward(self, *inputs: Any) -> tuple[Tensor, Tensor | dict[str, Tensor]]:
        y = self.module(*inputs)
        size = y.float().square().sum()
        self.results.append(size.detach())
        return y, size if self.name is None else {self.name: size}


class SizedNorm(Norm):
    def build(self, ctx: LayerContext) -> nn.Module:
        return WithSize(nn.LayerNorm(ctx.n_embd))


class SizedMLP(MLP):
    def build(self, ctx: LayerContext) -> nn.Module:
        return WithSize(nn.Linear(ctx.n_embd, ctx.n_embd), "size")


class SizedAttention(Attention):
    def build(self, ctx: LayerContext) -> nn.Module:
        return WithSize(Naive().build(ctx))


class Mean(nn.Module):
    def forward(self, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
        return x.cumsum(1) / x.size(1)


class SizedMixer(Mixer):
    def build(self, ctx: MixerContext) -> nn.Module:
        return WithSize(Mean())


def model_of(**parts: Any) -> Any:
    gpt: Any = Registry.installed().load(Model, "gpt")
    return gpt(n_layer=LAYERS, n_head=2, n_embd=12, block_size=8, **parts)


def built(model: Any) -> Any:
    torch.manual_seed(0)
    return model.build(ModelContext(vocab_size=VOCAB)).train()


IDS = torch.arange(10).view(2, 5)


@pytest.mark.parametrize(
    ("parts", "name", "modules"),
    [
        ({"norm": SizedNorm()}, "norm", 2 * LAYERS + 1),
        ({"norm": SizedNorm(), "qk_norm": True}, "norm", 4 * LAYERS + 1),
        ({"mlp": SizedMLP()}, "size", LAYERS),
        ({"attention": SizedAttention()}, "attention", LAYERS),
        ({"mixer": SizedMixer()}, "mixer", LAYERS),
    ],
)
def test_extras_of_a_kind_are_summed_over_all_its_modules(parts: dict[str, Any], name: str, modules: int) -> None:
    module = built(model_of(**parts))
    computed = module(IDS, IDS)
    sized = [part for part in module.modules() if isinstance(part, WithSize)]
    assert [len(part.results) for part in sized] == [1] * modules
    assert computed.extras.keys() == {name}
    expected = sum(part.results[0] for part in sized)
    torch.testing.assert_close(computed.extras[name], expected)
    torch.testing.assert_close(computed.objective.detach(), computed.loss + expected)
    assert not computed.loss.requires_grad
    assert not computed.extras[name].requires_grad
    torch.testing.assert_close(module.eval()(IDS, IDS), computed.loss)
    assert extra_names(model_of(**parts)) == {name}


def test_a_model_without_extras_returns_its_loss_as_before() -> None:
    assert isinstance(built(model_of())(IDS, IDS), Tensor)
    assert extra_names(model_of()) == frozenset()


class Doubled(nn.Module):
    def forward(self, x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, softcap: float | None) -> Any:
        loss = linear_cross_entropy(x, weight, targets, vocab_size, softcap)
        return TrainingLoss(2 * loss, loss.detach(), {"size": loss.detach()})


class DoubledLoss(Loss):
    def build(self, ctx: LayerContext) -> nn.Module:
        return Doubled()


def test_the_extras_of_a_loss_join_those_of_the_parts_unless_they_have_one_name() -> None:
    computed = built(model_of(loss=DoubledLoss(), norm=SizedNorm()))(IDS, IDS)
    assert computed.extras.keys() == {"norm", "size"}
    torch.testing.assert_close(computed.objective.detach(), computed.loss + sum(computed.extras.values()))
    with pytest.raises(KitError, match="the loss and a part of the model both return an extra named 'size'; rename"):
        built(model_of(loss=DoubledLoss(), mlp=SizedMLP()))(IDS, IDS)


class NeedsNumbers(MLP):
    def build(self, ctx: LayerContext) -> nn.Module:
        class Chooses(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) if x.sum().item() > 0 else x

        return Chooses(ctx.n_embd, ctx.n_embd)


def test_names_that_depend_on_numbers_are_unknown() -> None:
    assert extra_names(model_of(mlp=NeedsNumbers())) is None


def test_names_are_found_without_drawing_random_numbers() -> None:
    before = torch.get_rng_state()
    extra_names(model_of(mlp=SizedMLP(), dropout=0.3))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_part_returns_its_result_or_a_pair() -> None:
    extras: dict[str, Tensor] = {}
    y = torch.ones(2)
    assert take_extra(extras, "mlp", y) is y
    assert take_extra(extras, "mlp", (y, {})) is y
    assert extras == {}
    with pytest.raises(KitError, match=r"mlp returned a tuple of 3; it should return y, or \(y, extra\)"):
        take_extra(extras, "mlp", (y, y.sum(), y))


@pytest.mark.parametrize(("output", "kind"), [([torch.ones(2), torch.ones(())], "list"), (None, "NoneType")])
def test_a_result_that_is_no_tensor_is_refused(output: Any, kind: str) -> None:
    with pytest.raises(
        KitError, match=rf"^mlp returned a {kind}; it should return a tensor y, or a tuple \(y, extra\)$"
    ):
        take_extra({}, "mlp", output)


@pytest.mark.parametrize("name", ["", "load balance", "aux/load", "größe", "1st", 3])
def test_a_name_is_one_word(name: Any) -> None:
    with pytest.raises(KitError, match=r"mlp returned an extra named .*; the name should be one word, such as 'load_b"):
        take_extra({}, "mlp", (torch.ones(2), {name: torch.ones(())}))


def test_windows_that_fill_a_batch_count_for_nothing() -> None:
    loss = torch.tensor(3.0, requires_grad=True)
    computed = TrainingLoss.of(add_extras(loss, {"size": 2 * loss}))
    fill = computed.counted(False)
    assert [value.item() for value in (fill.objective, fill.loss, fill.extras["size"])] == [0.0] * 3
    assert computed.counted(True) == computed
    assert computed.metrics(4) == {"train/loss": 0.75, "aux/size": 1.5}


def test_passes_with_other_extras_are_refused() -> None:
    one, other = {"train/loss": torch.ones(())}, {"train/loss": torch.ones(()), "aux/size": torch.ones(())}
    assert sum_by_name([other, other, other]) == {"train/loss": 3, "aux/size": 3}
    with pytest.raises(KitError, match="the model returned aux/size in some passes only"):
        sum_by_name([one, other])
