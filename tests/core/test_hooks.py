"""The callbacks of a run: who is called, in which order, and what happens where one fails."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.hooks import Hooks, hookimpl
from nanogpt_kit.core.kinds import Callback, LiveRun

RUN = cast(LiveRun, SimpleNamespace(rank=0))


class Ear:
    """Hears one hook."""

    def __init__(self, name: str, heard: list[Any], fails: bool = False) -> None:
        self.name, self.heard, self.fails = name, heard, fails

    @hookimpl
    def step_finished(self, step: int) -> None:
        self.heard.append((self.name, step))
        if self.fails:
            raise OSError("disk full")


def option(listener: object, name: str = "Given", tracker: bool = False) -> Callback:
    """The options of a callback that builds `listener`, or raises it."""

    def build(self: Callback, run: LiveRun) -> object:
        if isinstance(listener, Exception):
            raise listener
        return listener

    made = type(name, (Callback,), {"build": build, "is_tracker": tracker, "__module__": __name__})
    return cast(Callback, made())


def step(hooks: Hooks, number: int) -> None:
    hooks.call("step_finished", run=RUN, step=number)


def test_a_misspelt_hook_is_refused() -> None:
    class Misspelt:
        @hookimpl
        def step_finish(self, step: int) -> None: ...

    with pytest.raises(KitError, match=r"callback Given: unknown hook 'step_finish'; did you mean 'step_finished'"):
        Hooks([option(Misspelt())], RUN)


def test_a_misspelt_argument_is_refused() -> None:
    class Misspelt:
        @hookimpl
        def step_finished(self, stepp: int) -> None: ...

    with pytest.raises(KitError, match=r"callback Given: step_finished has no argument 'stepp'; did you mean 'step'"):
        Hooks([option(Misspelt())], RUN)


@pytest.mark.parametrize("tracker", [False, True])
def test_a_callback_without_hooks_is_refused(tracker: bool) -> None:
    class Unmarked:
        def step_finished(self, step: int) -> None: ...

    with pytest.raises(KitError, match=r"callback Given implements no hook: .*@hookimpl"):
        Hooks([option(Unmarked(), tracker=tracker)], RUN)


def test_a_hook_wrapper_is_refused() -> None:
    class Wrapper:
        @hookimpl(wrapper=True)
        def step_finished(self, step: int) -> Any:
            yield

    with pytest.raises(KitError, match="callback Given: hook wrappers are not supported"):
        Hooks([option(Wrapper())], RUN)


def test_callbacks_are_called_in_the_order_of_the_file() -> None:
    heard: list[Any] = []
    step(Hooks([option(Ear(name, heard), name) for name in "cab"], RUN), 3)
    assert heard == [("c", 3), ("a", 3), ("b", 3)]


def test_an_implementation_takes_the_arguments_it_uses() -> None:
    heard: list[Any] = []

    class Few:
        @hookimpl
        def evaluated(self, metrics: dict[str, float], run: LiveRun) -> None:
            heard.append((run, metrics))

        @hookimpl
        def run_finished(self) -> None:
            heard.append("finished")

    hooks = Hooks([option(Few())], RUN)
    hooks.call("evaluated", run=RUN, step=7, metrics={"val/loss": 1.5})
    hooks.call("run_finished", run=RUN, status="finished")
    hooks.call("run_started", run=RUN)
    assert heard == [(RUN, {"val/loss": 1.5}), "finished"]


def test_a_failing_tracker_is_reported_once_and_dropped_while_the_others_continue(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[Any] = []
    failing = option(Ear("failing", heard, fails=True), "Failing", tracker=True)
    hooks = Hooks([option(Ear("a", heard), "A"), failing, option(Ear("b", heard), "B")], RUN)
    step(hooks, 1)
    step(hooks, 2)
    assert heard == [("a", 1), ("failing", 1), ("b", 1), ("a", 2), ("b", 2)]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "Failing failed in step_finished and is dropped; the run continues without it: OSError('disk full')"
    )


def test_a_tracker_that_cannot_be_built_is_reported_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Any] = []
    hooks = Hooks([option(OSError("no server"), "Failing", tracker=True), option(Ear("a", heard))], RUN)
    step(hooks, 1)
    assert heard == [("a", 1)]
    assert "Failing failed in build and is dropped; the run continues without it: OSError('no server')" in caplog.text


def test_any_other_callback_that_cannot_be_built_is_an_error() -> None:
    with pytest.raises(OSError, match="no server"):
        Hooks([option(OSError("no server"))], RUN)


def test_any_other_failing_callback_fails_the_run() -> None:
    heard: list[Any] = []
    hooks = Hooks([option(Ear("failing", heard, fails=True), "Failing"), option(Ear("after", heard))], RUN)
    with pytest.raises(RunFailed, match=r"^Failing failed in step_finished: OSError\('disk full'\)$"):
        step(hooks, 1)
    assert heard == [("failing", 1)]


def test_an_interrupt_does_not_count_as_a_failure_of_a_tracker() -> None:
    class Interrupted:
        @hookimpl
        def run_started(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Hooks([option(Interrupted(), tracker=True)], RUN).call("run_started", run=RUN)


class Counter(Callback):
    """Counts steps, and says so to checkpoints."""

    def build(self, run: LiveRun) -> object:
        return Counting()


class Counting:
    def __init__(self) -> None:
        self.count = 0

    @hookimpl
    def step_finished(self) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def test_two_equal_callbacks_are_both_called() -> None:
    assert Counter() == Counter()
    hooks = Hooks([Counter(), Counter(), Counter()], RUN)
    step(hooks, 1)
    assert hooks.state_dict() == {"Counter": {"count": 1}, "Counter#2": {"count": 1}, "Counter#3": {"count": 1}}


def test_the_state_of_a_callback_survives_a_checkpoint() -> None:
    before = Hooks([Counter(), option(Ear("no state", [])), Counter()], RUN)
    step(before, 1)
    before.callbacks["Counter#2"].count = 7
    after = Hooks([Counter(), option(Ear("no state", [])), Counter()], RUN)
    after.load_state_dict(before.state_dict())
    step(after, 2)
    assert after.state_dict() == {"Counter": {"count": 2}, "Counter#2": {"count": 8}}


def test_a_checkpoint_may_have_more_or_fewer_callbacks_than_the_run() -> None:
    one, two = Hooks([Counter()], RUN), Hooks([Counter(), Counter()], RUN)
    step(two, 1)
    one.load_state_dict(two.state_dict())
    assert one.state_dict() == {"Counter": {"count": 1}}
    two.load_state_dict({})
    assert two.state_dict() == {"Counter": {"count": 1}, "Counter#2": {"count": 1}}


def test_a_dropped_tracker_leaves_no_state() -> None:
    class Failing(Counting):
        @hookimpl
        def run_started(self) -> None:
            raise OSError

    hooks = Hooks([option(Failing(), "Failing", tracker=True), Counter()], RUN)
    hooks.call("run_started", run=RUN)
    assert hooks.state_dict() == {"Counter": {"count": 0}}
