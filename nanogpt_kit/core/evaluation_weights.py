"""The weights that some optimizers have for evaluation and for use after training, beside those that are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def evaluation_weights(optimizer: Any) -> Iterator[None]:
    """While entered, the parameters have the weights for evaluation, where the optimizer's `eval` sets such."""
    set_evaluation_weights(optimizer)
    try:
        yield
    finally:
        set_trained_weights(optimizer)


def set_evaluation_weights(optimizer: Any) -> None:
    """Gives the parameters the weights for evaluation, where the optimizer's `eval` sets such."""
    if has_evaluation_weights(optimizer):
        optimizer.eval()


def set_trained_weights(optimizer: Any) -> None:
    """Gives the parameters the weights that are trained, where the optimizer's `train` sets such."""
    if has_evaluation_weights(optimizer):
        optimizer.train()


def has_evaluation_weights(optimizer: Any) -> bool:
    """Whether it has both methods; one of them alone, or an attribute, has another meaning."""
    return callable(getattr(optimizer, "eval", None)) and callable(getattr(optimizer, "train", None))
