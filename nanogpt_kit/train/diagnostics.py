"""Diagnostics of the network while it trains, on logged steps only.

- `updates`: how far a step moves each role's weights, as a fraction of their norm; about 1e-3 is usual for matrices.
- `activations`: the largest magnitude of each block's output.
- `attention`: the largest attention logit of the first window; beyond some hundreds, softmax selects a single token.

Besides these, modules may log numbers of their own: see `module_metrics`.

Source: Wortsman et al. 2023, "Small-scale proxies for large-scale Transformer training instabilities",
arXiv:2309.14322.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt_kit.nn.parts import transformer_blocks
from nanogpt_kit.nn.roles import parameters_by_role
from nanogpt_kit.nn.sharded import full_tensor
from nanogpt_kit.train.compile import eager_mode
from nanogpt_kit.train.module_metrics import module_metrics


class Diagnostics:
    """For each step: `begin` around it, `before_update` before the optimizer's step, `metrics` after a logged one."""

    def __init__(self, model: nn.Module, watched: Sequence[str]) -> None:
        self.model = model
        self.watched = watched
        self.is_active = False
        self.largest: dict[str, Tensor] = {}  # by the name of the metric
        self.weights_before: dict[str, list[Tensor]] = {}  # by role

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """While entered, modules have hooks; not longer, since hooks cost time and prevent splitting a batch."""
        handles = []
        for index, block in enumerate(transformer_blocks(self.model)):
            if "activations" in self.watched:
                handles.append(block.register_forward_hook(self.output_hook(f"activations/max_{index}")))
        for metric, part in attention_modules(self.model) if "attention" in self.watched else ():
            handles.append(part.register_forward_pre_hook(self.logits_hook(metric)))
        try:
            with eager_mode(self.model):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def output_hook(self, metric: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            x = output[0] if isinstance(output, tuple) else output  # with extras
            if isinstance(x, Tensor):
                self.update_largest(metric, x.detach().abs().amax())

        return hook

    def logits_hook(self, metric: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            q, k = (part[:1].detach().float() for part in inputs[:2])  # (1, H, T, D), (1, Hkv, S, D)
            k = k.repeat_interleave(q.size(1) // k.size(1), dim=1)
            self.update_largest(metric, (q @ k.transpose(-1, -2)).tril().abs().amax() / math.sqrt(q.size(-1)))

        return hook

    def update_largest(self, metric: str, value: Tensor) -> None:
        self.largest[metric] = torch.maximum(self.largest.get(metric, value), value)

    def begin(self, is_logged: bool) -> AbstractContextManager[None]:
        """The context of a step, which runs uncompiled where modules are watched."""
        self.is_active = is_logged and bool(self.watched)
        return self.hooked() if self.is_active else nullcontext()

    def before_update(self) -> None:
        if self.is_active and "updates" in self.watched:
            roles = parameters_by_role(self.model)
            self.weights_before = {role: [p.detach().clone() for p in weights] for role, weights in roles.items()}

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """{"updates/matrix": 1e-3, "activations/max_0": 3.1, ...}, and the metrics that modules offer."""
        metrics = {name: value.item() for name, value in self.largest.items()}
        for role, parameters in parameters_by_role(self.model).items() if self.weights_before else ():
            moved = [after - before for after, before in zip(parameters, self.weights_before[role], strict=True)]
            metrics[f"updates/{role}"] = norm(moved) / max(norm(self.weights_before[role]), 1e-30)
        metrics |= module_metrics(self.model)
        self.largest, self.weights_before, self.is_active = {}, {}, False
        return metrics


def attention_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a model's blocks that are named `attention`, each with its metric; other mixers have none."""
    for index, block in enumerate(transformer_blocks(model)):
        for name, part in block.named_modules():
            if name.rpartition(".")[2] == "attention":
                yield f"attention/max_logit_{index}", part


def norm(tensors: Sequence[Tensor]) -> float:
    return float(full_tensor(nn.utils.get_total_norm(list(tensors))))
