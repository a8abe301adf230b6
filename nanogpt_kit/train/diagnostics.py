"""What can be asked about the network while it trains; it is looked at on logged steps only.

- `updates`: how far a step moves each role's weights, as a share of their norm; about 1e-3 is usual for matrices.
- `activations`: the largest features that leave a block.
- `attention`: the largest attention logit of the first window; beyond some hundred, softmax has but one winner.

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
from nanogpt_kit.train.compile import eager


class Diagnostics:
    """`begin` before a step that will be logged, `moving` before its optimizer's, `metrics` after it."""

    def __init__(self, model: nn.Module, wanted: Sequence[str]) -> None:
        self.model = model
        self.wanted = wanted
        self.looking = False
        self.largest: dict[str, Tensor] = {}
        self.before: dict[str, list[Tensor]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Listens to the modules meanwhile. Only then: hooks cost something, and keep threads from sharing a step."""
        handles = []
        for number, block in enumerate(transformer_blocks(self.model)):
            if "activations" in self.wanted:
                handles.append(block.register_forward_hook(self.see(f"activations/max_{number}")))
            for name, part in block.named_modules():
                if "attention" in self.wanted and name.rpartition(".")[2] == "attention":
                    hook = self.see_logits(f"attention/max_logit_{number}")
                    handles.append(part.register_forward_pre_hook(hook))
        try:
            with eager(self.model):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def see(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                self.keep(name, output.detach().abs().amax())

        return hook

    def see_logits(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            q, k = (part[:1].detach().float() for part in inputs[:2])  # (1, H, T, D), (1, Hkv, S, D)
            k = k.repeat_interleave(q.size(1) // k.size(1), dim=1)
            self.keep(name, (q @ k.transpose(-1, -2)).tril().abs().amax() / math.sqrt(q.size(-1)))

        return hook

    def keep(self, name: str, value: Tensor) -> None:
        self.largest[name] = torch.maximum(self.largest.get(name, value), value)

    def begin(self, looking: bool) -> AbstractContextManager[None]:
        """For the step: what is looked at computes as it is written, compiled or not."""
        self.looking = looking and bool(self.wanted)
        return self.watching() if self.looking else nullcontext()

    def moving(self) -> None:
        if self.looking and "updates" in self.wanted:
            self.before = {
                role: [p.detach().clone() for p in part] for role, part in parameters_by_role(self.model).items()
            }

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """{"updates/matrix": 1e-3, "activations/max_0": 3.1, ...}, and what modules say of themselves."""
        found = {name: value.item() for name, value in self.largest.items()}
        for role, parameters in parameters_by_role(self.model).items() if self.before else ():
            moved = [after - before for after, before in zip(parameters, self.before[role], strict=True)]
            found[f"updates/{role}"] = norm(moved) / max(norm(self.before[role]), 1e-30)
        for name, module in self.model.named_modules():
            own = getattr(module, "metrics", None)
            if callable(own):
                found |= {f"{name}/{key}" if name else key: float(value) for key, value in own().items()}
        self.largest, self.before, self.looking = {}, {}, False
        return found


def norm(tensors: Sequence[Tensor]) -> float:
    return float(full_tensor(nn.utils.get_total_norm(list(tensors))))
