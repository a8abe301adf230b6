"""Which candidate of a task is used follows from times alone, and from none that other load disturbed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from nanogpt_kit.core.machine_choices import Candidate, MachineChoices, Task, applied
from nanogpt_kit.nn import calibration
from nanogpt_kit.nn.calibration import fastest, measure


class Clock:
    """A clock that only the calls of candidates move, so that no other load changes a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.waited = 0.0
        self.calls: list[str] = []
        monkeypatch.setattr(calibration, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(calibration, "waited_seconds", lambda: self.waited)

    def taking(self, name: str, *seconds: float, waiting: float = 0.0) -> Candidate:
        """A candidate whose calls take these times in turn."""
        count = 0

        def call() -> None:
            nonlocal count
            self.calls.append(name)
            self.now += seconds[count % len(seconds)]
            self.waited += waiting
            count += 1

        return lambda: call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def chosen(task: Task, budget: float = 2.0) -> str | None:
    found = measure([task], budget)
    return fastest(found[task.name]) if found else None


def test_a_planted_slow_candidate_is_not_chosen(clock: Clock) -> None:
    fast, slow = clock.taking("fast", 0.001), clock.taking("slow", 0.0025)
    assert chosen(Task("t", {"fast": fast, "slow": slow})) == "fast"
    assert chosen(Task("t", {"slow": slow, "fast": fast})) == "fast"
    assert chosen(Task("t", {"slow": slow, "fast": fast, "slower": clock.taking("slower", 0.1)})) == "fast"


def test_a_slow_rule_is_left_where_its_rounds_would_exceed_the_budget(clock: Clock) -> None:
    task = Task("t", {"slow": clock.taking("slow", 0.5), "fast": clock.taking("fast", 0.001)})
    assert chosen(task) == "fast"
    assert clock.calls.count("slow") == 3


@pytest.mark.parametrize("seconds", [0.6, 5.0])
def test_a_candidate_that_takes_long_is_called_once(
    seconds: float, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A call cannot be ended; what it took is kept, so that no other process waits for it."""
    task = Task("t", {"fast": clock.taking("fast", 0.001), "slow": clock.taking("slow", seconds)})
    found = measure([task], 2.0)
    assert found is not None
    assert fastest(found["t"]) == "fast"
    assert clock.calls.count("slow") == 1
    assert f"slow takes {seconds} s" in caplog.text
    clock.calls.clear()
    slow_rule = Task("t", {"slow": clock.taking("slow", seconds), "fast": clock.taking("fast", 0.001)})
    assert chosen(slow_rule) is None  # another could be as slow
    assert clock.calls == ["slow"]


@pytest.mark.parametrize("candidate", [lambda: 1 / 0, lambda: None, "nonsense"])
def test_a_candidate_of_a_component_that_is_wrong_is_left_out(clock: Clock, candidate: Candidate) -> None:
    assert chosen(Task("t", {"rule": clock.taking("rule", 0.001), "wrong": candidate})) == "rule"


def test_a_really_slow_candidate_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real clock. That the machine is busy must not matter here, so it is not looked for."""
    monkeypatch.setattr(calibration.CoreWaiting, "check", lambda self: None)
    monkeypatch.setattr(calibration, "check_spread", lambda name, times: None)
    slow = lambda: lambda: sum(range(200_000))  # noqa: E731
    fast = lambda: lambda: None  # noqa: E731
    assert chosen(Task("t", {"slow": slow, "fast": fast})) == "fast"
    assert chosen(Task("t", {"fast": fast, "slow": slow})) == "fast"


def test_a_tie_goes_to_the_rule(clock: Clock) -> None:
    rule, other = clock.taking("rule", 0.00100), clock.taking("other", 0.00097)
    assert chosen(Task("t", {"rule": rule, "other": other})) == "rule"


def test_a_candidate_that_fails_here_is_left_out(clock: Clock) -> None:
    def fails() -> Callable[[], object]:
        raise RuntimeError("no kernel for this type on this CPU")

    works = clock.taking("works", 0.001)
    assert measure([Task("t", {"works": works, "fails": fails})], 2.0) == {"t": {"works": pytest.approx(0.001)}}
    assert measure([Task("t", {"fails": fails, "works": works})], 2.0) == {}  # nothing to compare with


@pytest.mark.parametrize("load", ["waiting", "spread"])
def test_times_under_other_load_are_discarded(clock: Clock, load: str) -> None:
    times = (0.001, 0.002, 0.004, 0.008) if load == "spread" else (0.001,)
    disturbed = clock.taking("rule", *times, waiting=0.0005 if load == "waiting" else 0.0)
    calm = Task("calm", {"rule": clock.taking("rule", 0.001), "other": clock.taking("other", 0.001)})
    task = Task("t", {"rule": disturbed, "other": clock.taking("other", 0.001)})
    assert measure([calm], 2.0)
    assert measure([calm, task], 2.0) is None


def test_candidates_take_turns_so_that_a_drift_meets_all(clock: Clock) -> None:
    measure([Task("t", {"a": clock.taking("a", 0.001), "b": clock.taking("b", 0.001)})], 2.0)
    rounds = "".join(clock.calls)[6:]  # after the first three calls of each
    assert rounds.startswith("baabbaab")
    assert rounds.count("a") == rounds.count("b") == calibration.MAX_ROUNDS


def test_no_call_is_repeated_where_a_task_does_something_before_a_call(clock: Clock) -> None:
    quick = {name: clock.taking(name, 0.0001) for name in "ab"}  # of which five would be a sample

    measure([Task("t", quick, lambda: clock.calls.append("|"))], 2.0)
    assert "".join(clock.calls)[7:].startswith("|a|b|a|b|a|b")  # after the first calls


def test_measuring_keeps_to_its_budget(clock: Clock) -> None:
    tasks = [
        Task(f"t{index}", {"rule": clock.taking("rule", 0.02), "other": clock.taking("other", 0.01)})
        for index in range(9)
    ]
    began = clock.now
    found = measure(tasks, 2.0)
    assert found is not None
    assert 0 < len(found) <= len(tasks)
    assert clock.now - began < 2.1
    heavy = Task("heavy", {"rule": clock.taking("rule", 3.0), "other": clock.taking("other", 1.0)})
    assert measure([heavy], 2.0) == {}


def test_choices_answer_with_the_rule_where_nothing_else_is_known_or_allowed() -> None:
    machine = MachineChoices({"a": "fast", "b": "odd"})
    assert machine.choice("a", "plain") == "fast"
    assert machine.choice("b", "plain", ("plain", "fast")) == "plain"
    assert machine.choice("c", "plain") == "plain"
    assert machine.extended({"a": "other", "d": "fast"}).choice("a", "plain") == "fast"
    assert machine.used == {"a": "fast", "b": "plain", "c": "plain"}


def test_choices_hold_while_they_are_applied() -> None:
    with applied(MachineChoices({"a": "x"})):
        with applied(MachineChoices({"a": "y"})):
            assert MachineChoices.current().choice("a", "rule") == "y"
        assert MachineChoices.current().choice("a", "rule") == "x"
    assert MachineChoices.current().choice("a", "rule") == "rule"
