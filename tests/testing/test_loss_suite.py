"""The suite for losses fails where a loss is broken, and its failures name the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import PrivateAttr
from torch import Tensor, nn

from nanogpt_kit.api import KitError, LayerContext, Loss, TrainingLoss, linear_cross_entropy
from nanogpt_kit.testing.loss import LossConformance

C = LossConformance.context.n_embd


class OneModule(Loss):
    _module: Callable[[], nn.Module] = PrivateAttr()

    def build(self, ctx: LayerContext) -> nn.Module:
        return self._module()


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def suite_of(module: Callable[[], nn.Module]) -> LossConformance:
    component = OneModule()
    component._module = module
    return type("Suite", (LossConformance,), {"component": component})()


def suite_of_function(function: Callable[..., Any]) -> LossConformance:
    return suite_of(lambda: Function(function))


def norms(x: Tensor, targets: Tensor) -> Tensor:
    """A right extra: the sum of the squares of the features whose target counts."""
    return 0.1 * (x.float().square().sum(-1) * (targets >= 0)).sum()


def right(x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, softcap: float | None) -> TrainingLoss:
    loss, extra = linear_cross_entropy(x, weight, targets, vocab_size, softcap), norms(x, targets)
    return TrainingLoss(loss + extra, loss.detach(), {"norms": extra.detach()})


def objective_as_loss(*head: Any) -> Any:
    return right(*head).objective


def smoothed(x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, softcap: float | None) -> Tensor:
    logits = (x @ weight[:vocab_size].T).flatten(0, 1).float()
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction="sum", label_smoothing=0.1)


def mean(*head: Any) -> Any:
    return linear_cross_entropy(*head) / (head[2] >= 0).sum()


def no_softcap(*head: Any) -> Any:
    return linear_cross_entropy(*head[:4])


def no_coefficient(*head: Any) -> Any:
    objective, loss, extras = right(*head)
    return TrainingLoss(objective, loss, {"norms": 10 * extras["norms"]})


def with_gradients(x: Tensor, weight: Tensor, targets: Tensor, *more: Any) -> Any:
    loss, extra = linear_cross_entropy(x, weight, targets, *more), norms(x, targets)
    return TrainingLoss(loss + extra, loss, {"norms": extra})


def detached(*head: Any) -> Any:
    objective, loss, extras = right(*head)
    return TrainingLoss(objective.detach(), loss, extras)


def in_half_precision(*head: Any) -> Any:
    objective, loss, extras = right(*head)
    return TrainingLoss(objective, loss, {name: value.bfloat16() for name, value in extras.items()})


def of_each_token(*head: Any) -> Any:
    objective, loss, extras = right(*head)
    return TrainingLoss(objective, loss, {name: value.expand(2) / 2 for name, value in extras.items()})


def ignored_too(x: Tensor, weight: Tensor, targets: Tensor, *more: Any) -> Any:
    loss, extra = linear_cross_entropy(x, weight, targets, *more), norms(x, torch.zeros_like(targets))
    return TrainingLoss(loss + extra, loss.detach(), {"norms": extra.detach()})


def mean_of_extra(x: Tensor, weight: Tensor, targets: Tensor, *more: Any) -> Any:
    loss = linear_cross_entropy(x, weight, targets, *more)
    extra = norms(x, targets) / targets.numel()
    return TrainingLoss(loss + extra, loss.detach(), {"norms": extra.detach()})


def padding_too(x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, softcap: float | None) -> Any:
    loss = linear_cross_entropy(x, weight, targets, vocab_size, softcap)
    z = 0.1 * (torch.logsumexp((x @ weight.T).float(), -1).square() * (targets >= 0)).sum()
    return TrainingLoss(loss + z, loss.detach(), {"z": z.detach()})


def detached_head(x: Tensor, weight: Tensor, *more: Any) -> Any:
    return linear_cross_entropy(x, weight.detach(), *more)


def without_its_gradient(x: Tensor, weight: Tensor, targets: Tensor, *more: Any) -> Any:
    loss, extra = linear_cross_entropy(x, weight, targets, *more), norms(x, targets).detach()
    return TrainingLoss(loss + extra, loss.detach(), {"norms": extra})


def of_a_tensor_as_number(*head: Any) -> Any:
    objective, loss, extras = right(*head)
    return TrainingLoss(objective * (1.0 if objective.item() else 0.0), loss, extras)


def targets_in_place(x: Tensor, weight: Tensor, targets: Tensor, *more: Any) -> Any:
    return right(x, weight, targets.masked_fill_(targets % 3 == 0, -1), *more)


def without_ignore_index(x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, softcap: float | None) -> Tensor:
    return F.cross_entropy((x @ weight[:vocab_size].T).flatten(0, 1), targets.flatten(), reduction="sum")


PLAIN, SUM = "test_its_loss_is_the_plain_cross_entropy", "test_the_objective_is_the_loss_and_the_extras"
SCALARS = "test_everything_is_an_fp32_scalar_and_only_the_objective_has_a_gradient"
IGNORED, ROWS = "test_ignored_targets_count_nothing", "test_losses_of_rows_add_up_and_so_do_their_gradients"
PADDING = "test_padding_of_the_vocabulary_changes_nothing_and_gets_no_gradient"
BROKEN = {
    "the objective is returned as the loss": (objective_as_loss, PLAIN, (None,), "api.TrainingLoss"),
    "the loss is smoothed": (smoothed, PLAIN, (None,), "api.linear_cross_entropy"),
    "the loss is a mean": (mean, PLAIN, (None,), "api.linear_cross_entropy"),
    "the soft cap is not applied": (no_softcap, PLAIN, (3.0,), "api.linear_cross_entropy"),
    "the extra is without its coefficient": (no_coefficient, SUM, (None,), "its coefficient included"),
    "loss and extras have gradients": (with_gradients, SCALARS, (), "loss has a gradient.*detach the others"),
    "the objective has no gradient": (detached, SCALARS, (), "objective has no gradient"),
    "an extra is not in fp32": (in_half_precision, SCALARS, (), "'norms' .* in bfloat16; .* a scalar in fp32"),
    "an extra is not a scalar": (of_each_token, SCALARS, (), r"'norms' .* of shape \(2,\) .* the sum over the tokens"),
    "ignored targets count": (ignored_too, IGNORED, (), "leave out of every sum"),
    "all targets are ignored and count": (
        ignored_too,
        "test_a_batch_without_a_target_gives_zero",
        (),
        "where no target counts",
    ),
    "targets are changed": (targets_in_place, "test_its_inputs_are_not_modified", (), "targets were modified in place"),
    "ignored targets are refused": (without_ignore_index, IGNORED, (), "fails for targets of -1: leave them out"),
    "an extra is a mean": (mean_of_extra, ROWS, (), "a sum over tokens"),
    "padding takes part": (padding_too, PADDING, (None,), "leave out their logits"),
    "the head is not trained": (
        detached_head,
        "test_the_head_and_the_features_are_trained",
        (),
        "no gradient reaches the weight of the head.*without detaching",
    ),
    "an extra is not trained": (
        without_its_gradient,
        "test_gradients_pass_gradcheck",
        (),
        "an input differs .* detach nothing",
    ),
    "it cannot be compiled": (
        of_a_tensor_as_number,
        "test_compiled_it_computes_the_same",
        ("aot_eager",),
        r"cannot take it as one graph .*in place of .item\(\)",
    ),
}


@pytest.mark.parametrize(("function", "test", "arguments", "said"), BROKEN.values(), ids=BROKEN)
def test_the_suite_catches_it(function: Callable[..., Any], test: str, arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises((AssertionError, KitError), match=f"^.*({said})"):  # in its first line
        getattr(suite_of_function(function), test)(*arguments)


@pytest.mark.parametrize("test", [PLAIN, SUM, PADDING])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_right_loss_passes_with_and_without_softcap(test: str, softcap: float | None) -> None:
    getattr(suite_of_function(right), test)(softcap)


@pytest.mark.parametrize(
    "test", [SCALARS, IGNORED, ROWS, "test_a_batch_without_a_target_gives_zero", "test_gradients_pass_gradcheck"]
)
def test_a_right_loss_passes(test: str) -> None:
    getattr(suite_of_function(right), test)()


class Idle(nn.Module):
    """Has a weight that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(C, C)

    def forward(self, *head: Any) -> Tensor:
        return linear_cross_entropy(*head)


def test_a_parameter_that_is_not_used_is_named() -> None:
    with pytest.raises(AssertionError, match=r"idle.weight gets no gradient: use it in forward, or set requires_grad"):
        suite_of(Idle).test_every_parameter_is_used()


class Remembers(nn.Module):
    """Keeps the sum between two operations where another thread finds it."""

    def forward(self, *head: Any) -> Tensor:
        self.sum = linear_cross_entropy(*head)
        return self.sum * 1.0


def test_state_in_the_module_is_a_hazard_for_threads() -> None:
    with pytest.raises(AssertionError, match="keep such state out of the module, or set threads = False"):
        suite_of(Remembers).test_two_threads_may_call_it_at_once()
