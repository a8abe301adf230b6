"""The tests of auxiliary losses, for parts that may return (y, extra): sums over the tokens that depend on no state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nanogpt_kit.testing.conformance import (
    PartConformance,
    by_backend,
    by_dtype,
    ignore_torch_warnings,
    trainable_parameters,
)
from nanogpt_kit.testing.remedy import assert_same, result_of


class ExtrasConformance(PartConformance):
    """For parts of a network. A part without extras passes."""

    batch_statistics: ClassVar[tuple[str, ...]] = ()  # names of extras that are not sums of what each token gives

    def training_inputs(self) -> tuple[Tensor, ...]:
        """Inputs that begin with the dimension of the rows."""
        return self.inputs()

    def returned(self, module: nn.Module, *inputs: Tensor) -> Any:
        """What a module in training returns: y or (y, extra)."""
        return module(*inputs)

    def extras(self, module: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
        """What a module in training returns beside its result, by name."""
        extras: dict[str, Tensor] = {}
        result_of(self.component.kind, self.returned(module, *inputs), extras)
        return extras

    @by_dtype
    def test_extras_are_scalars_in_fp32(self, dtype: torch.dtype) -> None:
        inputs = self.training_inputs()
        self.extras(self.in_training().to(dtype), *(x.to(dtype) for x in inputs))
        with torch.autocast(self.device, dtype=torch.bfloat16):
            self.extras(self.in_training(), *inputs)

    def test_extras_of_rows_add_up_and_so_do_their_gradients(self) -> None:
        """Micro-batches, threads and ranks depend on it."""
        module, inputs = self.in_training(), self.training_inputs()
        rows = list(zip(*(x.split(1) for x in inputs), strict=True))
        whole, of_rows = self.extras_and_gradients(module, [inputs]), self.extras_and_gradients(module, rows)
        remedy = "return a sum over the tokens; a batch statistic is named in batch_statistics of this suite"
        for name in whole.keys() - set(self.batch_statistics):
            for found, expected in zip(of_rows[name], whole[name], strict=True):
                close = torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
                assert close, f"the extra {name!r} of two rows is not the sum of theirs: {remedy}"

    def test_batch_statistics_are_weighted_by_the_tokens(self) -> None:
        module, inputs = self.in_training(), self.training_inputs()
        once, twice = self.extras(module, *inputs), self.extras(module, *(torch.cat([x, x]) for x in inputs))
        unknown = ", ".join(sorted(set(self.batch_statistics) - once.keys()))
        assert not unknown, f"batch_statistics names {unknown}, which the module does not return in training"
        for name in self.batch_statistics:
            remedy = "multiply it by the number of tokens"
            assert torch.allclose(twice[name], 2 * once[name], rtol=1e-4), (
                f"the extra {name!r} of the same rows twice is not twice as large: {remedy}"
            )

    def test_extras_depend_on_the_tokens_alone(self) -> None:
        module, inputs = self.in_training(), self.training_inputs()
        first, _, again = (self.extras(module, *(scale * x for x in inputs)) for scale in (1.0, 0.5, 1.0))
        assert first.keys() == again.keys(), (
            f"the same tokens give the extras {sorted(first)} and then {sorted(again)}: return the same names each time"
        )
        for name in first:
            remedy = "a module must not remember earlier passes in it"
            assert torch.equal(first[name], again[name]), f"the extra {name!r} of the same tokens changes: {remedy}"

    @by_backend
    @ignore_torch_warnings
    def test_compiled_in_training_it_gives_the_same_extras(self, backend: str) -> None:
        module, inputs = self.in_training(), self.training_inputs()
        expected: dict[str, Tensor] = {}
        y = result_of(self.component.kind, self.returned(module, *inputs), expected)
        if expected:
            found: dict[str, Tensor] = {}
            compiled = self.compile_or_skip(partial(self.returned, module), backend)
            of_compiled = result_of(self.component.kind, compiled(*inputs), found)
            remedy = "let nothing depend on is_compiling() or on state of Python"
            assert_same(of_compiled, y, f"compiled it computes something else: {remedy}", rtol=1e-4, atol=1e-5)
            names = f"compiled it returns the extras {sorted(found)}, not {sorted(expected)}: {remedy}"
            assert found.keys() == expected.keys(), names
            for name in found:
                claim = f"compiled the extra {name!r} is another one: {remedy}"
                assert_same(found[name], expected[name], claim, rtol=1e-4, atol=1e-5)

    def extras_and_gradients(self, module: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> dict[str, list[Tensor]]:
        """Of each extra the sum over the batches, and its gradients for the weights."""
        weights = trainable_parameters(module)
        sums: dict[str, list[Tensor]] = {}
        for inputs in batches:
            for name, extra in self.extras(module, *inputs).items():
                found = [extra.detach()]
                if extra.requires_grad:
                    found += torch.autograd.grad(extra, weights, retain_graph=True, materialize_grads=True)
                sums[name] = [a + b for a, b in zip(sums[name], found, strict=True)] if name in sums else found
        return sums
