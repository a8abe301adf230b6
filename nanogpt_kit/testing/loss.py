"""The suite for losses: the plain cross-entropy beside the objective, and sums over the tokens that are counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.core.kinds import Loss
from nanogpt_kit.nn.loss import IGNORED, linear_cross_entropy
from nanogpt_kit.nn.training_loss import TrainingLoss
from nanogpt_kit.testing.conformance import (
    B,
    PartConformance,
    T,
    by_backend,
    ignore_torch_warnings,
    standard_normal,
    trainable_parameters,
)
from nanogpt_kit.testing.remedy import assert_same, errors_as_failures

V, ROWS = 37, 40  # words of the vocabulary, rows of the head's weight with its padding

by_softcap = pytest.mark.parametrize("softcap", [None, 3.0], ids=["no softcap", "softcap"])


class LossConformance(PartConformance):
    """Subclass it with `component = MyLoss(...)`, with coefficients as large as 0.1: small ones hide mistakes."""

    component: ClassVar[Loss]
    gradcheck_step: ClassVar[float] = 1e-2  # of finite differences; losses are sums in fp32

    def build(self, seed: int = 0, **changes: object) -> nn.Module:
        """A module in training mode: a loss is called in training only."""
        return super().build(seed, **changes).train()

    def inputs(self) -> tuple[Tensor, ...]:
        """Features (B, T, C) and the weight of the output head (ROWS, C)."""
        size = self.context.n_embd
        return standard_normal(B, T, size, seed=3).to(self.device), standard_normal(ROWS, size, seed=4).to(self.device)

    def targets(self) -> Tensor:
        """(B, T), of which the last of each window is ignored."""
        targets = torch.arange(B * T, device=self.device).view(B, T) * 23 % V
        targets[:, -1] = IGNORED
        return targets

    def apply(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        return self.terms(module, inputs).objective

    def terms(
        self,
        module: nn.Module,
        inputs: Sequence[Tensor],
        targets: Tensor | None = None,
        softcap: float | None = None,
    ) -> TrainingLoss:
        """What the module returns for `inputs`, and for the suite's own targets where none are given."""
        return TrainingLoss.of(module(*inputs, self.targets() if targets is None else targets, V, softcap))

    def test_its_inputs_are_not_modified(self) -> None:
        super().test_its_inputs_are_not_modified()
        targets = self.targets()
        self.terms(self.build(), self.inputs(), targets)
        assert targets.equal(self.targets()), "the targets were modified in place: copy them before you change them"

    def gradients(self, module: nn.Module, objective: Tensor, *leaves: Tensor) -> list[Tensor]:
        """Of the leaves and of the trainable parameters; zeros where there is none."""
        wanted = [*leaves, *trainable_parameters(module)]
        return list(torch.autograd.grad(objective, wanted, materialize_grads=True))

    @by_softcap
    def test_its_loss_is_the_plain_cross_entropy(self, softcap: float | None) -> None:
        """train/loss has one meaning, whatever is minimized."""
        x, weight = self.inputs()
        found = self.terms(self.build(), (x, weight), softcap=softcap).loss
        expected = linear_cross_entropy(x, weight, self.targets(), V, softcap)
        remedy = "return api.TrainingLoss(objective, loss, extras), whose loss is that of api.linear_cross_entropy"
        assert torch.allclose(found, expected, rtol=1e-5, atol=0), (
            f"the loss is {found.item():g}, where the cross-entropy is {expected.item():g}: {remedy}"
        )

    @by_softcap
    def test_the_objective_is_the_loss_and_the_extras(self, softcap: float | None) -> None:
        found = self.terms(self.build(), self.leaves(*self.inputs()), softcap=softcap)
        total, objective = float(found.loss + sum(found.extras.values())), found.objective.item()
        remedy = "each extra is what it adds to the objective, its coefficient included"
        assert objective == pytest.approx(total, rel=1e-5), (
            f"the objective is {objective:g}, where loss and extras sum to {total:g}: {remedy}"
        )

    def test_everything_is_an_fp32_scalar_and_only_the_objective_has_a_gradient(self) -> None:
        with torch.autocast(self.device, dtype=torch.bfloat16):
            found = self.terms(self.build(), self.leaves(*self.inputs()))
        for name, value in {"objective": found.objective, "loss": found.loss, **found.extras}.items():
            remedy = f"{name} is {value.dtype} {list(value.shape)}: sum it over the tokens, in fp32"
            assert (value.dtype, list(value.shape)) == (torch.float32, []), remedy
            assert value.requires_grad == (name == "objective"), (
                f"{name} {'has a' if value.requires_grad else 'has no'} gradient: only the objective has one; "
                "detach the others"
            )

    def test_the_head_and_the_features_are_trained(self) -> None:
        module, leaves = self.build(), self.leaves(*self.inputs())
        found = self.gradients(module, self.apply(module, *leaves), *leaves)
        for name, gradient in zip(("features", "weight of the head"), found, strict=False):
            assert gradient.any(), f"no gradient reaches the {name}: compute the loss from them, without detaching them"

    def test_every_parameter_is_used(self) -> None:
        module = self.build()
        self.apply(module, *self.leaves(*self.inputs())).backward()
        for name, parameter in module.named_parameters():
            has_gradient = parameter.grad is not None and parameter.grad.any()
            assert has_gradient or not parameter.requires_grad, (
                f"{name} gets no gradient: use it in forward, or set requires_grad = False"
            )

    def test_ignored_targets_count_nothing(self) -> None:
        """Targets of -1 fill up batches, and end windows; here all of the second window, and the last of the first."""
        module, (x, weight), targets = self.build(), self.leaves(*self.inputs()), self.targets()
        targets[1] = IGNORED
        with errors_as_failures("it fails for targets of -1: leave them out, as by ignore_index=-1"):
            found = self.terms(module, (x, weight), targets)
            without = self.terms(module, (x[:1], weight), targets[:1])
        remedy = "leave out of every sum the positions whose target is -1"
        for name, value in {"objective": found.objective, **found.extras}.items():
            expected = without.objective if name == "objective" else without.extras[name]
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5, msg=f"{name} counts them: {remedy}")
        (gradient, *_) = self.gradients(module, found.objective, x)
        assert not gradient[1].any(), f"features of ignored targets get a gradient: {remedy}"
        assert not gradient[0, -1].any(), f"features of an ignored target get a gradient: {remedy}"

    def test_a_batch_without_a_target_gives_zero(self) -> None:
        module, (x, weight) = self.build(), self.leaves(*self.inputs())
        found = self.terms(module, (x, weight), torch.full_like(self.targets(), IGNORED))
        for value in (found.objective, found.loss, *found.extras.values()):
            assert value.item() == 0, f"{value.item()} where no target counts: sum over tokens, do not divide by them"
        for gradient in self.gradients(module, found.objective, x, weight):
            assert not gradient.any(), "a gradient where no target counts"

    def test_losses_of_rows_add_up_and_so_do_their_gradients(self) -> None:
        """Micro-batches, threads and ranks depend on it."""
        module, (x, weight), targets = self.build(), self.leaves(*self.inputs()), self.targets()
        whole = self.terms(module, (x, weight), targets)
        rows = [self.terms(module, (x[[row]], weight), targets[[row]]) for row in range(B)]
        remedy = "it must be a sum over tokens, each of which depends on its own window only"
        for name, value in whole.extras.items():
            total, message = sum(row.extras[name] for row in rows), f"{name} of rows does not add up: {remedy}"
            torch.testing.assert_close(total, value, rtol=1e-5, atol=1e-5, msg=message)
        objective = torch.stack([row.objective for row in rows]).sum()
        message = f"the objective of rows does not add up: {remedy}"
        torch.testing.assert_close(objective, whole.objective, rtol=1e-5, atol=1e-5, msg=message)
        found, expected = (self.gradients(module, value, x, weight) for value in (objective, whole.objective))
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, f"the gradients of rows do not add up: {remedy}", rtol=1e-4, atol=1e-5)

    @by_softcap
    def test_padding_of_the_vocabulary_changes_nothing_and_gets_no_gradient(self, softcap: float | None) -> None:
        module, (x, weight) = self.build(), self.leaves(*self.inputs())
        before = self.terms(module, (x, weight), softcap=softcap).objective
        with torch.no_grad():
            weight[V:] = 50.0
        after = self.terms(module, (x, weight), softcap=softcap).objective
        remedy = "rows of the weight from vocab_size on are padding: leave out their logits"
        torch.testing.assert_close(after, before, rtol=0, atol=0, msg=f"padding changes the objective: {remedy}")
        assert not self.gradients(module, after, weight)[0][V:].any(), f"padding gets a gradient: {remedy}"

    def test_under_autocast_it_is_nearly_the_same(self) -> None:
        module, leaves = self.build(), self.leaves(*self.inputs())
        expected = self.terms(module, leaves)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            found = self.terms(module, leaves)
        remedy = "compute it with api.linear_cross_entropy, or from logits.float()"
        claim = f"under autocast to bf16 the objective is far from that in fp32: {remedy}"
        assert_same(found.objective, expected.objective, claim, rtol=2e-2)
        for gradient in self.gradients(module, found.objective, *leaves):
            what = f"{(~gradient.isfinite()).sum()} gradients are not finite"
            assert gradient.isfinite().all(), f"under autocast {what}: {remedy}"

    @by_backend
    @ignore_torch_warnings
    def test_compiled_it_computes_the_same(self, backend: str) -> None:
        module = self.build()
        compiled = self.compile_or_skip(lambda *inputs: self.terms(module, inputs), backend)
        results = []
        for function in (lambda *inputs: self.terms(module, inputs), compiled):
            leaves = self.leaves(*self.inputs())
            objective, loss, extras = function(*leaves)
            values = torch.stack([objective.detach(), loss, *extras.values()])
            results.append([values, *self.gradients(module, objective, *leaves)])
        for expected, found in zip(*results, strict=True):
            largest = float(expected.abs().max())
            assert_same(found, expected, f"compiled by {backend} it computes something else", atol=1e-5 * largest)
