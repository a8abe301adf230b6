"""The suite for inits: every weight is set, from torch's generator alone, for a gpt of every part."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Init, Model, ModelContext, Multipliers, Optimizer, ParameterShape
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.nn.initial_weights import shapes_with_base
from nanogpt_kit.testing.component import ComponentConformance
from nanogpt_kit.testing.remedy import errors_as_failures

V = 37  # tokens of the vocabulary
SIZES = {"n_layer": 3, "n_head": 4, "n_embd": 48, "block_size": 13}
PARTS: dict[str, dict[str, Any]] = {
    "default parts": {},
    "untied head, no biases": {"weight_tying": False, "bias": False},
    "rope, swiglu, rmsnorm": {"position": "rope", "mlp": "swiglu", "norm": "rmsnorm", "n_kv_head": 2, "qk_norm": True},
    "alibi, relu2, naive": {"position": "alibi", "mlp": "relu2", "attention": "naive"},
    "parts by turns": {"norm": ["layernorm", "rmsnorm"], "position": ["rope", "learned"], "mlp": ["relu2", "gelu"]},
    "no positions": {"position": "none", "dropout": 0.1},
}
by_parts = pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)


class InitConformance(ComponentConformance):
    """Subclass it with `component = MyInit(...)`."""

    component: ClassVar[Init]
    model: ClassVar[Mapping[str, Any]] = {}  # options in place of SIZES, of gpt or of the model in `use`
    untouched: ClassVar[tuple[str, ...]] = ()  # patterns of names, as of a shell, of weights that it leaves as built

    def model_of(self, parts: Mapping[str, Any]) -> Model:
        """The model to initialize. One other than gpt takes those parts that it has, and no lists of parts."""
        own = dict(self.model)
        model: type[Model] = Registry.installed().load(Model, use := own.pop("use", "gpt"))
        options = {**SIZES, **parts}
        if use != "gpt":
            single = {name: value for name, value in options.items() if not isinstance(value, list)}
            options = {name: value for name, value in single.items() if name in model.model_fields}
        return model.model_validate({**options, **own})

    def build(self, parts: Mapping[str, Any], device: str = "cpu") -> nn.Module:
        """A model as it is before the init is applied."""
        model = self.model_of(parts)
        torch.manual_seed(1)
        with torch.device(device):
            return model.build(ModelContext(vocab_size=V, multipliers=self.multipliers(model)))

    def multipliers(self, model: Model) -> Multipliers:
        multipliers = self.component.multipliers(model)
        remedy = f"multipliers returns a {type(multipliers).__name__}: return an api.Multipliers"
        assert isinstance(multipliers, Multipliers), remedy
        return multipliers

    def shapes(self, parts: Mapping[str, Any], module: nn.Module) -> dict[str, ParameterShape]:
        adamw = Registry.installed().load(Optimizer, "adamw")()
        return shapes_with_base(self.component, self.model_of(parts), adamw, module, V)

    def apply(self, parts: Mapping[str, Any], module: nn.Module, seed: int = 5) -> dict[str, Tensor]:
        """The parameters of `module` after the init has been applied to it."""
        shapes = self.shapes(parts, module)
        torch.manual_seed(seed)
        with errors_as_failures(
            "apply fails: set values under torch.no_grad(), and note that `layer` of a shape is None outside the blocks"
        ):
            self.component.apply(module, shapes)
        return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}

    def of_layers(self, module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights and biases that are the init's to set."""
        own = {id(p) for m in module.modules() if isinstance(m, nn.Linear | nn.Embedding) for p in m.parameters()}
        for name, parameter in module.named_parameters():
            if id(parameter) in own and not any(fnmatch.fnmatch(name, pattern) for pattern in self.untouched):
                yield name, parameter

    @by_parts
    def test_every_weight_is_set_whatever_it_was(self, parts: Mapping[str, Any]) -> None:
        module, other = self.build(parts), self.build(parts)
        with torch.no_grad():
            for (_, one), (_, two) in zip(self.of_layers(module), self.of_layers(other), strict=True):
                one.fill_(math.nan)
                two.fill_(7.0)
        found, again = self.apply(parts, module), self.apply(parts, other)
        for name, _ in self.of_layers(module):
            assert torch.equal(found[name], again[name]), (
                f"{name} depends on what it was before: set every weight and bias of nn.Linear and nn.Embedding, or "
                "name it in `untouched`"
            )
        for name, value in found.items():
            assert value.isfinite().all(), f"{name} is not finite"

    @by_parts
    def test_one_seed_gives_one_set_of_weights(self, parts: Mapping[str, Any]) -> None:
        found, again = self.apply(parts, self.build(parts)), self.apply(parts, self.build(parts))
        assert torch.initial_seed() == 5, "apply has seeded torch's generator, whose seed is train.seed: only draw"
        for name, value in found.items():
            assert torch.equal(value, again[name]), (
                f"{name} differs between two calls with one seed: draw from torch's global generator alone"
            )
        used = torch.get_rng_state()
        torch.manual_seed(5)
        if not torch.equal(torch.get_rng_state(), used):
            other = self.apply(parts, self.build(parts), seed=6)
            assert any(not torch.equal(value, other[name]) for name, value in found.items()), (
                "two seeds give the same weights, though numbers were drawn: draw the weights from torch's generator"
            )

    @by_parts
    def test_parameters_are_set_in_place(self, parts: Mapping[str, Any]) -> None:
        """So that a head stays tied to its embedding, and what is trained stays trained."""
        module = self.build(parts)
        before = {name: (id(p), p.shape, p.requires_grad) for name, p in module.named_parameters()}
        self.apply(parts, module)
        for name, parameter in module.named_parameters():
            assert before.get(name) == (id(parameter), parameter.shape, parameter.requires_grad), (
                f"{name} is another parameter now, or is not trained any more: set its values in place, under no_grad"
            )
            assert parameter.is_leaf, f"{name} has the history of a gradient: set its values under torch.no_grad()"

    def test_it_reads_no_values(self) -> None:
        """On the meta device there are none."""
        module = self.build({}, "meta")
        shapes = self.shapes({}, module)
        with errors_as_failures("apply fails on the meta device: read no values of weights, only their shapes"):
            self.component.apply(module, shapes)
        assert all(parameter.is_meta for parameter in module.parameters()), (
            "a parameter has left the meta device: set values in place, from nothing but their shapes"
        )

    @by_parts
    def test_the_base_model_has_the_same_parameters(self, parts: Mapping[str, Any]) -> None:
        module = self.build(parts)
        try:
            self.shapes(parts, module)
        except KitError as error:
            pytest.fail(f"{error}: base_model must return the same model with other widths")

    @by_parts
    def test_learning_rates_are_factors(self, parts: Mapping[str, Any]) -> None:
        for shape in self.shapes(parts, self.build(parts)).values():
            factor = self.component.lr_multiplier(shape)
            assert 0 <= factor < math.inf, f"lr_multiplier of {shape.name} is {factor}: it must be finite, at least 0"

    @by_parts
    def test_multipliers_are_factors(self, parts: Mapping[str, Any]) -> None:
        multipliers = self.multipliers(self.model_of(parts))
        for name, value in vars(multipliers).items():
            assert 0 < value < math.inf, f"the multiplier of {name} is {value}: it must be finite and above 0"

    @torch.no_grad()
    @by_parts
    def test_the_model_computes(self, parts: Mapping[str, Any]) -> None:
        module = self.build(parts).eval()
        self.apply(parts, module)
        logits = module(torch.arange(10)[None] % V)
        assert logits.isfinite().all(), "logits of the initialized model are not finite: make the weights smaller"
