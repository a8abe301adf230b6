"""`nanogpt-kit sweep` and `check` on what a sweep would need: usage, machine, storage, hours. No trial is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nanogpt_kit.cli import main
from nanogpt_kit.core.errors import DONE, FAILED, KitError
from nanogpt_kit.launch import slots
from nanogpt_kit.report.page import NO_FIGURES
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.sweep import preview, session
from nanogpt_kit.sweep.preview import START_SECONDS, RunSpeed
from nanogpt_kit.sweep.study.storage import STORAGE_FORMS, check_storage_form
from nanogpt_kit.sweep.study.summary import sweep_folder
from nanogpt_kit.sweep.work import warnings_at_start
from tests.sweep.planted_sweep import planted_sweep

Command = Callable[..., Any]
USAGE = "Usage: nanogpt-kit sweep [OPTIONS] EXPERIMENT [KEY=VALUE]...\n"
SPACE = '\n[sweep]\n[sweep.space]\n"optimizer.lr" = { float = [1e-3, 1e-2], log = true }\n'


@pytest.fixture
def experiment(tiny: Path) -> Path:
    tiny.write_text(tiny.read_text() + SPACE)
    return tiny


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "available_cores", lambda: [0, 1, 2, 3])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


# Usage


@pytest.mark.parametrize(("values", "code"), [((None, None), FAILED), ((None, 2.4), DONE)])
def test_a_sweep_without_any_value_has_failed(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, values: tuple[float | None, ...], code: int
) -> None:
    monkeypatch.setattr(session, "run_sweep", lambda *_: planted_sweep(values))
    assert typed(str(experiment)).exit_code == code


def typed(*words: str) -> Result:
    return CliRunner().invoke(main, ["sweep", *words], prog_name="nanogpt-kit")


def test_help_shows_the_command_as_it_is_typed() -> None:
    told = typed("--help")
    assert told.output.startswith(USAGE)
    assert "`nanogpt-kit sweep status EXPERIMENT`" in told.output
    assert "sweep run" not in told.output


@pytest.mark.parametrize("words", [(), ("x.toml", "--nope"), ("--workers=0", "x.toml")])
def test_a_mistake_shows_the_same_usage(words: tuple[str, ...]) -> None:
    told = typed(*words)
    assert told.exit_code == 2
    assert told.output.startswith("error: ")
    assert told.output.endswith(USAGE + "Try 'nanogpt-kit sweep --help' for help.\n")


def test_the_usage_of_status_names_it() -> None:
    assert typed("status", "--help").output.startswith("Usage: nanogpt-kit sweep status [OPTIONS] EXPERIMENT")


# What cannot be on this machine


def test_check_tells_too_many_workers_and_a_storage_that_is_none_at_once(
    command: Command, experiment: Path, four_cores: None
) -> None:
    text = experiment.read_text().replace("[sweep]\n", '[sweep]\nworkers = 9\nstorage = "nope"\n')
    experiment.write_text(text.replace("[train]", '[train]\ndevice = "cpu"'))
    lines = experiment.read_text().splitlines()
    told = command("check", experiment)
    assert told.code != 0
    workers, kept = lines.index("workers = 9") + 1, lines.index('storage = "nope"') + 1
    assert f"{experiment}:{workers}: sweep.workers: 9 parallel trials are too many: there are 4 cores" in told.err
    assert f"{experiment}:{kept}: sweep.storage: 'nope' is none of: {STORAGE_FORMS}" in told.err
    assert "command line: sweep.workers: 5 parallel" in command("sweep", experiment, "--workers=5").err
    assert "default: " not in told.err
    assert command("check", experiment, "sweep.workers=4", "sweep.storage=sqlite").code == 0


def test_an_empty_space_is_told_in_our_words(command: Command, experiment: Path) -> None:
    experiment.write_text(experiment.read_text().replace('"optimizer.lr" =', "# 'lr' ="))
    told = command("check", experiment)
    assert "sweep.space: is empty, so there is nothing to vary" in told.err


GOOD = [
    "journal",
    "sqlite",
    "/shared/x.journal",
    "x.journal",
    "sqlite:///x.db",
    "sqlite:////abs/x.db",
    "sqlite+pysqlite:///x.db",
    "postgresql://me:pw@host/x",
    "postgresql+psycopg://me@host:5432/x?sslmode=require",
    "mysql://host/x",
    "mysql+pymysql://me:pw@host/x",
    "grpc://localhost:13000",
]


@pytest.mark.parametrize("named", GOOD)
def test_a_storage_of_a_known_form_passes_without_being_opened(named: str, tmp_path: Path) -> None:
    check_storage_form(named)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("nope", "'nope' is none of: journal, sqlite"),
        ("foo://x", "'foo://x' is none of"),
        ("sqlite://", "'sqlite://' is none of"),
        ("sqlite:///", "'sqlite:///' is none of"),
        ("postgres://me:pass-word@host/x", "'postgres://me:***@host/x' is none of"),
        ("postgresql:/host/x", "is none of"),
        ("grpc://localhost", "'grpc://localhost' should be grpc://HOST:PORT"),
        ("grpc://localhost:port", "should be grpc://HOST:PORT"),
    ],
)
def test_a_storage_of_no_known_form_is_told_without_its_password(named: str, words: str) -> None:
    with pytest.raises(KitError) as caught:
        check_storage_form(named)
    assert str(caught.value).startswith("sweep.storage: ")
    assert words in str(caught.value)
    assert "pass-word" not in str(caught.value)


# How long it would take


def preview_lines(command: Command, experiment: Path, *words: str) -> list[str]:
    told = command("sweep", experiment, "--preview", "train.device=cpu", *words)
    assert told.code == 0, told.err
    lines: list[str] = told.out.splitlines()
    return lines


def foretold(command: Command, experiment: Path, *words: str) -> str:
    told = command("sweep", experiment, "--preview", "train.device=cpu", "sweep.trials=8", *words)
    assert told.code == 0, told.err
    lines: list[str] = told.out.splitlines()
    return next(line for line in lines if line.startswith("about "))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 tokens/s, and so 1.6 s a trial."""
    monkeypatch.setattr(preview, "estimate_speed", lambda *_: RunSpeed(1000.0, "measured", None))


def test_the_starts_of_the_runs_are_counted(command: Command, experiment: Path, measured: None) -> None:
    assert START_SECONDS == 4
    line = foretold(command, experiment)
    assert line.startswith("about 45 s: 13 s of training at 1,000 tokens/s (measured), and 32 s for 8 runs to ")
    assert line.endswith("4 s each; without evaluations")
    line = foretold(command, experiment, "sweep.seeds=2", "sweep.confirm=2", "sweep.confirm_seeds=3")
    assert "for 25 runs to start" in line  # 8 trials with two seeds, 2 and trial 0 with three
    assert line.startswith("about 2 min: 40 s of training")


def test_on_a_cpu_the_speed_of_the_whole_machine_is_not_multiplied(
    command: Command, experiment: Path, measured: None, four_cores: None
) -> None:
    line = foretold(command, experiment, "sweep.workers=4")
    assert line.startswith("about 21 s: 13 s of training at 1,000 tokens/s (measured; 4 parallel runs share the cores")
    assert "and 8 s for 8 runs to start" in line


def test_on_gpus_each_trial_is_as_quick(
    command: Command, experiment: Path, measured: None, four_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "choose_device", lambda _: "cuda")
    monkeypatch.setattr(preview, "allocate_slots", lambda *_: [slots.MachineSlot(number) for number in range(4)])
    line = foretold(command, experiment, "sweep.workers=4")
    assert line.startswith("about 11 s: 3 s of training at 4,000 tokens/s (measured; assuming that each of 4 ")


@pytest.mark.parametrize(("threads", "training"), [("threads = 1", "3 s"), ("", "13 s"), ("threads = 4", "13 s")])
def test_a_past_trial_of_a_slot_of_its_own_says_how_quick_each_is(
    command: Command, experiment: Path, four_cores: None, threads: str, training: str
) -> None:
    run = RunFolder(sweep_folder("tiny") / "trial-0000-s1337")
    run.path.mkdir(parents=True)
    run.experiment.write_text(f"[train]\n{threads}\n")
    run.metrics.write_text('{"step": 1, "train/loss": 2.0, "perf/tokens_per_second": 1000.0}\n')
    line = foretold(command, experiment, "sweep.workers=4")
    assert f": {training} of training at {4000 if training == '3 s' else 1000:,} tokens/s (the median of " in line


def test_a_budget_ends_it_sooner(command: Command, experiment: Path, measured: None) -> None:
    assert foretold(command, experiment, "sweep.max_seconds=6.4").startswith("about 22 s: 6 s of training")


def test_values_are_shown_as_in_the_file(command: Command, tiny: Path, measured: None) -> None:
    tiny.write_text(tiny.read_text() + '\n[sweep.space]\n"model.bias" = { choice = [true, false] }\n')
    (line,) = [line for line in preview_lines(command, tiny) if line.startswith("trial 0, the experiment as written")]
    assert line.endswith(": model.bias = false")


def test_runs_of_limited_seconds_take_no_longer(command: Command, experiment: Path, measured: None) -> None:
    line = foretold(command, experiment, "train.steps=1000000", "train.max_seconds=0.5")
    assert line.startswith("about 36 s: 4 s of training")


def test_a_single_trial_is_not_plural(command: Command, experiment: Path, measured: None) -> None:
    assert preview_lines(command, experiment, "sweep.trials=1")[0].startswith("1 trial, chosen by ")


def test_a_budget_of_seconds_without_room_for_the_confirmation_is_warned_of(
    command: Command, experiment: Path, measured: None
) -> None:
    options = ["sweep.confirm=2", "sweep.confirm_seeds=3"]
    lines = preview_lines(command, experiment, *options, "sweep.max_seconds=12")
    (warning,) = [line for line in lines if line.startswith("warning: sweep.max_seconds")]
    assert warning.endswith("too small for a confirmation: two trials with their fresh seeds need about 13 seconds")
    enough = preview_lines(command, experiment, *options, "sweep.max_seconds=13")
    assert not [line for line in enough if line.startswith("warning: sweep.max_seconds")]


def test_the_runs_of_a_confirmation_are_counted_with_trial_0_and_each_branch(
    command: Command, tiny: Path, measured: None
) -> None:
    rates = '"optimizer.lr" = { float = [1e-3, 1e-2] }\n'
    branches = "".join(f'[sweep.space."optimizer.use".choice.{use}]\n{rates}' for use in ("adamw", "muon"))
    tiny.write_text(f"{tiny.read_text()}\n[sweep]\ntrials = 8\n{branches}")
    lines = preview_lines(command, tiny, "sweep.confirm=2", "sweep.max_tokens=200000")
    start = lines.index("then the best 2, trial 0 and the best of each of 2 branches again, with 3 fresh seeds:")
    tokens = int(lines[start - 1].split()[0].replace(",", "")) // 8
    assert lines[start + 1] == f"  12 runs of 4 trials and {12 * tokens:,} tokens at most", "it was 2 trials, 6 runs"
    assert (
        "no trial starts after sweep.max_tokens = 200,000; the search ends earlier, to leave room for the confirmation"
        in lines
    )
    assert any('sweep.allocate = "equal" gives each branch as many trials' in line for line in lines)
    equal = preview_lines(command, tiny, "sweep.allocate=equal")
    assert "  optimizer.use = muon: 4 trials" in equal
    assert not any(line.startswith("then ") or "gives each branch" in line for line in equal)


def test_a_pruner_that_first_looks_in_the_warm_up_is_warned_of(
    command: Command, experiment: Path, measured: None
) -> None:
    early = ["train.steps=20", "schedule.warmup_steps=5", "evaluate.every_steps=3", "sweep.pruner=asha"]
    lines = preview_lines(command, experiment, *early)
    (warning,) = [line for line in lines if line.startswith("warning: asha may end trials")]
    assert "first look at step 3 (" in warning
    assert "warm-up until step 5; set sweep.min_tokens = " in warning
    tokens = warning.partition("min_tokens = ")[2].partition(",")[0]
    assert not [
        line for line in preview_lines(command, experiment, *early, f"sweep.min_tokens={tokens}") if "warm" in line
    ]


def test_missing_plotly_is_warned_of_before_anything_is_trained(
    command: Command, experiment: Path, measured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("plotly" in line for line in preview_lines(command, experiment))
    monkeypatch.setattr(warnings_at_start, "has_figures", lambda: False)
    assert f"warning: {NO_FIGURES}" in preview_lines(command, experiment)
