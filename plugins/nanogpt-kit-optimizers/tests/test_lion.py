"""Lion against the update rule of the paper, written out number by number."""

from __future__ import annotations

import torch
from nanogpt_kit_optimizers.lion import Lion

from nanogpt_kit.testing.optimizer import OptimizerConformance


class TestLion(OptimizerConformance):
    component = Lion(lr=3e-3)


def test_updates_follow_algorithm_2_of_the_paper() -> None:
    lr, beta1, beta2, decay = 0.01, 0.9, 0.95, 0.3
    weights = [0.5, -1.5, 2.0]
    parameter = torch.nn.Parameter(torch.tensor([weights], dtype=torch.float64))
    group = {"params": [parameter], "role": "matrix", "lr_multiplier": 1.0}
    optimizer = Lion(lr=lr, betas=(beta1, beta2), weight_decay=decay).build([group])

    momentum = [0.0, 0.0, 0.0]
    for step in range(6):
        gradients = [(-1.0) ** step * 0.1, 0.2 - 0.1 * step, 1.0 / (step + 1)]
        parameter.grad = torch.tensor([gradients], dtype=torch.float64)
        optimizer.step()
        for i, gradient in enumerate(gradients):
            mixed = beta1 * momentum[i] + (1 - beta1) * gradient
            sign = (mixed > 0) - (mixed < 0)
            weights[i] -= lr * (sign + decay * weights[i])
            momentum[i] = beta2 * momentum[i] + (1 - beta2) * gradient
        torch.testing.assert_close(parameter.detach()[0], torch.tensor(weights, dtype=torch.float64))


def test_vectors_are_not_decayed() -> None:
    gain = torch.nn.Parameter(torch.ones(3))
    gain.grad = torch.zeros(3)
    Lion().build([{"params": [gain], "role": "vector", "lr_multiplier": 1.0}]).step()
    assert gain.tolist() == [1.0, 1.0, 1.0]
