"""The hooks of a run, and the plugin manager that calls them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal

import pluggy

from nanogpt_kit.core.errors import KitError, RunFailed, did_you_mean
from nanogpt_kit.core.evaluation_weights import evaluation_weights
from nanogpt_kit.core.kinds import Callback, LiveRun, TrainingBatch

logger = logging.getLogger(__name__)

hookspec = pluggy.HookspecMarker("nanogpt_kit")
hookimpl = pluggy.HookimplMarker("nanogpt_kit")


class RunHooks:
    """The hooks that callbacks may implement, each with only the arguments it uses. They are called on every rank,
    except those of trackers, which only rank 0 has."""

    @hookspec
    def run_started(self, run: LiveRun) -> None:
        """Everything is built and, in a resumed run, restored; the first step follows."""

    @hookspec
    def batch_ready(self, run: LiveRun, step: int, batch: TrainingBatch) -> None:
        """The windows of a step, before the model sees them; they may be changed in place. `step` counts the updates
        done."""

    @hookspec
    def gradients_ready(self, run: LiveRun, step: int) -> None:
        """The gradients of a step, over all its tokens, before they are clipped; they may be changed in place. `step`
        counts the updates done."""

    @hookspec
    def step_finished(self, run: LiveRun, step: int) -> None:
        """The parameters were updated. Called every step, so it should be cheap."""

    @hookspec
    def logged(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        """A line was written to metrics.jsonl: {"train/loss": 2.1, "optim/lr": 1e-3, ...}."""

    @hookspec
    def evaluated(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        """An evaluation has finished: {"val/loss": 1.9, ...}."""

    @hookspec
    def evaluation_started(self, run: LiveRun, purpose: str) -> None:
        """An evaluation or sampling starts; callbacks may swap in other weights until `evaluation_ended`. `purpose` is
        "evaluation" or "sampling"."""

    @hookspec
    def evaluation_ended(self, run: LiveRun) -> None:
        """Evaluation or sampling has ended; the model must have its trained weights again."""

    @hookspec
    def checkpoint_saved(self, run: LiveRun, step: int, path: Path) -> None:
        """A complete checkpoint was saved in the folder `path`."""

    @hookspec
    def sampled(self, run: LiveRun, step: int, texts: Sequence[str]) -> None:
        """The model generated texts; each begins with its prompt."""

    @hookspec
    def run_finished(self, run: LiveRun, status: str) -> None:
        """The last hook of a run. `status` is "finished", "interrupted" or "failed"."""


def check_arguments(name: str, hook: str, method: Callable[..., Any]) -> None:
    """Raises KitError where a callback's method takes an argument that the hook does not have."""
    known = [*signature(getattr(RunHooks, hook)).parameters][1:]
    for argument, parameter in signature(method).parameters.items():
        is_given = parameter.kind is Parameter.POSITIONAL_OR_KEYWORD and parameter.default is Parameter.empty
        if is_given and argument not in known:
            raise KitError(f"callback {name}: {hook} has no argument {argument!r}{did_you_mean(argument, known)}")


class Hooks:
    """The callbacks of one experiment, called in the order of the file."""

    def __init__(self, options: Sequence[Callback], run: LiveRun) -> None:
        self.manager = pluggy.PluginManager("nanogpt_kit")
        self.manager.add_hookspecs(RunHooks)
        self.callbacks: dict[str, Any] = {}
        self.trackers: set[str] = set()
        for option in options:
            if option.is_tracker and run.rank != 0:
                continue
            count = sum(name.split("#")[0] == type(option).__name__ for name in self.callbacks)
            name = type(option).__name__ + (f"#{count + 1}" if count else "")
            try:
                self.callbacks[name] = option.build(run)
            except Exception as error:
                if not option.is_tracker:
                    raise
                self._report(name, "build", error)
            if option.is_tracker:
                self.trackers.add(name)
        for name, callback in reversed(self.callbacks.items()):  # pluggy calls the last registered first
            self._register(name, callback)
        self.implementations = self._find_implementations()

    def _register(self, name: str, callback: object) -> None:
        known = [hook for hook in vars(RunHooks) if not hook.startswith("_")]
        for method in dir(callback):
            if method not in known and self.manager.parse_hookimpl_opts(callback, method) is not None:
                raise KitError(f"callback {name}: unknown hook {method!r}{did_you_mean(method, known)}")
            if method in known and self.manager.parse_hookimpl_opts(callback, method) is not None:
                check_arguments(name, method, getattr(callback, method))
        try:
            self.manager.register(callback, name)
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise KitError(f"callback {name}: {error}") from None
        callers = self.manager.get_hookcallers(callback)
        if not callers:
            raise KitError(
                f"callback {name} implements no hook: decorate methods that are named after hooks with @hookimpl"
            )
        if any(impl.wrapper or impl.hookwrapper for caller in callers for impl in caller.get_hookimpls()):
            raise KitError(f"callback {name}: hook wrappers are not supported, only plain implementations")

    def call(self, hook: str, backwards: bool = False, trackers: bool = True, **arguments: Any) -> None:
        """Calls all implementations of a hook in the order of the file; a tracker that raises is logged and dropped.

        `trackers=False` leaves trackers out, for an event that they received from an earlier process. Raises RunFailed
        where another callback raises.
        """
        implementations = self.implementations[hook]
        for implementation in reversed(implementations) if backwards else implementations:
            name = implementation.plugin_name
            if not trackers and name in self.trackers:
                continue
            try:
                implementation.function(*(arguments[argument] for argument in implementation.argnames))
            except (Exception, SystemExit) as error:  # rich exits where its pipe is closed
                if name not in self.trackers:
                    raise RunFailed(f"{name} failed in {hook}: {error!r}") from error
                self._report(name, hook, error)
                self.manager.unregister(name=name)
                del self.callbacks[name]
                self.implementations = self._find_implementations()

    def _find_implementations(self) -> dict[str, list[pluggy.HookImpl]]:
        """Those of each hook, in the order of the file."""
        hooks = [hook for hook in vars(RunHooks) if not hook.startswith("_")]
        return {hook: [*reversed(getattr(self.manager.hook, hook).get_hookimpls())] for hook in hooks}

    def participants(self, hook: str) -> str:
        """The callbacks that implement a hook and are not trackers, the same on all ranks: "A, B"; "" for none."""
        names = [implementation.plugin_name for implementation in self.implementations[hook]]
        return ", ".join(name for name in names if name not in self.trackers)

    @contextmanager
    def evaluation(self, run: LiveRun, purpose: Literal["evaluation", "sampling"]) -> Iterator[None]:
        """Entered around evaluation and sampling; the optimizer, then callbacks may swap in other weights inside."""
        with evaluation_weights(run.optimizer):
            self.call("evaluation_started", run=run, purpose=purpose)
            try:
                yield
            finally:
                self.call("evaluation_ended", backwards=True, run=run)  # swaps are undone in reverse order

    def state_dict(self) -> dict[str, Any]:
        return {
            name: callback.state_dict() for name, callback in self.callbacks.items() if hasattr(callback, "state_dict")
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, callback in self.callbacks.items():
            if name in state and hasattr(callback, "load_state_dict"):
                callback.load_state_dict(state[name])

    @staticmethod
    def _report(name: str, hook: str, error: BaseException) -> None:
        logger.warning("%s failed in %s and is dropped; the run continues without it: %r", name, hook, error)
