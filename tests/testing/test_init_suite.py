"""The suite for inits fails where an init is broken, with a remedy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from nanogpt_kit.api import Init, Model, ModelContext, Multipliers, ParameterShape
from nanogpt_kit.cli.plugin_templates.component.init import UniformInit
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.testing.init import PARTS, InitConformance
from nanogpt_kit.testing.model import ModelConformance

CALLS = itertools.count()
Shapes = Mapping[str, ParameterShape]
EVERY = {  # tests, each with its arguments
    name: ([PARTS["untied head, no biases"]] if name != "test_it_reads_no_values" else [])
    for name in vars(InitConformance)
    if name.startswith("test_")
}


def suite_of(init: Init, **attributes: Any) -> Any:
    return type("Suite", (InitConformance,), {"component": init, **attributes})()


def init_of(**methods: Callable[..., Any]) -> Init:
    return type("Broken", (GPT2,), methods)()


def forgets_biases(self: Init, model: nn.Module, shapes: Shapes) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)


def scales_what_is_there(self: Init, model: nn.Module, shapes: Shapes) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)


def by_a_generator_of_its_own(self: Init, model: nn.Module, shapes: Shapes) -> None:
    GPT2.apply(self, model, shapes)
    nn.init.normal_(model.wte.weight, generator=torch.Generator().manual_seed(next(CALLS)))


def seeds_the_generator(self: Init, model: nn.Module, shapes: Shapes) -> None:
    torch.manual_seed(0)
    GPT2.apply(self, model, shapes)


def ignores_what_it_draws(self: Init, model: nn.Module, shapes: Shapes) -> None:
    for name, parameter in model.named_parameters():
        torch.rand(3)
        nn.init.constant_(parameter, 0.01 * len(name))


def replaces_the_head(self: Init, model: nn.Module, shapes: Shapes) -> None:
    GPT2.apply(self, model, shapes)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())


def freezes(self: Init, model: nn.Module, shapes: Shapes) -> None:
    GPT2.apply(self, model, shapes)
    model.wte.weight.requires_grad_(False)


def reads_values(self: Init, model: nn.Module, shapes: Shapes) -> None:
    GPT2.apply(self, model, shapes)
    assert model.wte.weight.sum().item() != 0


def leaves_meta(self: Init, model: nn.Module, shapes: Shapes) -> None:
    GPT2.apply(self, model, shapes)
    model.wte.weight = nn.Parameter(torch.zeros(model.wte.weight.shape, device="cpu"))


def infinite(self: Init, model: nn.Module, shapes: Shapes) -> None:
    GPT2.apply(self, model, shapes)
    nn.init.constant_(model.wte.weight, math.inf)


def enormous(self: Init, model: nn.Module, shapes: Shapes) -> None:
    GPT2.apply(self, model, shapes)
    nn.init.constant_(model.lm_head.weight, 3e38)


def with_gradients(self: Init, model: nn.Module, shapes: Shapes) -> None:
    for parameter in model.parameters():
        parameter.normal_()


def of_fewer_layers(self: Init, model: Model) -> Model:
    return model.model_copy(update={"n_layer": 2})


BREAKS: dict[str, tuple[Init, str, str]] = {
    "forgets biases": (init_of(apply=forgets_biases), "test_every_weight_is_set_whatever_it_was", "untouched"),
    "scales": (init_of(apply=scales_what_is_there), "test_every_weight_is_set_whatever_it_was", "untouched"),
    "infinite": (init_of(apply=infinite), "test_every_weight_is_set_whatever_it_was", "wte.weight is not finite"),
    "own generator": (init_of(apply=by_a_generator_of_its_own), "test_one_seed_gives_one_set_of_weights", "global"),
    "seeds": (init_of(apply=seeds_the_generator), "test_one_seed_gives_one_set_of_weights", "train.seed"),
    "ignores": (init_of(apply=ignores_what_it_draws), "test_one_seed_gives_one_set_of_weights", "draw the weights"),
    "replaces": (init_of(apply=replaces_the_head), "test_parameters_are_set_in_place", "in place"),
    "freezes": (init_of(apply=freezes), "test_parameters_are_set_in_place", "not trained any more"),
    "leaves meta": (init_of(apply=leaves_meta), "test_it_reads_no_values", "in place"),
    "another base": (init_of(base_model=of_fewer_layers), "test_the_base_model_has_the_same_parameters", "widths"),
    "negative": (init_of(lr_multiplier=lambda self, shape: -1.0), "test_learning_rates_are_factors", "-1.0"),
    "unbounded": (init_of(lr_multiplier=lambda self, shape: math.inf), "test_learning_rates_are_factors", "finite"),
    "zero": (
        init_of(multipliers=lambda self, model: Multipliers(logits=0.0)),
        "test_multipliers_are_factors",
        "logits",
    ),
    "no multipliers": (init_of(multipliers=lambda self, model: {}), "test_multipliers_are_factors", "api.Multipliers"),
    "no no_grad": (init_of(apply=with_gradients), "test_parameters_are_set_in_place", "apply fails: set values under"),
    "enormous": (init_of(apply=enormous), "test_the_model_computes", "smaller"),
}


@pytest.mark.parametrize(("init", "test", "remedy"), BREAKS.values(), ids=BREAKS)
def test_a_broken_init_fails_its_test_with_a_remedy(init: Init, test: str, remedy: str) -> None:
    parts = [] if test == "test_it_reads_no_values" else [PARTS["default parts"]]
    with pytest.raises((AssertionError, pytest.fail.Exception)) as caught:
        getattr(suite_of(init), test)(*parts)
    assert remedy in str(caught.value).partition("\n")[0]


def test_an_init_that_reads_values_fails_on_meta() -> None:
    with pytest.raises(AssertionError, match=r"^apply fails on the meta device: read no values of weights"):
        suite_of(init_of(apply=reads_values)).test_it_reads_no_values()


def test_what_it_leaves_untouched_is_excused_by_name() -> None:
    suite = suite_of(init_of(apply=forgets_biases), untouched=("*.bias",))
    suite.test_every_weight_is_set_whatever_it_was(PARTS["default parts"])


@pytest.mark.parametrize("test", EVERY)
def test_a_sound_init_passes(test: str) -> None:
    getattr(suite_of(GPT2()), test)(*EVERY[test])


def test_the_example_of_the_documentation_passes() -> None:
    suite = suite_of(UniformInit())
    for test, arguments in EVERY.items():
        getattr(suite, test)(*arguments)


class Deaf(GPT):
    def build(self, ctx: ModelContext) -> nn.Module:
        return super().build(ModelContext(vocab_size=ctx.vocab_size))


def test_a_model_that_only_claims_to_apply_multipliers_fails_its_suite() -> None:
    suite: Any = type("Suite", (ModelConformance,), {"component": Deaf(n_layer=1, n_head=2, n_embd=8, block_size=16)})()
    with pytest.raises(AssertionError, match=r"apply ModelContext\.multipliers"):
        suite.test_it_applies_multipliers_where_it_says_so()
