"""Calls that several threads make at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from nanogpt_kit.nn.combined_optimizer import CombinedOptimizer
from nanogpt_kit.nn.threads import call_concurrently, concurrent_threads, limited_threads

SECONDS = 20  # after which a call that should have company is alone


def test_calls_are_made_at_once_each_with_one_thread_of_torch() -> None:
    together, counts = threading.Barrier(3), []
    before = torch.get_num_threads()

    def call() -> None:
        together.wait(SECONDS)
        counts.append(torch.get_num_threads())

    for _ in range(2):  # the threads are used again
        call_concurrently([call] * 3, threads=3)
    assert counts == [1] * 6
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("raised_by", [0, 1])
def test_an_error_is_raised_after_the_other_calls_were_made(raised_by: int) -> None:
    together, made = threading.Barrier(2), []

    def call(name: int) -> None:
        together.wait(SECONDS)
        if (threading.current_thread() is threading.main_thread()) == (raised_by == 0):
            raise ValueError("of one call")
        made.append(name)

    def last() -> None:
        made.append(2)

    with pytest.raises(ValueError, match="of one call"):
        call_concurrently([lambda: call(0), lambda: call(1), last], threads=2)
    assert len(made) == 2
    assert 2 in made


def test_all_calls_are_made_where_several_raise_and_the_first_error_is_raised() -> None:
    made = []

    def call(name: int) -> None:
        made.append(name)
        raise ValueError(str(name))

    for _ in range(2):  # the threads are used again
        with pytest.raises(ValueError, match=r"[0123]"):
            call_concurrently([partial(call, name) for name in range(4)], threads=2)
    assert sorted(made) == sorted([*range(4)] * 2)


def test_a_call_of_any_thread_may_make_calls_at_once_itself() -> None:
    together, made = threading.Barrier(2), []

    def outer(name: int) -> None:
        together.wait(SECONDS)  # one in each thread
        call_concurrently([partial(made.append, 10 * name + inner) for inner in range(3)], threads=2)

    call_concurrently([partial(outer, name) for name in range(2)], threads=2)
    assert sorted(made) == [0, 1, 2, 10, 11, 12]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12, of processes with threads
def test_a_process_that_was_forked_has_threads_of_its_own() -> None:
    call_concurrently([lambda: None] * 2, threads=2)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:  # pragma: no cover
        together = threading.Barrier(2)
        call_concurrently([lambda: together.wait(SECONDS)] * 2, threads=2)
        os.write(writing, b"made")
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:
        assert answer.read() == b"made"
    os.waitpid(child, 0)


def test_a_run_decides_how_many_threads_compute_at_once_whatever_torch_uses() -> None:
    with limited_threads(3):
        assert concurrent_threads() == 3
        with limited_threads(1):
            assert concurrent_threads() == 1
    assert concurrent_threads() == torch.get_num_threads()


class TwoUpdates(torch.optim.SGD):
    """Whose step is two calls, each of which waits for the other."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__([parameter])
        self.together = threading.Barrier(2)
        self.steps = 0
        self.records: list[bool] = []

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.steps += 1

    def updates(self, threads: int) -> list[Callable[[], object]]:
        def call() -> None:
            self.together.wait(SECONDS)
            self.records.append(torch.is_grad_enabled())

        return [call] * threads


class Steps(torch.optim.SGD):
    steps = 0

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.steps += 1


def test_parts_of_a_combined_optimizer_are_updated_at_once() -> None:
    divided, whole = TwoUpdates(nn.Parameter(torch.zeros(3, 2))), Steps([nn.Parameter(torch.zeros(2))])
    optimizer = CombinedOptimizer([divided, whole])
    with limited_threads(2):
        optimizer.step()
    assert (divided.steps, whole.steps) == (0, 1)
    assert divided.records == [False, False]
    with limited_threads(1):
        optimizer.step()
    assert (divided.steps, whole.steps) == (1, 2)


def test_parts_on_another_device_are_updated_in_turn() -> None:
    divided = TwoUpdates(nn.Parameter(torch.zeros(3, 2, device="meta")))
    with limited_threads(2):
        CombinedOptimizer([divided]).step()
    assert divided.steps == 1


def test_a_combined_optimizer_has_the_parts_of_one_within_it_and_their_state() -> None:
    parameters = [nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    inner = CombinedOptimizer([torch.optim.Adam(parameters[1:])])
    whole = CombinedOptimizer([torch.optim.Adam(parameters[:1]), inner])
    for parameter in parameters:
        parameter.grad = torch.ones(3, 2)
    whole.step()
    assert [len(whole.state[parameter]) for parameter in parameters] == [3, 3]
    whole.load_state_dict(whole.state_dict())
    whole.param_groups[1]["lr"] = 0.0
    before = parameters[1].detach().clone()
    whole.step()
    assert torch.equal(parameters[1], before)
    assert whole.state[parameters[1]]["step"] == 2
