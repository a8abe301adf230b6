"""`bench` on the command line."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FEW = ("--rounds", "2", "--seconds", "0.1")


def test_it_tells_speed_parts_and_memory(command: Callable[..., Any], tiny: Path) -> None:
    told = command("bench", tiny, *FEW, "--json")
    assert told.code == 0, told.err
    facts = json.loads(told.out)["experiment"]
    assert facts["tokens_per_second"] > 0
    assert set(facts["parts_ms"]) == {"data", "forward", "backward", "optimizer", "other"}
    assert facts["peak_memory_bytes"] > 1e6
    assert (facts["precision"], facts["compile"]) == ("fp32", "off")
    assert facts["choices"] == {"model.attention": "torch chooses the kernel"}


def test_two_are_compared_in_words(command: Callable[..., Any], tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    told = command("bench", tiny, "model.n_layer=1", "--vs", tiny, *FEW)
    assert told.code == 0, told.err
    assert "model.n_layer=1" in told.out
    assert "times the tokens/s of the second" in told.out
    assert caplog.text.count("making ready") == 2
    assert "round 2 of 2: " in caplog.text
    assert told.out.count("MFU ") == 2


def test_mistakes_in_either_are_told_before_anything_is_timed(command: Callable[..., Any], tiny: Path) -> None:
    told = command("bench", tiny, "train.stepps=3", "--vs", tiny)
    assert (told.code, "did you mean 'steps'?" in told.err) == (2, True)
    told = command("bench", tiny, "--vs", tiny.with_name("nowhere.toml"))
    assert told.code == 2
    assert "nowhere.toml" in told.err


def test_a_round_of_no_number_of_seconds_is_refused(command: Callable[..., Any], tiny: Path) -> None:
    told = command("bench", tiny, "--seconds", "nan")
    assert told.code == 2
    assert "nan is no number of seconds" in told.err


def test_it_tells_how_fast_texts_are_written(command: Callable[..., Any], tiny: Path) -> None:
    asked = ("bench", tiny, "--sample", 3, *FEW, "sample.max_new_tokens=9", "sample.precision=fp32")
    told = command(*asked, "--json")
    assert told.code == 0, told.err
    facts = json.loads(told.out)["sample"]
    assert (facts["texts"], facts["tokens"], facts["precision"], len(facts["rounds"])) == (3, 9, "fp32", 2)
    linears, cache = 2 * (4 * 24 * 24 + 8 * 24 * 24) + 320 * 24, 2 * 2 * 3 * 10 * 24  # 257 tokens are padded to 320
    step = 4 * (linears + cache / 2)
    assert facts["bytes_per_second"] == pytest.approx(step * facts["tokens_per_second"] / 3, rel=0.3)
    assert facts["copy_bytes_per_second"] > 1e8
    assert "GB/s of weights and cache; memory copies" in command(*asked).out


def test_writing_is_not_compared_with_training(command: Callable[..., Any], tiny: Path) -> None:
    told = command("bench", tiny, "--sample", 1, "--vs", tiny)
    assert (told.code, "--sample times the writing of texts" in told.err) == (2, True)
    told = command("bench", tiny, "--sample", 1, "sample.max_new_tokens=0")
    assert (told.code, "there is nothing to time" in told.err) == (2, True)
