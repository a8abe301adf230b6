"""Whether two threads may call a network at once: tried on a small copy of it, instead of being declared by its parts.

A batch is split among threads only where that changes nothing but the order of sums. The probe passes two batches
through the network and refuses it where a pass

- changes something that the network holds, as a counter or the buffers of BatchNorm do;
- draws random numbers, as dropout does: the order of the threads would decide who gets which;
- changes a setting of the whole process, as torch's choice of attention kernels;
- gives other results or gradients while the other pass is under way. Both threads then take turns after every call of
  torch's API, so that the answer does not depend on luck: whoever writes to memory that both use is found every time.

What a probe cannot run counts as refused. State that only larger shapes or later layers reach is not seen.
"""

from __future__ import annotations

import random
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial, wraps
from types import FunctionType, ModuleType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nanogpt_kit.core.kinds import Model, Parallel
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.cache import KVCache
from nanogpt_kit.nn.uninitialized import build_on_meta, build_uninitialized

LAYERS, WINDOWS, TOKENS, VOCABULARY = 2, 2, 16, 61  # of the small copy and its batches, at most
MOST_PARAMETERS = 50_000_000  # of the small copy: some seconds of one core beyond this
DEPTH = 4  # of objects within objects that are searched for state
PATIENCE_SECONDS = 10.0  # for the other thread's turn, which takes microseconds unless it waits for a lock

Pass = Callable[[], Sequence[Tensor | None]]
Question = TypeVar("Question", bound=Callable[..., str | None])


def remembered(question: Question) -> Question:
    """Answers equal questions from memory, unless an option cannot be hashed."""
    cached = lru_cache(maxsize=8)(question)

    @wraps(question)
    def answer(*args: Any) -> str | None:
        try:
            return cached(*args)
        except TypeError:
            return question(*args)

    return cast(Question, answer)


@remembered
def training_hazard(model: Model, parallel: Parallel, ctx: RunContext) -> str | None:
    """Why threads must not train what `model` builds at once, on a CPU; None where they may."""

    def passes(module: nn.Module) -> tuple[Any, list[Pass]]:
        wrapped = parallel.wrap(module.train(), ctx)
        weights = [weight for weight in module.parameters() if weight.requires_grad]

        def train(ids: Tensor) -> list[Tensor | None]:
            segments = (ids % 5 == 0).cumsum(dim=1) if model.document_mask else None
            with autocast(ctx.precision):
                loss = wrapped(ids, ids.roll(-1, 1), segments)
            return [loss.detach(), *torch.autograd.grad(loss, weights, allow_unused=True)]

        return wrapped, [partial(train, ids) for ids in batches(model.block_size)]

    return hazard_of_model(model, passes)


@remembered
def decoding_hazard(model: Model) -> str | None:
    """Why threads must not generate with what `model` builds at once, on a CPU; None where they may."""

    def passes(module: nn.Module) -> tuple[Any, list[Pass]]:
        @torch.no_grad()
        def decode(ids: Tensor) -> list[Tensor]:
            cache = KVCache(model.block_size)
            prompt, newest = ids[:, :-1], ids[:, -1:]
            cache.newest_only = True
            return [module(part, cache=cache) for part in (prompt, newest) if part.size(1)]

        return module.eval(), [partial(decode, ids) for ids in batches(model.block_size)]

    return hazard_of_model(model, passes)


def hazard_of_model(model: Model, passes: Callable[[nn.Module], tuple[Any, list[Pass]]]) -> str | None:
    """Builds a small copy and tries it. `passes` makes two calls of a module, and names what may hold state."""
    if "n_layer" in type(model).model_fields:
        model = model.model_copy(update={"n_layer": min(LAYERS, getattr(model, "n_layer"))})  # noqa: B009
    with unchanged_randomness():
        try:
            on_meta = build_on_meta(model, VOCABULARY)
            if on_meta is None:
                return "it cannot be built without memory"
            if sum(parameter.numel() for parameter in on_meta.parameters()) > MOST_PARAMETERS:
                return "a small copy of it is too large to be tried"
            module = build_uninitialized(model, VOCABULARY)
            fill(module)
            return hazard(*passes(module))
        except Exception as error:  # of a component's own code; where it matters, the run itself will meet it
            return f"it cannot be tried: {str(error).partition(chr(10))[0] or repr(error)}"


def hazard(holder: object, calls: Sequence[Pass]) -> str | None:
    """Why threads must not make these two calls at once. `holder` is the module, or what holds it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are the same in any thread then
    try:
        with unchanged_randomness():
            before, randomness = state_of(holder), random_state()
            expected = []
            for call in calls:
                with Watch() as watch:
                    expected.append(call())
                if watch.hazard or random_state() != randomness:
                    return watch.hazard or "it draws random numbers"
                if changed := first_difference(before, state_of(holder)):
                    return f"its forward pass changes {changed}"
            turns = Turns()
            with ThreadPoolExecutor(2, "probe") as pool:
                found = list(pool.map(turns.take, range(2), calls))
            if turns.stuck:
                return "its threads wait for each other"
            same = all(map(same_results, found, expected)) and not first_difference(before, state_of(holder))
            return None if same else "its results differ when two threads call it at once"
    finally:
        torch.set_num_threads(threads)


class Watch(TorchFunctionMode):
    """Notes the calls of torch's API that two threads must not make at once."""

    def __init__(self) -> None:
        super().__init__()
        self.hazard = ""
        self.settings = process_settings()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values())):
            self.hazard = self.hazard or "it draws random numbers"
        if not same_settings(process_settings(), self.settings):
            self.hazard = self.hazard or "it changes settings of the whole process while it computes"
        return func(*args, **kwargs)


class Turns:
    """Two threads that alternate: each makes one call of torch's API, then waits until the other has made one."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.running = {0, 1}
        self.turn = 0
        self.stuck = False

    def take(self, index: int, call: Pass) -> Sequence[Tensor | None]:
        """Makes one thread's calls, interleaved with those of the other."""
        try:
            with Alternating(self, index):
                return call()
        finally:
            with self.condition:
                self.running.discard(index)
                self.condition.notify_all()

    def wait(self, index: int) -> None:
        """Lets the other thread make a call, and waits until it has."""
        other = 1 - index
        with self.condition:
            self.turn = other
            self.condition.notify_all()
            is_mine = self.condition.wait_for(
                lambda: self.turn == index or other not in self.running or self.stuck, PATIENCE_SECONDS
            )
            if not is_mine:
                self.stuck = True
                self.condition.notify_all()


class Alternating(TorchFunctionMode):
    def __init__(self, turns: Turns, index: int) -> None:
        super().__init__()
        self.turns, self.index = turns, index

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.turns.wait(self.index)
        return func(*args, **(kwargs or {}))


def state_of(holder: object) -> dict[str, tuple[object, object]]:
    """All that an object holds, by path: what it is (kept alive, so that its identity stays its own) and its value."""
    state: dict[str, tuple[object, object]] = {}
    seen: set[int] = set()

    def walk(value: object, path: str, depth: int) -> None:
        if isinstance(value, Tensor):
            content = None if isinstance(value, nn.Parameter) else value.detach().clone()
            state[path] = value, (0 if value.is_inference() else value._version, content)
            return
        state[path] = value, value.tobytes() if isinstance(value, np.ndarray) else None
        if id(value) in seen or depth > DEPTH or isinstance(value, type | FunctionType | ModuleType):
            return
        seen.add(id(value))
        if isinstance(value, dict):
            items = [(str(key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple | set | frozenset | deque):
            items = [(str(index), item) for index, item in enumerate(value)]
        else:
            items = list(getattr(value, "__dict__", {}).items())
        state[path] = value, (state[path][1], len(items))
        for name, item in items:
            if isinstance(value, nn.Module) and name in ("_modules", "_parameters", "_buffers"):
                for child, part in item.items():  # named as in the module's own paths, at no depth of their own
                    walk(part, f"{path}.{child}".lstrip("."), 0)
            else:
                walk(item, f"{path}.{name}".lstrip("."), depth + 1)

    walk(holder, "", 0)
    return state


def first_difference(before: dict[str, tuple[object, object]], after: dict[str, tuple[object, object]]) -> str:
    """The path of something that is not as it was, the most exact one; empty where nothing has changed."""
    changed = [path for path in after if path not in before or not same_entry(before[path], after[path])]
    changed += [path for path in before if path not in after]
    return max(changed, key=lambda path: (path.count("."), bool(path)), default="") or ("the module" if changed else "")


def same_entry(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    if one[0] is not other[0]:
        return False
    if not isinstance(one[0], Tensor):
        return bool(one[1] == other[1])
    (version, content), (later_version, later_content) = one[1], other[1]
    return version == later_version and same_results([content], [later_content])


def same_results(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> bool:
    """Whether all tensors have the same bits; NaN equals NaN."""
    return all(
        a is b or (a is not None and b is not None and torch.equal(a.nan_to_num(), b.nan_to_num()))
        for a, b in zip(one, other, strict=True)
    )


def process_settings() -> tuple[Any, ...]:
    """Settings that all threads share and that code customarily changes for the time of a call."""
    kernels = torch.backends.cuda
    return (
        warnings.filters,
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        (kernels.flash_sdp_enabled(), kernels.mem_efficient_sdp_enabled(), kernels.math_sdp_enabled()),
        kernels.cudnn_sdp_enabled(),
    )


def same_settings(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one[0] is other[0] and one[1:] == other[1:]


def random_state() -> tuple[bytes, Any, str]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), repr(np.random.get_state(legacy=True))


@contextmanager
def unchanged_randomness() -> Iterator[None]:
    """Afterwards it is as if no random number had been drawn."""
    ours, numpys, pythons = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(ours)
        np.random.set_state(numpys)
        random.setstate(pythons)


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Gives uninitialized weights small numbers."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.normal_(0.0, 0.05, generator=generator)


def batches(block_size: int) -> Tensor:
    """The ids of two batches: (2, B, T)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, VOCABULARY, (2, WINDOWS, min(TOKENS, block_size)), generator=generator)


def autocast(precision: str) -> torch.autocast:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.bfloat16)
    return torch.autocast("cpu", dtype, enabled=precision != "fp32", cache_enabled=False)
