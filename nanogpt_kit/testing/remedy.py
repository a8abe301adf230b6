"""What the failures of the suites consist of: what is wrong, a remedy, and then what torch or pytest reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.nn.training_loss import take_extra

FP32_STEP = 1e-3  # of finite differences through fp32
CONVERTED = "hold every tensor as a parameter or buffer, so that .to(dtype) converts it, or convert it where it is used"


def with_remedy(claim: str) -> Callable[[str], str]:
    """The `msg` of `torch.testing.assert_close`: the claim that does not hold with its remedy, then the difference."""
    return lambda difference: f"{claim}\n{difference}"


def assert_same(
    found: Tensor, expected: Tensor, claim: str, atol: float = 0.0, rtol: float = 0.0, equal_nan: bool = False
) -> None:
    """Fails with the `claim`, which says what is wrong and names the remedy, and the difference."""
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, equal_nan=equal_nan, msg=with_remedy(claim))


@contextmanager
def errors_as_failures(claim: str) -> Iterator[None]:
    """Turns an error of the component into a failure with the `claim` and the error's first line."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{claim}\n{type(error).__name__}: {first_line(error)}") from error


def result_of(part: str, output: Any, extras: dict[str, Tensor] | None = None) -> Tensor:
    """y of a part that has returned y or (y, extra); the extras, which must be sums in fp32, are added to `extras`."""
    try:
        return take_extra({} if extras is None else extras, part, output)
    except KitError as error:
        raise AssertionError(str(error)) from None


def first_line(error: Exception) -> str:
    """Of its message; tables and traces follow in those of torch."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def check_gradients(
    function: Callable[..., Tensor], leaves: Sequence[Tensor], step: float, fast: bool, names: Sequence[str] = ()
) -> None:
    """torch's gradcheck, with a failure that names the input or weight and the remedy instead of its matrices."""

    def report(step: float) -> str | None:
        try:
            torch.autograd.gradcheck(function, leaves, eps=step, atol=max(1e-5, step), fast_mode=fast)
        except (GradcheckError, RuntimeError, ValueError) as error:
            return first_line(error)
        return None

    found = report(step)
    if found is None:
        return
    what = next((f"of {names[i]}" for i in range(len(names)) if f"input {i}" in found), "of an input")
    if step < FP32_STEP and report(FP32_STEP) is None:
        raise AssertionError(
            f"the gradient {what} differs from finite differences with steps of {step:g}, but not of {FP32_STEP:g}: "
            f"the module computes in fp32 whatever its input; set gradcheck_step = {FP32_STEP:g} here\n{found}"
        )
    raise AssertionError(
        f"the gradient {what} differs from finite differences: detach nothing and check any backward of your own; at a "
        "kink, as that of relu or of a choice of experts, set gradcheck_step = 1e-6 here; without a backward pass on "
        f"this device differentiable = False\n{found}"
    )
