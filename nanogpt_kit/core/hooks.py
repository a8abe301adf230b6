"""What a callback can hear, and the plugin manager that each run owns."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from nanogpt_kit.core.errors import KitError, RunFailed, did_you_mean

if TYPE_CHECKING:
    from nanogpt_kit.core.kinds import Callback, LiveRun

logger = logging.getLogger(__name__)

hookspec = pluggy.HookspecMarker("nanogpt_kit")
hookimpl = pluggy.HookimplMarker("nanogpt_kit")


class RunHooks:
    """The moments of a run. An implementation takes only the arguments it uses; all are called on every rank,
    but for trackers, which rank 0 alone has."""

    @hookspec
    def run_started(self, run: LiveRun) -> None:
        """Everything is built and, on a resume, restored; the first step comes next."""

    @hookspec
    def step_finished(self, run: LiveRun, step: int) -> None:
        """The parameters were updated. Called every step, so it should cost next to nothing."""

    @hookspec
    def logged(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        """A line went into metrics.jsonl: {"train/loss": 2.1, "optim/lr": 1e-3, ...}."""

    @hookspec
    def evaluated(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        """The evaluators have spoken: {"val/loss": 1.9, ...}."""

    @hookspec
    def evaluation_started(self, run: LiveRun) -> None:
        """The model is about to be evaluated, or to write samples: its weights may be others until that has ended."""

    @hookspec
    def evaluation_ended(self, run: LiveRun) -> None:
        """The weights must be the trained ones again."""

    @hookspec
    def checkpoint_saved(self, run: LiveRun, step: int, path: Path) -> None:
        """A whole checkpoint lies at `path`."""

    @hookspec
    def sampled(self, run: LiveRun, step: int, texts: Sequence[str]) -> None:
        """The model wrote something; each text begins with its prompt."""

    @hookspec
    def run_finished(self, run: LiveRun, status: str) -> None:
        """Nothing follows. `status` is "finished", "interrupted" or "failed"."""


class Hooks:
    """The callbacks that one experiment names, called in the order of the file."""

    def __init__(self, options: Sequence[Callback], run: LiveRun) -> None:
        self.manager = pluggy.PluginManager("nanogpt_kit")
        self.manager.add_hookspecs(RunHooks)
        self.callbacks: dict[str, Any] = {}
        self.trackers: set[str] = set()
        for option in options:
            if option.tracker and run.rank != 0:
                continue  # one report is enough
            count = sum(name.split("#")[0] == type(option).__name__ for name in self.callbacks)
            name = type(option).__name__ + (f"#{count + 1}" if count else "")
            try:
                self.callbacks[name] = option.build(run)
            except Exception as error:
                if not option.tracker:
                    raise
                self._report(name, "build", error)
            if option.tracker:
                self.trackers.add(name)
        for name, callback in reversed(self.callbacks.items()):  # pluggy calls the last registered first
            self._register(name, callback)

    def _register(self, name: str, callback: object) -> None:
        known = [hook for hook in vars(RunHooks) if not hook.startswith("_")]
        for method in dir(callback):
            if method not in known and self.manager.parse_hookimpl_opts(callback, method) is not None:
                raise KitError(f"callback {name}: there is no hook {method!r}{did_you_mean(method, known)}")
        try:
            self.manager.register(callback, name)
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise KitError(f"callback {name}: {error}") from None
        callers = self.manager.get_hookcallers(callback)
        if not callers:
            raise KitError(f"callback {name} hears nothing: mark its methods with @hookimpl, each named after a hook")
        if any(listener.wrapper or listener.hookwrapper for caller in callers for listener in caller.get_hookimpls()):
            raise KitError(f"callback {name}: hook wrappers are not supported, only plain implementations")

    def call(self, hook: str, backwards: bool = False, trackers: bool = True, **arguments: Any) -> None:
        """Calls every callback that listens, in the order of the file. A tracker that raises is reported and dropped.

        Without `trackers` it calls the others only: what a process before has reported already is not reported again.
        Raises RunFailed where another callback raises.
        """
        listeners = getattr(self.manager.hook, hook).get_hookimpls()
        for listener in listeners if backwards else reversed(listeners):
            if not trackers and listener.plugin_name in self.trackers:
                continue
            try:
                listener.function(*(arguments[name] for name in listener.argnames))
            except (Exception, SystemExit) as error:  # rich exits where its pipe is closed
                if listener.plugin_name not in self.trackers:
                    raise RunFailed(f"{listener.plugin_name} failed in {hook}: {error!r}") from error
                self._report(listener.plugin_name, hook, error)
                self.manager.unregister(name=listener.plugin_name)
                del self.callbacks[listener.plugin_name]

    @contextmanager
    def evaluation(self, run: LiveRun) -> Iterator[None]:
        """Around what only looks at the model; callbacks may put other weights into it meanwhile."""
        self.call("evaluation_started", run=run)
        try:
            yield
        finally:
            self.call("evaluation_ended", backwards=True, run=run)  # who came last goes first

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
        logger.warning("%s failed in %s and is dropped; the run goes on without it: %r", name, hook, error)
