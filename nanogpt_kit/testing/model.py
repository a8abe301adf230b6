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

from nanogpt_kit.core.kinds import Init, Model, ModelContext, Multipliers
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.nn.cache import KVCache
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.nn.roles import parameters_by_role
from nanogpt_kit.testing.conformance import (
    B,
    Conformance,
    by_backend,
    ignore_torch_warnings,
    perturb_weights,
    standard_normal,
    trainable_parameters,
)

CHUNKS = {"at once": [11], "token by token": [1] * 11, "in uneven chunks": [3, 1, 5, 2]}
by_chunks = pytest.mark.parametrize("lengths", CHUNKS.values(), ids=CHUNKS)
T = 11  # tokens of most tests
CROPPED_LENGTH = 7  # tokens, of a cropped model


class ModelConformance(Conformance):
    """Subclass it with `component = MyModel(...)`, as small as possible with a block_size of at least 11."""

    component: ClassVar[Model]
    vocab_size: ClassVar[int] = 37
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
            loss = module(ids, targets)
            return [loss.detach(), *self.gradients(module, loss)]

        return [partial(train, self.tokens(seed), self.tokens(seed).roll(-1, dims=1)) for seed in (1, 2)]

    def tokens(self, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, self.vocab_size, (B, T), generator=generator).to(self.device)

    def targets(self) -> Tensor:
        """The next tokens; the last ones and some of the first row are left out."""
        targets = self.tokens().roll(-1, dims=1)
        targets[:, -1] = targets[0, 4:7] = -1
        return targets

    @torch.no_grad()
    def outputs(self, module: nn.Module) -> Tensor:
        return module(self.tokens())  # type: ignore[no-any-return]

    @torch.no_grad()
    def cached_logits(self, module: nn.Module, ids: Tensor, lengths: list[int]) -> Tensor:
        """The logits of ids fed in chunks of these lengths."""
        cache = KVCache(ids.size(1) + 3)
        logits = torch.cat([module(chunk, cache=cache) for chunk in ids.split(lengths, dim=1)], dim=1)
        assert cache.length == ids.size(1), (
            f"the cache counts {cache.length} of {ids.size(1)} tokens: call cache.advance once for each pass"
        )
        return logits

    def test_logits_are_one_row_for_each_token_and_none_for_padding(self) -> None:
        logits = self.outputs(self.build())
        assert logits.shape == (B, T, self.vocab_size)
        assert logits.isfinite().all()

    def test_a_later_token_never_changes_an_earlier_logit(self) -> None:
        self.assert_causal(lambda module, ids: module(ids))

    @by_chunks
    def test_a_later_token_never_changes_an_earlier_logit_through_a_cache(self, lengths: list[int]) -> None:
        self.assert_causal(lambda module, ids: self.cached_logits(module, ids, lengths))

    @torch.no_grad()
    def assert_causal(self, logits: Callable[[nn.Module, Tensor], Tensor]) -> None:
        """One text in T rows, where row t has another token at t; in place, since batch sizes differ in rounding."""
        module, ids = self.build(), self.tokens()[:1].repeat(T, 1)  # (T, T)
        before = logits(module, ids)
        ids.diagonal().add_(1).remainder_(self.vocab_size)
        moved = (logits(module, ids) != before).any(dim=-1)  # (T, T)
        assert not moved.tril(-1).any(), (
            f"tokens change earlier logits, at (token, logit): {moved.tril(-1).nonzero().tolist()}"
        )
        assert moved.diagonal().all(), "a token does not change its own logits"

    @by_chunks
    def test_cached_logits_are_those_of_one_pass(self, lengths: list[int]) -> None:
        module = self.build()
        logits = self.cached_logits(module, self.tokens(), lengths)
        torch.testing.assert_close(logits, self.outputs(module), rtol=0, atol=1e-5)

    def test_cached_logits_stay_near_in_bfloat16(self) -> None:
        module = self.build()
        with torch.autocast(self.device, dtype=torch.bfloat16):
            once, fed = self.outputs(module), self.cached_logits(module, self.tokens(), CHUNKS["in uneven chunks"])
        torch.testing.assert_close(fed.float(), once.float(), rtol=0, atol=float(0.05 * once.abs().max()))

    @torch.no_grad()
    def test_two_caches_used_in_turn_stay_independent(self) -> None:
        module, one, other = self.build(), self.tokens(seed=1), self.tokens(seed=2)
        caches = KVCache(T), KVCache(T)
        for at in range(T):
            for ids, cache in zip((one, other), caches, strict=True):
                logits = module(ids[:, at : at + 1], cache=cache)
                torch.testing.assert_close(logits, module(ids)[:, at : at + 1], rtol=0, atol=1e-5)

    def test_the_initial_loss_is_near_uniform_guessing(self) -> None:
        torch.manual_seed(0)
        ids, targets = self.tokens(), self.targets()
        loss = self.build_initialized()(ids, targets) / (targets >= 0).sum()
        assert abs(loss.item() - math.log(self.vocab_size)) < 0.2

    def test_the_loss_is_the_cross_entropy_of_the_logits_and_so_are_its_gradients(self) -> None:
        module, ids, targets = self.build(), self.tokens(), self.targets()
        loss = module(ids, targets)
        logits = module(ids).float().flatten(0, 1)
        expected = F.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction="sum")
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        for found, wanted in zip(self.gradients(module, loss), self.gradients(module, expected), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)

    def gradients(self, module: nn.Module, loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, trainable_parameters(module), materialize_grads=True)

    def test_without_targets_the_loss_is_zero(self) -> None:
        module, ids = self.build(), self.tokens()
        loss = module(ids, torch.full_like(ids, -1))
        assert loss == 0
        assert not any(gradient.any() for gradient in self.gradients(module, loss))

    def test_the_loss_is_in_fp32_under_autocast_too(self) -> None:
        module, ids, targets = self.build(), self.tokens(), self.targets()
        expected = module(ids, targets)
        assert expected.dtype == torch.float32
        with torch.autocast(self.device, dtype=torch.bfloat16):
            loss = module(ids, targets)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
        assert all(gradient.isfinite().all() for gradient in self.gradients(module, loss))

    def test_losses_of_rows_add_up_and_so_do_their_gradients(self) -> None:
        """Micro-batches and ranks depend on it."""
        module, ids, targets = self.build(), self.tokens(), self.targets()
        whole = module(ids, targets)
        parts = sum(module(ids[[row]], targets[[row]]) for row in range(B))
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
        for found, wanted in zip(self.gradients(module, parts), self.gradients(module, whole), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)

    def test_every_parameter_has_one_role_and_a_gradient(self) -> None:
        module = self.build()
        module(self.tokens(), self.targets()).backward()
        roles = [id(parameter) for parameters in parameters_by_role(module).values() for parameter in parameters]
        assert sorted(roles) == sorted(id(parameter) for parameter in trainable_parameters(module))
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
        slope = sum((gradient * along).sum() for gradient, along in zip(gradients, direction, strict=True))
        size = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
        with torch.no_grad():
            above, below = value(step), value(-2 * step)
        torch.testing.assert_close((above - below) / (2 * step), slope, rtol=0, atol=1e-4 * size)

    @by_backend
    @ignore_torch_warnings
    def test_compiled_it_computes_the_same(self, backend: str) -> None:
        module, ids, targets = self.build(), self.tokens(), self.targets()

        def function(ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            return module(ids), module(ids, targets)

        logits, loss = function(ids, targets)
        found_logits, found_loss = self.compile_or_skip(function, backend)(ids, targets)
        torch.testing.assert_close(found_logits, logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(found_loss, loss, rtol=1e-5, atol=1e-5)
        for found, expected in zip(self.gradients(module, found_loss), self.gradients(module, loss), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    @torch.no_grad()
    def test_a_cropped_model_is_a_shorter_one(self) -> None:
        module, ids = self.build(), self.tokens()[:, :CROPPED_LENGTH]
        if not hasattr(module, "crop"):
            pytest.skip(f"{type(self.component).__name__} has no crop")
        before = module(ids)
        module.crop(CROPPED_LENGTH)
        torch.testing.assert_close(module(ids), before, rtol=0, atol=0)
        built = self.build_initialized(self.component.model_copy(update={"block_size": CROPPED_LENGTH}))
        built.load_state_dict(module.state_dict())
        torch.testing.assert_close(built(ids), before, rtol=0, atol=0)

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
