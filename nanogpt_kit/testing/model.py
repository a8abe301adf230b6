"""The suite for models: no token attends to a later one, cached or not; the loss is the fp32 sum over all targets.

Source: the probe of the initial loss is from Karpathy 2019, "A Recipe for Training Neural Networks".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.core.inner_models import inner_model
from nanogpt_kit.core.kinds import Init, Model, ModelContext, Multipliers
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.nn.roles import parameters_by_role
from nanogpt_kit.nn.training_loss import TrainingLoss
from nanogpt_kit.testing.causality import CausalityConformance, T
from nanogpt_kit.testing.conformance import (
    B,
    by_backend,
    ignore_torch_warnings,
    perturb_weights,
    standard_normal,
    trainable_parameters,
)
from nanogpt_kit.testing.remedy import assert_same, errors_as_failures

SUM = "return the sum, not the mean, over the targets that are not -1, as api.linear_cross_entropy does"
CROPPED_LENGTH = 7  # tokens, of a cropped model


class ModelConformance(CausalityConformance):
    """Subclass it with `component = MyModel(...)`, as small as possible with a block_size of at least 11."""

    component: ClassVar[Model]
    init: ClassVar[Init | None] = None  # one whose initial loss is near that of uniform guessing; None: gpt2

    def build_initialized(self, component: Model | None = None) -> Any:
        """A module with the weights that training starts from."""
        block_size = self.component.block_size
        assert block_size >= T, f"the suite requires a block_size of at least {T}, got {block_size}"
        module = (component or self.component).build(ModelContext(vocab_size=self.vocab_size))
        init = self.init or Registry.installed().load(Init, "gpt2")()
        init.apply(module, parameter_shapes(module))
        return module.to(self.device).eval()

    def build(self, seed: int = 0) -> Any:
        torch.manual_seed(seed)
        module = self.build_initialized()
        perturb_weights(module, 0.1, seed)
        return module

    def in_training(self) -> nn.Module:
        fields = type(self.component).model_fields
        component = self.component.model_copy(update={"dropout": 0.0} if "dropout" in fields else {})
        torch.manual_seed(0)
        module: nn.Module = self.build_initialized(component)
        perturb_weights(module, 0.1, seed=0)
        return module.train()

    def concurrent_calls(self, module: nn.Module) -> list[Callable[[], list[Tensor]]]:
        def train(ids: Tensor, targets: Tensor) -> list[Tensor]:
            objective, loss, extras = TrainingLoss.of(module(ids, targets))
            return [loss, *extras.values(), *self.gradients(module, objective)]

        return [partial(train, self.tokens(seed), self.tokens(seed).roll(-1, dims=1)) for seed in (1, 2)]

    def targets(self) -> Tensor:
        """The next tokens; the last ones and some of the first row are left out."""
        targets = self.tokens().roll(-1, dims=1)
        targets[:, -1] = targets[0, 4:7] = -1
        return targets

    @torch.no_grad()
    def outputs(self, module: nn.Module) -> Tensor:
        return module(self.tokens())  # type: ignore[no-any-return]

    @torch.no_grad()
    def test_its_inputs_are_not_modified(self) -> None:
        module, ids, targets = self.build(), self.tokens(), self.targets()
        module(ids)
        module(ids, targets)
        remedy = (
            "were modified in place: make a new tensor, as by clamp or masked_fill in place of clamp_ or ids[...] ="
        )
        assert ids.equal(self.tokens()), f"the tokens {remedy}"
        assert targets.equal(self.targets()), f"the targets {remedy}"

    def test_logits_are_one_row_for_each_token_and_none_for_padding(self) -> None:
        logits = self.outputs(self.build())
        expected, remedy = (B, T, self.vocab_size), "return logits[..., :vocab_size], without rows that only pad"
        assert logits.shape == expected, f"logits have the shape {tuple(logits.shape)}, not {expected}: {remedy}"
        assert logits.isfinite().all(), (
            "logits are not finite: is a row of scores masked entirely, or a sum divided by 0?"
        )

    def test_the_initial_loss_is_near_uniform_guessing(self) -> None:
        torch.manual_seed(0)
        ids, targets = self.tokens(), self.targets()
        loss = self.build_initialized()(ids, targets) / (targets >= 0).sum()
        expected, remedy = (
            math.log(self.vocab_size),
            "start the output head near zero; or set `init` here to its own init",
        )
        near = abs(loss.item() - expected) < 0.2
        assert near, f"the first loss is {loss.item():.3f} a token, and guessing gives {expected:.3f}: {remedy}"

    def test_the_loss_is_the_cross_entropy_of_the_logits_and_so_are_its_gradients(self) -> None:
        module, ids, targets = self.build(), self.tokens(), self.targets()
        loss = module(ids, targets)
        logits = module(ids).float().flatten(0, 1)
        expected = F.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction="sum")
        assert_same(loss, expected, f"the loss is not the cross-entropy of the logits: {SUM}", rtol=1e-5, atol=1e-5)
        self.assert_same_gradients(module, loss, expected, f"not those of the cross-entropy of the logits: {SUM}")

    def assert_same_gradients(self, module: nn.Module, loss: Tensor, expected: Tensor, claim: str) -> None:
        names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        found, wanted = self.gradients(module, loss), self.gradients(module, expected)
        for name, ours, theirs in zip(names, found, wanted, strict=True):
            assert_same(ours, theirs, f"the gradients of {name} are {claim}", rtol=1e-4, atol=1e-5)

    def gradients(self, module: nn.Module, loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, trainable_parameters(module), materialize_grads=True)

    def test_in_training_the_objective_is_the_loss_of_evaluation_and_the_extras(self) -> None:
        module, ids, targets = self.in_training(), self.tokens(), self.targets()
        objective, loss, extras = TrainingLoss.of(module(ids, targets))
        remedy = "return api.TrainingLoss, or add extras with api.add_extras; test options that draw nothing at random"
        claim = f"in training the loss is not the cross-entropy that evaluation measures: {remedy}"
        assert_same(loss, module.eval()(ids, targets), claim, rtol=1e-5, atol=1e-5)
        total = torch.stack([loss, *extras.values()]).sum()
        claim = f"the objective is not the sum of the loss and the extras: {remedy}"
        assert_same(objective.detach(), total, claim, rtol=1e-5, atol=1e-5)

    def test_without_targets_the_loss_is_zero(self) -> None:
        module, ids = self.build(), self.tokens()
        loss = module(ids, torch.full_like(ids, -1))
        assert loss == 0, f"with all targets -1 the loss is {loss.item():.3g}, not 0: {SUM}"
        moved = any(gradient.any() for gradient in self.gradients(module, loss))
        assert not moved, f"with all targets -1 there are gradients: {SUM}"

    def test_the_loss_is_in_fp32_under_autocast_too(self) -> None:
        module, ids, targets = self.build(), self.tokens(), self.targets()
        expected = module(ids, targets)
        remedy = "compute it with api.linear_cross_entropy, or from logits.float()"
        assert expected.dtype == torch.float32, f"the loss is {expected.dtype}, not float32: {remedy}"
        with torch.autocast(self.device, dtype=torch.bfloat16):
            loss = module(ids, targets)
        assert loss.dtype == torch.float32, f"under autocast the loss is {loss.dtype}, not float32: {remedy}"
        assert_same(loss, expected, f"under autocast to bf16 the loss is far from that in fp32: {remedy}", rtol=2e-2)
        finite = all(gradient.isfinite().all() for gradient in self.gradients(module, loss))
        assert finite, f"under autocast gradients are not finite: {remedy}"

    def test_losses_of_rows_add_up_and_so_do_their_gradients(self) -> None:
        """Micro-batches and ranks depend on it."""
        module, ids, targets = self.build(), self.tokens(), self.targets()
        whole = module(ids, targets)
        parts = torch.stack([module(ids[[row]], targets[[row]]) for row in range(B)]).sum()
        assert_same(parts, whole, f"the losses of the rows do not add up to that of the batch: {SUM}", 1e-5, 1e-5)
        self.assert_same_gradients(module, parts, whole, f"by row not those of the batch: {SUM}")

    def test_every_parameter_has_one_role_and_a_gradient(self) -> None:
        module = self.build()
        module(self.tokens(), self.targets()).backward()
        roles = [id(parameter) for parameters in parameters_by_role(module).values() for parameter in parameters]
        once = sorted(roles) == sorted(id(parameter) for parameter in trainable_parameters(module))
        assert once, "a parameter has no role, or several: register it in one module, or share the whole module"
        for name, parameter in module.named_parameters():
            has_gradient = parameter.grad is not None and parameter.grad.any()
            remedy = "use it in forward, or set requires_grad = False"
            assert has_gradient or not parameter.requires_grad, f"{name} gets no gradient: {remedy}"

    def test_only_embedding_and_head_grow_with_the_vocabulary(self) -> None:
        small, large = (
            parameters_by_role(self.component.build(ModelContext(vocab_size=size))) for size in (self.vocab_size, 1000)
        )
        for role in ("matrix", "vector"):
            shapes = [[parameter.shape for parameter in roles.get(role, [])] for roles in (small, large)]
            remedy = "make it an nn.Embedding or an api.HeadLinear"
            assert shapes[0] == shapes[1], f"a {role} grows with the vocabulary: {remedy}"

    def test_gradients_are_finite_differences(self) -> None:
        """Gradients of the logits in float64, along one random direction."""
        module, ids, step = self.build().double(), self.tokens(), 1e-4
        weights = trainable_parameters(module)
        mixture = standard_normal(B, T, self.vocab_size, seed=5).to(self.device)
        direction = [standard_normal(*weight.shape, seed=6 + index).to(weight) for index, weight in enumerate(weights)]

        def value(move: float) -> Tensor:
            torch._foreach_add_([weight.data for weight in weights], direction, alpha=move)
            total: Tensor = (module(ids) * mixture).sum()
            return total

        gradients = self.gradients(module, value(0.0))
        along = zip(gradients, direction, strict=True)
        slope = torch.stack([(gradient * one).sum() for gradient, one in along]).sum()
        size = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
        with torch.no_grad():
            above, below = value(step), value(-2 * step)
        remedy = "detach nothing, and check any backward of your own; compute in the dtype of the weights, here float64"
        claim = f"the gradients of the logits are not their finite differences: {remedy}"
        assert_same((above - below) / (2 * step), slope, claim, atol=1e-4 * size)

    @by_backend
    @ignore_torch_warnings
    def test_compiled_it_computes_the_same(self, backend: str) -> None:
        module, ids, targets = self.build(), self.tokens(), self.targets()

        def function(ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            return module(ids), module(ids, targets)

        logits, loss = function(ids, targets)
        found_logits, found_loss = self.compile_or_skip(function, backend)(ids, targets)
        remedy = "let nothing depend on is_compiling() or on state of Python"
        assert_same(found_logits, logits, f"compiled the logits are other ones: {remedy}", atol=1e-5)
        assert_same(found_loss, loss, f"compiled the loss is another one: {remedy}", atol=1e-5, rtol=1e-5)
        self.assert_same_gradients(module, found_loss, loss, f"compiled other ones: {remedy}")

    @torch.no_grad()
    def test_a_cropped_model_is_a_shorter_one(self) -> None:
        module, ids = self.build(), self.tokens()[:, :CROPPED_LENGTH]
        if not hasattr(module, "crop"):
            pytest.skip(f"{type(self.component).__name__} has no crop")
        before = module(ids)
        module.crop(CROPPED_LENGTH)
        remedy = "crop every table of positions and buffer to block_size"
        assert_same(module(ids), before, f"cropped it computes something else: {remedy}")
        built = self.build_initialized(self.component.model_copy(update={"block_size": CROPPED_LENGTH}))
        with errors_as_failures(f"its weights do not fit a model with block_size = {CROPPED_LENGTH}: {remedy}"):
            built.load_state_dict(module.state_dict())
        assert_same(built(ids), before, f"a model with block_size = {CROPPED_LENGTH} computes something else: {remedy}")

    @torch.no_grad()
    def test_merged_it_is_its_inner_model_and_computes_the_same(self) -> None:
        inner = inner_model(self.component)
        if inner is None:
            pytest.skip(f"{type(self.component).__name__} has no inner_slot")
        module, ids = self.build(), self.tokens()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        merged = self.component.merge(module)
        remedy = "return a copy that has the weights of the model in inner_slot, and computes what the module does"
        assert_same(merged(ids), module(ids), f"merged it computes something else: {remedy}", atol=1e-4)
        same = all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        assert same, "merge changed the module: copy it first"
        names = inner.build(ModelContext(vocab_size=self.vocab_size)).state_dict().keys()
        assert merged.state_dict().keys() == names, f"merged it has other weights than its inner model: {remedy}"
        assert names <= before.keys(), "it renames weights of its inner model: keep their names, and add others"

    @torch.no_grad()
    def test_it_applies_multipliers_where_it_says_so(self) -> None:
        if not self.component.applies_multipliers:
            pytest.skip(f"{type(self.component).__name__} has applies_multipliers = False")

        def logits(multipliers: Multipliers) -> Tensor:
            torch.manual_seed(0)
            module = self.component.build(ModelContext(vocab_size=self.vocab_size, multipliers=multipliers))
            perturb_weights(module, 0.1, seed=0)
            out: Tensor = module.to(self.device).eval()(self.tokens())
            return out

        remedy = "apply ModelContext.multipliers, or leave applies_multipliers = False"
        plain, tiny = logits(Multipliers()), logits(Multipliers(logits=1e-6))
        assert tiny.abs().max() < 1e-3 * plain.abs().max(), f"the multiplier of logits changes nothing: {remedy}"
        other = logits(Multipliers(embeddings=3.0))
        assert (other - plain).abs().max() > 1e-4, f"the multiplier of embeddings changes nothing: {remedy}"
