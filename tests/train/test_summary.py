"""What a run reports before its first step."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nanogpt_kit.components.callback.console import PlainDisplay
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train import session
from nanogpt_kit.train.cores import CoreAllocation
from nanogpt_kit.train.summary import describe_device

OPTIONS = ("callback=['console']", "sample.num_samples=0", "train.steps=2", "train.compile=off", "schedule=constant")


@pytest.fixture
def summaries(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, str]]:
    """Those that runs print."""
    printed: list[Mapping[str, str]] = []
    monkeypatch.setattr(PlainDisplay, "print_summary", lambda self, summary: printed.append(summary))
    return printed


def train(tiny: Path, *overrides: str, **options: Any) -> RunFolder:
    return session.run(Experiment.load(tiny, [*OPTIONS, *overrides]), **options)


def test_the_summary_of_a_run_is_exact(tiny: Path, summaries: list[Mapping[str, str]]) -> None:
    folder = train(tiny)
    assert summaries == [
        {
            "device": "cpu, 1 thread",
            "precision": "fp32",
            "model": "gpt, 22,008 parameters, 2 layers x 24, context 16",
            "data": "text as byte tokens: 12,653 train, 1,407 val",
            "compile": "off",
            "folder": str(folder),
        }
    ]


def test_it_says_where_a_run_starts(tiny: Path, summaries: list[Mapping[str, str]]) -> None:
    first = train(tiny)
    train(tiny, "train.steps=5", resume=str(first.path))
    train(tiny, f"model.init_from={first.path}")
    assert [summary.get("start") for summary in summaries] == [
        None,
        "resumes at step 2 of 5",
        f"from {first.path}, step 5",
    ]


def test_after_a_run_that_differs_in_its_seed_only_the_folder_is_named(
    tiny: Path, summaries: list[Mapping[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "nanogpt_kit.train.summary")
    folder = train(tiny, brief=True)
    assert summaries == [{"folder": str(folder)}]
    assert not caplog.records, "its reasons are those of the other run"


def test_reasons_are_logged_at_the_level_debug(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "nanogpt_kit.train.summary")
    train(tiny, "callback=[]", "train.precision=bf16")
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "precision bf16",
        "model.attention",
        "compile off",
    ]
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


@pytest.mark.parametrize(
    ("device", "world_size", "cores", "line"),
    [
        ("cpu", 1, (2, 3), "cpu, 6 threads"),
        ("cpu", 4, (1, 1), "cpu, 4 processes of 1 thread"),
        ("cuda", 1, (1, 5), "NVIDIA H100"),
        ("cuda", 8, (1, 5), "NVIDIA H100, 8 processes"),
        ("mps", 1, (1, 5), "mps"),
    ],
)
def test_the_device_is_named_with_its_threads_and_processes(
    monkeypatch: pytest.MonkeyPatch, device: str, world_size: int, cores: tuple[int, int], line: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    ctx = RunContext(device=device, precision="bf16", world_size=world_size, splits=("train", "val"), block_size=16)
    setup: Any = SimpleNamespace(placement=SimpleNamespace(ctx=ctx), cores=CoreAllocation(*cores, unsplit_threads=1))
    assert describe_device(setup) == line
