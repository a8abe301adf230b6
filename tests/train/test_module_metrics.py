"""Metrics of modules: what `logged_metrics` returns, under the name of the module."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.train.module_metrics import module_metrics


class Offers(nn.Linear):
    def __init__(self, returned: Any) -> None:
        super().__init__(2, 2)
        self.returned = returned

    def logged_metrics(self) -> Any:
        return self.returned


class Foreign(nn.Module):
    """As torchmetrics and others have it."""

    def metrics(self) -> Any:
        raise AssertionError("nobody asked for it")


def test_numbers_are_logged_under_the_names_of_modules() -> None:
    numbers = {"a": 1, "b": 2.5, "c": torch.tensor([3.0], requires_grad=True), "d": np.float32(4), "e": np.ones(1)}
    model = nn.ModuleDict({"h": nn.ModuleList([nn.Identity(), Offers(numbers)]), "foreign": Foreign()})
    assert module_metrics(model) == {"h.1/a": 1.0, "h.1/b": 2.5, "h.1/c": 3.0, "h.1/d": 4.0, "h.1/e": 1.0}
    assert module_metrics(Offers({"gain": 1.0})) == {"gain": 1.0}


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        ({"load": torch.ones(3)}, "'load': a Tensor of shape (3,); it should be a number"),
        ({"load": "high"}, "'load': 'high'; it should be a number"),
        ({"load": None}, "'load': None; it should be a number"),
        ({"phase": torch.tensor(1j)}, "'phase': a Tensor of shape (); it should be a number"),
        ({"": 1.0}, "a number without a name"),
        ([1.0], "[1.0]; it should return a dict of numbers by name"),
    ],
)
def test_what_is_no_number_is_refused_with_the_module(returned: Any, shown: str) -> None:
    with pytest.raises(RunFailed) as found:
        module_metrics(nn.ModuleDict({"mlp": Offers(returned)}))
    assert str(found.value) == f"logged_metrics of mlp (Offers) returned {shown}"


@pytest.mark.parametrize(("path", "name", "key"), [("memory", "peak", "memory/peak"), ("", "train/loss", "train/loss")])
def test_the_names_of_a_runs_own_metrics_are_refused(path: str, name: str, key: str) -> None:
    module = Offers({name: 1.0})
    with pytest.raises(RunFailed, match=f"{name}', which would be logged as {key}, as if it were a metric of the run"):
        module_metrics(nn.ModuleDict({path: module}) if path else module)
