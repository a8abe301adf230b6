"""What a run shows: its summary, a line that fits the terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import rich
from rich.console import Console as RichConsole
from rich.text import Text

from nanogpt_kit.components.callback.console import Console, PlainDisplay, TerminalDisplay
from nanogpt_kit.components.callback.run_display import ExponentialMean, RunDisplay, format_seconds

SUMMARY = {
    "device": "cpu, 2 threads",
    "data": "text as byte tokens: 11,989,244 train, 129,991 val",
    "folder": "runs/quickstart/20261128-125635898-s1337-6fb559",
}
METRICS = {"val/loss": 1.44184, "val/bits_per_byte": 2.08041}
Show = Callable[..., RichConsole]


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Show:
    """`console(80)`: a terminal of that width; `console()`: a pipe. Displays print there from then on."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def make(width: int | None = None) -> RichConsole:
        made = RichConsole(file=io.StringIO(), width=width, force_terminal=width is not None)
        monkeypatch.setattr(rich, "get_console", lambda: made)
        return made

    return make


def make_run(**options: Any) -> Any:
    train = SimpleNamespace(max_seconds=None)
    run = {"first_step": 0, "total_steps": 1_500, "summary": SUMMARY, "references": {"gzip -9": 2.151, "xz -9": 1.928}}
    every = SimpleNamespace(every_steps=500)
    experiment = SimpleNamespace(train=train, evaluate=every, tokens=lambda steps: 1_000 * steps)
    return SimpleNamespace(**{**run, "experiment": experiment, **options})


def log(display: RunDisplay, step: int, loss: float = 2.0, speed: float = 10_000.0, seconds: float = 1.0) -> None:
    metrics = {"train/loss": loss, "perf/tokens_per_second": speed, "seconds": seconds}
    display.logged(step=step, metrics=metrics)


def written(console: RichConsole) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_summary_is_aligned_and_never_wrapped_in_a_pipe(console: Show) -> None:
    shown = console()
    PlainDisplay(make_run(), 10, 5.0).print_summary(SUMMARY)
    assert written(shown) == (
        "device  cpu, 2 threads\n"
        "data    text as byte tokens: 11,989,244 train, 129,991 val\n"
        "folder  runs/quickstart/20261128-125635898-s1337-6fb559\n"
    )


def test_the_summary_is_wrapped_below_itself_on_a_terminal(console: Show) -> None:
    shown = console(50)
    TerminalDisplay(make_run(), 10).print_summary(SUMMARY)
    lines = [line.rstrip() for line in written(shown).splitlines()]
    assert lines[:3] == [
        "device  cpu, 2 threads",
        "data    text as byte tokens: 11,989,244 train,",
        "        129,991 val",
    ]
    assert "".join(line.strip() for line in lines[3:]) == f"folder  {SUMMARY['folder']}", "a path may be divided"


@pytest.mark.parametrize("width", [None, 60, 160])
def test_numbers_are_not_coloured(console: Show, width: int | None) -> None:
    shown = console(width)
    display: Any = Console().build(make_run())
    display.evaluated(run=make_run(), step=1500, metrics=METRICS)
    assert "\x1b" not in written(shown)
    line = "evaluated at step 1500: val/loss 1.4418 val/bits_per_byte 2.0804"
    assert " ".join(written(shown).split()) == f"{line} (gzip -9: 2.151, xz -9: 1.928 bits per byte)"


def test_an_evaluation_is_wrapped_between_its_metrics(console: Show) -> None:
    shown = console(60)
    TerminalDisplay(make_run(), 10).evaluated(run=make_run(), step=1500, metrics=METRICS)
    assert [line.rstrip() for line in written(shown).splitlines()] == [
        "evaluated at step 1500:  val/loss 1.4418",
        "    val/bits_per_byte 2.0804",
        "    (gzip -9: 2.151, xz -9: 1.928 bits per byte)",
    ]


LINES = {  # by the width of the terminal; B is the bar
    40: "step 730/1500 loss 1.5123  1:17 left",
    60: "step 730/1500 B loss 1.5123  val/loss 1.6012  1:17 left",
    80: "step 730/1500 B loss 1.5123  val/loss 1.6012  2:05 elapsed  1:17 left",
    160: "step 730/1500 B loss 1.5123  val/loss 1.6012  10,000 tokens/s  2:05 elapsed  1:17 left",
}


@pytest.mark.parametrize("width", LINES)
def test_the_line_shows_what_fits_the_terminal(console: Show, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    shown = console(width)
    display = TerminalDisplay(make_run(), 10)
    display.step, display.activity, display.val_loss = 730, "", 1.6012
    display.loss.add(1.5123)
    display.speed.add(10_000.0)
    display.logged_count = 2
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    display.began = now - 125
    shown.print(display)
    plain = Text.from_ansi(written(shown)).plain.rstrip()
    assert len(plain) <= width, "a single line"
    bar = "".join(char for char in plain if char in "━╸╺")
    assert len(bar) == min(40, width - len(LINES[width]) - 1 + len("B")) if bar else width == 40
    assert plain == LINES[width].replace("B", bar)


def test_while_a_model_is_evaluated_or_generates_the_line_says_so(console: Show) -> None:
    console(80)
    display = TerminalDisplay(make_run(), 10)
    assert display.fields()["now"] == "starting"
    display.step_finished(step=1)
    assert "now" not in display.fields(), "nothing is known yet"
    log(display, 1)
    log(display, 10)
    assert display.fields()["now"] == "2:29 left"
    for purpose, shown in {"evaluation": "evaluating", "sampling": "generating samples"}.items():
        display.evaluation_started(purpose=purpose)
        assert display.fields()["now"] == shown
        display.evaluation_ended()
        assert display.fields()["now"] == "2:29 left"
    display.run_finished(status="interrupted")
    assert "now" not in display.fields(), "nothing is left of a run that has ended"


def test_the_loss_is_an_exponential_mean_of_logged_steps() -> None:
    mean = ExponentialMean(3)
    assert mean.value is None
    for value in (1.0, 2.0, 3.0):
        mean.add(value)
    assert mean.value == pytest.approx((3 / 2 + 2 / 4 + 1 / 8) / (1 / 2 + 1 / 4 + 1 / 8))
    last = ExponentialMean(1)
    last.add(5.0)
    last.add(7.0)
    assert last.value == 7.0


def test_a_step_in_which_no_token_counts_is_left_out_of_the_shown_loss(console: Show) -> None:
    console()
    display = PlainDisplay(make_run(), 10, 0.0)
    log(display, 1, loss=2.0)
    nothing = {"train/loss": 0.0, "train/counted_fraction": 0.0, "perf/tokens_per_second": 1.0, "seconds": 1.0}
    display.logged(step=2, metrics=nothing)
    assert display.loss.value == 2.0


def test_what_is_left_counts_evaluations_and_max_seconds_and_forgets_the_first_step(console: Show) -> None:
    console()
    run = make_run()
    display = PlainDisplay(run, 10, 1e9)
    assert display.seconds_left() is None
    log(display, 1, speed=10.0)
    assert display.seconds_left() is None
    log(display, 100)
    assert display.seconds_left() == pytest.approx(140.0), "1,400 steps of a tenth of a second"
    display.evaluation_seconds = 7.0
    assert display.seconds_left() == pytest.approx(161.0), "three evaluations follow: at 500, 1000 and 1500"
    run.experiment.evaluate.every_steps = 400
    assert display.seconds_left() == pytest.approx(168.0), "at 400, 800, 1200 and after the last step"
    run.experiment.train.max_seconds = 31.0
    assert display.seconds_left() == pytest.approx(37.0), "300 steps in the 30 s that remain, and one evaluation"
    run.experiment.train.max_seconds = None
    run.experiment.tokens = lambda steps: 1_000 * steps + 500 * max(0, steps - 800)
    assert display.seconds_left() == pytest.approx(203.0), "of the 1,400 steps half have half as many tokens more"
    assert [format_seconds(x) for x in (0.9, 61, 3_725)] == ["0:00", "1:01", "1:02:05"]


def test_the_bar_is_that_of_steps_or_of_max_seconds(console: Show) -> None:
    console()
    run = make_run()
    display = PlainDisplay(run, 10, 1e9)
    log(display, 300, seconds=30.0)
    assert display.fraction() == 0.2
    run.experiment.train.max_seconds = 40.0
    assert display.fraction() == 0.75
    log(display, 1_500, seconds=41.0)
    assert display.fraction() == 1.0


def test_plain_lines_come_every_few_seconds_and_at_the_end(console: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = console()
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    display = PlainDisplay(make_run(summary={}), 1, 5.0)
    display.run_started(run=make_run(summary={}))
    display.timer.cancel()
    for step, now in [(1, 101.0), (500, 105.9), (501, 106.0), (1_499, 110.9), (1_500, 110.9)]:  # noqa: B007
        log(display, step, loss=step / 1_000)
        display.step_finished(step=step)
    display.evaluation_started(purpose="evaluation")
    display.evaluation_ended()
    assert written(shown).splitlines() == [
        "step 1/1500  loss 0.0010  10,000 tokens/s  0:01 elapsed",
        "step 501/1500  loss 0.5010  10,000 tokens/s  0:06 elapsed  1:39 left",
        "step 1500/1500  loss 1.5000  10,000 tokens/s  0:10 elapsed",
    ]


def test_a_long_evaluation_is_a_plain_line_and_a_short_one_is_none(console: Show) -> None:
    shown = console()
    slow, fast = (PlainDisplay(make_run(), 1, seconds) for seconds in (0.01, 60.0))
    for display in (slow, fast):
        display.step_finished(step=12)
        display.evaluation_started(purpose="evaluation")
    slow.timer.join(timeout=10)
    for display in (slow, fast):
        display.evaluation_ended()
        display.run_finished(status="finished")
    assert written(shown) == "evaluating at step 12\n"


def test_a_terminal_that_cannot_be_drawn_on_gets_plain_lines(console: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    console(80)
    assert isinstance(Console().build(make_run()), TerminalDisplay)
    monkeypatch.setenv("TERM", "dumb")
    console(80)
    assert isinstance(Console().build(make_run()), PlainDisplay)
    monkeypatch.setenv("TERM", "xterm")
    console()
    assert isinstance(Console().build(make_run()), PlainDisplay)
