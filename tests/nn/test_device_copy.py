"""Numbers are copied to a GPU without a wait; seen in what torch is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nanogpt_kit.nn.cache import KVCache
from nanogpt_kit.nn.device_copy import copy_to_device


def test_they_arrive_with_all_bits() -> None:
    values = [-(2**63), -1, 0, 2**63 - 1]
    assert copy_to_device(values, torch.device("cpu")).tolist() == values
    assert copy_to_device([], torch.device("cpu")).dtype == torch.int64
    assert copy_to_device(values, torch.device("meta")).is_meta


def test_a_copy_to_a_gpu_is_from_pinned_memory_and_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: asked.append("pinned") or tensor)
    to = lambda tensor, device, non_blocking=False: asked.append((device.type, non_blocking)) or tensor  # noqa: E731
    monkeypatch.setattr(Tensor, "to", to)
    assert copy_to_device([3, 4], torch.device("cuda")).tolist() == [3, 4]
    assert asked == ["pinned", ("cuda", True)]


def test_padded_texts_use_such_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[list[int]] = []

    def watched(values: list[int], device: torch.device) -> Tensor:
        copied.append(list(values))
        return torch.tensor(values, device=device)

    monkeypatch.setattr("nanogpt_kit.nn.cache.copy_to_device", watched)
    KVCache(8, [2, 0]).view(3, torch.device("cpu"))
    assert copied == [[2, 0]]
