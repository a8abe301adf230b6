"""`bench` on the command line."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.bench import rounds, training
from nanogpt_kit.bench.training import PARTS
from nanogpt_kit.cli import main
from tests.cli.test_json_output import TABLE

FEW = ("--rounds", "2", "--seconds", "0.1")


@dataclass(frozen=True)
class Compared:
    """What `bench` answered about two experiments that were timed once, for all the tests that read it."""

    report: dict[str, Any]  # of --json
    text: str
    log: str
    timings: list[rounds.Timing]
    folder: Path


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Compared:
    """A small model, and a wider one with --vs."""
    folder = tmp_path_factory.mktemp("bench")
    lines = "".join(f"{n} times {n + 7} is {n * (n + 7)}.\n" for n in range(300))
    (folder / "text.txt").write_text(lines, encoding="utf-8")
    small, wide = folder / "tiny.toml", folder / "wide.toml"
    small.write_text(tiny_text.format(text=folder / "text.txt"), encoding="utf-8")
    sizes = {"n_layer = 2": "n_layer = 3", "n_embd = 24": "n_embd = 96"}
    text = small.read_text(encoding="utf-8")
    for before, after in sizes.items():
        text = text.replace(before, after)
    wide.write_text(text, encoding="utf-8")
    log, out, timings = io.StringIO(), io.StringIO(), list[rounds.Timing]()
    time_alternating = rounds.time_alternating

    def record(*arguments: Any) -> list[rounds.Timing]:
        timings[:] = timings or time_alternating(*arguments)
        return timings

    handler = logging.StreamHandler(log)
    logger = logging.getLogger("nanogpt_kit")
    level = logger.level
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("NANOGPT_KIT_RUNS", str(folder / "runs"))
        patch.setenv("NANOGPT_KIT_DATA", str(folder / "data"))
        patch.setattr(rounds, "time_alternating", record)
        patch.setattr(rounds, "get_context", lambda _: multiprocessing.get_context("fork"))  # torch is imported here
        patch.setattr(rounds, "PARTS_SECONDS", 0.3)
        patch.setattr(training, "PEAK_SIZES", {"cpu": (1024,)})
        words = ["bench", str(small), "callback=[]", "--vs", str(wide), "--rounds", "3", "--seconds", "0.2"]
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            main([*words, "--json"], standalone_mode=False)
            report = json.loads(out.getvalue())
            out.seek(0)
            out.truncate()
            main(words, standalone_mode=False)  # the same timings as text
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
    return Compared(report, out.getvalue(), log.getvalue(), timings, folder)


def test_it_tells_speed_parts_and_memory(compared: Compared) -> None:
    facts = compared.report["experiment"]
    assert facts["tokens_per_second"] > 0
    assert set(facts["parts_ms"]) == {"data", "forward", "backward", "optimizer", "other"}
    assert facts["peak_memory_bytes"] > 1e6
    assert (facts["precision"], facts["compile"]) == ("fp32", "off")
    assert facts["choices"] == {"model.attention": "torch chooses the kernel"}


def test_a_wider_model_is_slower_and_its_parts_make_a_step(compared: Compared) -> None:
    assert compared.report["ratio"]["median"] > 1.3
    assert compared.report["ratio"]["rounds"] == rounds.paired_ratios(*(timing.rounds for timing in compared.timings))
    for timing in compared.timings:
        step = timing.facts["step_tokens"] / timing.tokens_per_second
        assert tuple(timing.parts) == PARTS
        assert all(seconds >= 0 for seconds in timing.parts.values())
        assert 0.3 < sum(timing.parts.values()) / step < 3
        assert timing.parts["backward"] > timing.parts["data"]
        assert timing.mfu is not None
        assert 0 < timing.mfu < 1
    assert not list((compared.folder / "runs").glob("*"))  # nothing stays


def test_two_are_compared_in_words(compared: Compared) -> None:
    assert "callback=[]" in compared.text
    assert "times the tokens/s of the second" in compared.text
    assert compared.log.count("preparing ") == 2
    assert "round 3 of 3: " in compared.log
    assert compared.text.count("MFU ") == 2


def test_mistakes_in_either_are_told_before_anything_is_timed(command: Callable[..., Any], tiny: Path) -> None:
    told = command("bench", tiny, "train.stepps=3", "--vs", tiny)
    assert (told.code, "did you mean 'steps'?" in told.err) == (2, True)
    told = command("bench", tiny, "--vs", tiny.with_name("nowhere.toml"))
    assert told.code == 2
    assert "nowhere.toml" in told.err


def test_a_round_of_no_number_of_seconds_is_refused(command: Callable[..., Any], tiny: Path) -> None:
    told = command("bench", tiny, "--seconds", "nan")
    assert told.code == 2
    assert "nan is not a number of seconds" in told.err


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
    assert facts["read_fraction"] == pytest.approx(facts["bytes_per_second"] / facts["read_bytes_per_second"])
    told = command(*asked).out
    assert "GB/s of weights and cache read: " in told
    assert " of a plain read; memory copies " in told


def test_writing_is_not_compared_with_training(command: Callable[..., Any], tiny: Path) -> None:
    told = command("bench", tiny, "--sample", 1, "--vs", tiny)
    assert (told.code, "--sample times generation" in told.err) == (2, True)
    told = command("bench", tiny, "--sample", 1, "sample.max_new_tokens=0")
    assert (told.code, "there is nothing to time" in told.err) == (2, True)


def test_the_report_has_the_documented_keys(compared: Compared) -> None:
    assert compared.report.keys() == set(TABLE["bench"][1])
