"""Which tests use a GPU where the machine has one."""

from __future__ import annotations

import os

import pytest

from tests.conftest import asks_for_gpu


@pytest.mark.parametrize(
    ("marks", "asks"),
    [
        ("", False),
        ("not slow and not gpu", False),
        ("slow", False),
        ("gpu", True),
        ("gpu and not slow", True),
        ("slow or gpu", True),
        ("not slow and (gpu)", True),
        ("gpus", False),
    ],
)
def test_a_gpu_is_used_where_its_mark_is_asked_for(marks: str, asks: bool) -> None:
    assert asks_for_gpu(marks) == asks


def test_other_tests_and_their_commands_find_none(request: pytest.FixtureRequest) -> None:
    if asks_for_gpu(request.config.getoption("markexpr")):
        pytest.skip("-m asks for the tests that use one")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
