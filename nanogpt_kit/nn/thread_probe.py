"""Whether threads may train or decode with one model concurrently: a small copy of it is tried, on a CPU.

A batch is split among threads only where that changes nothing but the order of sums. The parts of a model need not
declare it: two batches are passed through the copy, and `concurrent_calls` finds what threads would disturb. A model
that cannot be tried is not split.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from nanogpt_kit.core.inner_models import inner_model
from nanogpt_kit.core.kinds import Model, ModelContext, Parallel
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.cache import KVCache
from nanogpt_kit.nn.concurrent_calls import Call, hazard_of_calls, preserved_random_state
from nanogpt_kit.nn.hashed_dropout import hash_dropouts
from nanogpt_kit.nn.training_loss import TrainingLoss
from nanogpt_kit.nn.training_pass import TrainingPass
from nanogpt_kit.nn.uninitialized import build_on_meta, build_uninitialized

LAYERS, WINDOWS, TOKENS, VOCABULARY = 2, 2, 16, 61  # of the small copy and its batches, at most
MAX_PARAMETERS = 50_000_000  # of the small copy: some seconds of one core beyond this

Probe = TypeVar("Probe", bound=Callable[..., str | None])


def memoize(probe: Probe) -> Probe:
    """Stores the results of a probe by its arguments, unless an option cannot be hashed."""
    memoized = lru_cache(maxsize=8)(probe)

    @wraps(probe)
    def call(*args: Any) -> str | None:
        try:
            return memoized(*args)
        except TypeError:
            return probe(*args)

    return cast(Probe, call)


@memoize
def training_hazard(model: Model, parallel: Parallel, ctx: RunContext) -> str | None:
    """Why threads must not train a module of `model` concurrently on a CPU; None where they may."""

    def calls_of(module: nn.Module) -> tuple[Any, list[Call]]:
        hash_dropouts(module)
        wrapped = parallel.wrap(module.train(), ctx)
        weights = [weight for weight in module.parameters() if weight.requires_grad]

        def train(ids: Tensor) -> list[Tensor | None]:
            segments = (ids % 5 == 0).cumsum(dim=1) if model.document_mask else None
            with TrainingPass(0, 0, 0, len(ids)).entered(), cpu_autocast(ctx.precision):
                objective, loss, extras = TrainingLoss.of(wrapped(ids, ids.roll(-1, 1), segments))
            gradients = torch.autograd.grad(objective, weights, allow_unused=True)
            return [objective.detach(), loss, *extras.values(), *gradients]

        return wrapped, [partial(train, ids) for ids in probe_batches(model.block_size)]

    return hazard_of_model(model, calls_of)


@memoize
def decoding_hazard(model: Model) -> str | None:
    """Why threads must not generate with a module of `model` concurrently on a CPU; None where they may."""

    def calls_of(module: nn.Module) -> tuple[Any, list[Call]]:
        @torch.no_grad()
        def decode(ids: Tensor) -> list[Tensor]:
            cache = KVCache(model.block_size)
            prompt, newest = ids[:, :-1], ids[:, -1:]
            cache.newest_only = True
            return [module(part, cache=cache) for part in (prompt, newest) if part.size(1)]

        return module.eval(), [partial(decode, ids) for ids in probe_batches(model.block_size)]

    return hazard_of_model(model, calls_of)


@memoize
def evaluation_hazard(model: Model, precision: str) -> str | None:
    """Why threads must not evaluate a module of `model` concurrently on a CPU; None where they may."""

    def calls_of(module: nn.Module) -> tuple[Any, list[Call]]:
        @torch.no_grad()
        def loss(ids: Tensor) -> list[Tensor]:
            segments = {"segments": (ids % 5 == 0).cumsum(dim=1)} if model.document_mask else {}
            with cpu_autocast(precision):
                return [module(ids, ids.roll(-1, 1), **segments)]

        return module.eval(), [partial(loss, ids) for ids in probe_batches(model.block_size)]

    return hazard_of_model(model, calls_of)


def hazard_of_model(model: Model, calls_of: Callable[[nn.Module], tuple[Any, list[Call]]]) -> str | None:
    """Why threads must not use a small copy of `model` concurrently; None where they may.

    `calls_of(module)` returns an object that holds all state, and two calls.
    """
    model = with_few_layers(model)
    with preserved_random_state():
        try:
            on_meta = build_on_meta(model, VOCABULARY)
            if on_meta is None:
                return "it cannot be built without memory"
            if sum(parameter.numel() for parameter in on_meta.parameters()) > MAX_PARAMETERS:
                return "a small copy of it is too large to be tried"
            module = build_uninitialized(model, ModelContext(vocab_size=VOCABULARY))
            fill_weights(module)
            return hazard_of_calls(*calls_of(module))
        except Exception as error:  # from a component's code; if it matters, the run itself reports it
            return f"it cannot be tried: {str(error).partition(chr(10))[0] or repr(error)}"


def with_few_layers(model: Model) -> Model:
    """The model, or the one that it adds weights to, with at most as many layers as a small copy has."""
    inner = inner_model(model)
    if inner is not None:
        return model.model_copy(update={str(model.inner_slot): with_few_layers(inner)})
    if "n_layer" not in type(model).model_fields:
        return model
    return model.model_copy(update={"n_layer": min(LAYERS, getattr(model, "n_layer"))})  # noqa: B009


@torch.no_grad()
def fill_weights(module: nn.Module) -> None:
    """Fills uninitialized weights with small random numbers."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.normal_(0.0, 0.05, generator=generator)


def probe_batches(block_size: int) -> Tensor:
    """The ids of two batches: (2, B, T)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, VOCABULARY, (2, WINDOWS, min(TOKENS, block_size)), generator=generator)


def cpu_autocast(precision: str) -> torch.autocast:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.bfloat16)
    return torch.autocast("cpu", dtype, enabled=precision != "fp32", cache_enabled=False)
