"""What a sweep shows and leaves: its table, its best.toml, and what is known of it."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import rich
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from rich.console import Console

from nanogpt_kit.components.mlp import gelu
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.launch.slots import MachineSlot
from nanogpt_kit.runs.metrics import MetricsLog
from nanogpt_kit.sweep.report.best import write_best_experiment
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.confirmation import ConfirmationPlan
from nanogpt_kit.sweep.study.records import TrialResult
from nanogpt_kit.sweep.study.search import SearchPlan
from nanogpt_kit.sweep.study.stored_summary import read_summary
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary
from nanogpt_kit.sweep.study.time_left import seconds_left
from nanogpt_kit.sweep.work.outcome import Outcome
from nanogpt_kit.sweep.work.progress import ProgressDisplay
from nanogpt_kit.sweep.work.status_table import format_config, trials_table
from nanogpt_kit.sweep.work.trial import TrialProcess

BASE = (
    Path(__file__).with_name("base.toml").read_text(encoding="utf-8")
    + r"""
[sample]
prompt = "[b]bold[/b] :smile: \\"
"""
)
MARKUP = "[b]bold[/b] :smile: \\"
PROMPT = r"""
"optimizer.lr" = { float = [1e-4, 1e-2], log = true }
"sample.prompt" = { choice = ["[b]bold[/b] :smile: \\", "[red]", "two\nlines = 3"] }
"""
WRITTEN = {"optimizer.lr": 3e-3, "sample.prompt": MARKUP, "model.mlp": "mine"}


class Scene:
    """A study in a folder, with trials that have ended as the test says."""

    def __init__(self, folder: Path, options: str, table: str, base: str = BASE) -> None:
        (folder / "exp.toml").write_text(f"{base}[sweep]\n{options}\n[sweep.space]\n{table}\n", encoding="utf-8")
        self.space = Space(Experiment.load(folder / "exp.toml", trust_code=True))
        plan = SearchPlan(self.space, {one.key: WRITTEN[one.key] for one in self.space.parameters})
        self.study = Study(plan, InMemoryStorage(), folder / "runs" / "x" / "sweep")
        self.study.folder.mkdir(parents=True)
        self.study.open()
        self.works: list[TrialProcess] = []

    def work(self, study: Study | None = None) -> TrialProcess:
        study = study or self.study
        trial = study.claim()
        assert trial is not None
        lock = study.ownership.trial_lock(trial.number)
        lock.__enter__()
        self.works.append(TrialProcess(study, trial, MachineSlot(0), study.folder, lock))
        return self.works[-1]

    def end(self, value: float | None, cause: str = "", reason: str = "", study: Study | None = None) -> TrialProcess:
        study = study or self.study
        work = self.work(study)
        state = TrialState.COMPLETE if value is not None else TrialState.FAIL if cause == "error" else TrialState.PRUNED
        for run in work.runs:
            run.tokens, run.seconds, run.step, run.value = 9600, 10.0, 20, value
        work.store_result(Outcome(state, cause or "complete", value, reason))
        study.optuna_study.tell(work.trial, value, state)
        return work

    def summary(self) -> SweepSummary:
        return read_summary("x", self.study.options, self.study.storage)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Any]:
    scenes: list[Scene] = []

    def made(options: str = "trials = 4", table: str = PROMPT, base: str = BASE) -> Scene:
        scenes.append(Scene(tmp_path, options, table, base))
        return scenes[-1]

    yield made
    for one in scenes:
        for work in one.works:
            work.release()


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Console:
    found = Console(
        force_terminal=getattr(request, "param", False), file=io.StringIO(), stderr=True, width=220, color_system=None
    )
    monkeypatch.setattr(rich, "_console", found)
    return found


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


terminal = pytest.mark.parametrize("console", [True], indirect=True)


# While it works


def test_in_a_log_there_is_a_line_for_each_beginning_and_end(scene: Any, console: Console) -> None:
    play = scene("trials = 4\nmetric = 'val/[b]x'")
    with ProgressDisplay(play.study, None) as board:
        work = play.work()
        board.trial_started(work)
        board.trials_polled([work])
        board.trial_ended(work, Outcome(TrialState.COMPLETE, "complete", 1.5))
        board.trial_ended(play.work(), Outcome(TrialState.COMPLETE, "complete", 2.5))
        board.trial_ended(play.work(), Outcome(TrialState.FAIL, "error", reason="a [red]bug[/red] :bug:"))
        board.trial_refused("trial 3", "it [b]cannot[/b] be")
    first, *others = shown(console).splitlines()
    assert first == f"trial 0: optimizer.lr=0.003  sample.prompt={MARKUP}"
    assert [line.rpartition("  ")[0] or line for line in others] == [
        "trial 0: val/[b]x 1.5000, the best so far",
        "trial 1: val/[b]x 2.5000 (best 1.5000, trial 0)",
        "trial 2: failed: a [red]bug[/red] :bug:",
        "trial 3: pruned: it [b]cannot[/b] be",
    ]
    assert board.progress_line() == "4 of 4 trials ended, best 1.5000 (trial 0), 0 tokens"


def test_a_run_of_a_comparison_is_not_pruned_but_fails(scene: Any, console: Console) -> None:
    play = scene("trials = 4")
    with ProgressDisplay(play.study, None) as board:
        play.study.plan.ranks_trials = False
        board.trial_ended(play.work(), Outcome(TrialState.PRUNED, "not_finite", reason="the loss is nan"))
        board.trial_refused("trial 1", "it cannot be")
    first, second = shown(console).splitlines()
    assert first.startswith("trial 0: failed: the loss is nan  ")
    assert second == "trial 1: failed: it cannot be"


@terminal
def test_on_a_terminal_a_table_tells_what_is_at_work_with_text_as_it_is(scene: Any, console: Console) -> None:
    play = scene("trials = 4\nmetric = 'val/[b]x'")
    with ProgressDisplay(play.study, None) as board:
        work = play.work()
        board.trial_started(work)
        work.run.step, work.run.value, work.run.tokens_per_second = 7, 2.25, 12345.6
        work.is_pruned = True
        board.trials_polled([work])
        assert "trial 0:" not in shown(console), "a beginning is in the table"
        for words in (f"sample.prompt={MARKUP}", "val/[b]x", "7/20 (stopping)", "2.2500", "12,346", "0 of 4 trials"):
            assert words in shown(console), words
        before = shown(console)
        board.trials_polled([work])
        assert shown(console) == before, "not at each look"
        board.trial_ended(work, Outcome(TrialState.COMPLETE, "complete", 1.5))
    assert f"trial 0: val/[b]x 1.5000, the best so far  optimizer.lr=0.003  sample.prompt={MARKUP}" in shown(console)


def test_from_python_progress_leaves_standard_output_alone(
    scene: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rich, "_console", Console())
    ProgressDisplay(scene().study, None).print_line("trial 3: started")
    assert capsys.readouterr() == ("", "trial 3: started\n")


def test_a_board_goes_on_from_what_is_known(scene: Any, console: Console) -> None:
    play = scene("trials = 4\ndirection = 'maximize'")
    play.end(1.0)
    play.end(2.0)
    with ProgressDisplay(play.study, play.summary().best()) as board:
        assert board.progress_line() == "2 of 4 trials ended, best 2.0000 (trial 1), 19,200 tokens"
        board.trial_ended(play.work(), Outcome(TrialState.COMPLETE, "complete", 1.5))
        board.trial_ended(play.work(), Outcome(TrialState.COMPLETE, "complete", 2.5))
    assert "1.5000 (best 2.0000, trial 1)" in shown(console)
    assert "2.5000, the best so far" in shown(console)


def test_runs_of_a_confirmation_are_named_by_trial_and_seed(scene: Any, console: Console) -> None:
    play = scene("trials = 1\nconfirm = 1\nconfirm_seeds = 2")
    play.end(1.0)
    confirmation = Study(ConfirmationPlan(play.space, play.study.trials), play.study.storage, play.study.folder)
    confirmation.open()
    with ProgressDisplay(confirmation, None) as board:
        work = play.work(confirmation)
        board.trial_started(work)
        board.trial_ended(work, Outcome(TrialState.COMPLETE, "complete", 1.25))
        board.trial_ended(work, Outcome(TrialState.PRUNED, "not_finite", reason="the loss is nan"))
    assert "trial 0 with seed 1338: failed: the loss is nan" in shown(console)
    assert "trial 0 with seed 1338: optimizer.lr=0.003" in shown(console)
    assert "trial 0 with seed 1338: val/loss 1.2500  " in shown(console)
    assert "best" not in shown(console)


@terminal
def test_the_live_table_of_a_confirmation_names_the_trial_and_its_seed_not_the_place_in_the_queue(
    scene: Any, console: Console
) -> None:
    play = scene("trials = 3\nconfirm = 1\nconfirm_seeds = 2", PROMPT.splitlines()[1])
    for value in (3.0, 2.0, 1.0):
        play.end(value)
    confirmation = Study(ConfirmationPlan(play.space, play.study.trials), play.study.storage, play.study.folder)
    confirmation.open()
    with ProgressDisplay(confirmation, None) as board:
        processes = [play.work(confirmation) for _ in range(2)]
        board.trials_polled(processes)
        first, *lines = shown(console).splitlines()
        rows = [line.split()[:3] for line in lines]
        assert "trial  seed  step  val/loss" in first
        named = [(process.row_label, str(process.run.experiment.train.seed)) for process in processes]
        assert named == [("0", "1338"), ("2", "1338")]
        assert rows[:2] == [["0", "1338", "0/20"], ["2", "1338", "0/20"]], "trial 2 was shown as 1, without a seed"
        board.trial_ended(processes[0], Outcome(TrialState.COMPLETE, "complete", 1.25))
        assert board.progress_line().startswith("confirmation: 1 of 4 runs ended, "), "it was '1 of 4 trials ended'"


@terminal
@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_trial_with_several_seeds_shows_which_one_runs_and_the_values_so_far(
    scene: Any, console: Console, width: int
) -> None:
    console.width = width
    play = scene("trials = 4\nseeds = 3", PROMPT.splitlines()[1])
    with ProgressDisplay(play.study, None) as board:
        work = play.work()
        board.trial_started(work)
        work.runs[0].value, work.run_index, work.run.step = 3.1129, 1, 14
        board.trials_polled([work])
        lines = [line.rstrip() for line in shown(console).splitlines()]
        row = next(line for line in lines if "14/20" in line)
        assert row.split()[:5] == ["0", "2", "of", "3", "14/20"]
        assert "3.1129" in shown(console)
        assert "optimizer.lr=0.003" in row
        assert max(map(len, lines)) <= width
        for run, value in zip(work.runs, (3.1129, 3.0963, 3.1782), strict=True):
            run.value = value
        board.trial_ended(work, Outcome(TrialState.COMPLETE, "complete", 3.1291))
    told = " ".join(shown(console).split())
    assert "trial 0: val/loss 3.1291, sd 0.0433 over 3 seeds (3.1129, 3.0963, 3.1782), the best so far" in told


def test_the_time_left_of_a_search_includes_the_runs_of_its_confirmation(scene: Any, console: Console) -> None:
    play = scene("trials = 4\nseeds = 2\nconfirm = 1\nconfirm_seeds = 3", PROMPT.splitlines()[1])
    with ProgressDisplay(play.study, None) as board:
        work = play.work()
        board.trial_started(work)
        board.started_at[work.index] -= 60.0
        board.trial_ended(work, Outcome(TrialState.COMPLETE, "complete", 1.0))
        assert board.seconds_left() == pytest.approx(3 * 60 + 2 * 3 * 30, abs=2), "it was 180 s"
        assert board.progress_line().endswith(", about 6 min left")


def test_a_budget_ends_a_search_sooner(scene: Any, console: Console) -> None:
    play = scene("trials = 4\nmax_seconds = 75", PROMPT.splitlines()[1])
    play.end(1.0)
    with ProgressDisplay(play.study, None) as board:
        work = play.work()
        board.trial_started(work)
        board.started_at[work.index] -= 60.0
        work.run.seconds = 50.0
        board.trial_ended(work, Outcome(TrialState.COMPLETE, "complete", 1.0))
        assert board.seconds_left() == pytest.approx(75 - 10 - 50, abs=2)


def test_the_status_table_has_the_best_first_and_text_as_it_is(scene: Any, console: Console) -> None:
    play = scene("trials = 9\nmetric = 'val/[b]x'")
    play.end(2.0)
    play.end(None, "error", "a [red]bug[/red] :bug:")
    play.end(1.0)
    console.print(trials_table(play.summary()))
    header, *rows = [line.split() for line in shown(console).splitlines()]
    assert header[:4] == ["trial", "state", "val/[b]x", "tokens"]
    assert [row[0] for row in rows] == ["2", "0", "1"]
    assert f"sample.prompt={MARKUP}" in shown(console)
    assert "a [red]bug[/red] :bug:" in shown(console)


def test_a_narrow_terminal_gets_fewer_columns_and_no_divided_word(scene: Any, console: Console) -> None:
    play = scene("trials = 9")
    for value in (2.0, 1.0):
        play.end(value)
    for width, header in {100: "trial state val/loss tokens time values", 56: "trial state val/loss values"}.items():
        console.width = width
        before = len(shown(console))
        console.print(trials_table(play.summary(), width))
        lines = [line.rstrip() for line in shown(console)[before:].splitlines()]
        assert lines[0].split() == header.split()
        whole = {word for trial in play.summary().trials for word in format_config(trial.config).split()}
        assert whole <= {word for line in lines for word in line.split()}
        assert max(map(len, lines)) <= width


def test_on_a_terminal_a_line_about_a_trial_is_wrapped_between_its_values(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = scene("trials = 9")
    narrow = Console(force_terminal=True, file=io.StringIO(), stderr=True, width=44, color_system=None)
    monkeypatch.setattr(rich, "get_console", lambda: narrow)
    ProgressDisplay(play.study, None).print_line("trial 3: val/loss 2.8182  optimizer.lr=0.009322  model.mlp=gelu")
    assert shown(narrow) == "trial 3: val/loss 2.8182\n    optimizer.lr=0.009322  model.mlp=gelu\n"


# What is known of it


def rows(*values: float | None) -> tuple[TrialSummary, ...]:
    return tuple(
        TrialSummary(number, "complete" if value is not None else "failed", {}, {}, value)
        for number, value in enumerate(values)
    )


@pytest.mark.parametrize(
    ("direction", "values", "best"),
    [
        ("minimize", (3.0, 1.0, 2.0), 1),
        ("maximize", (3.0, 1.0, 2.0), 0),
        ("minimize", (1.0, 1.0), 0),
        ("maximize", (-1.0, 0.0, None), 1),
        ("minimize", (None, None), None),
        ("minimize", (), None),
        ("minimize", (0.0, 1.0), 0),
    ],
)
def test_the_best_is_that_of_the_metric(scene: Any, direction: str, values: Any, best: int | None) -> None:
    options = scene().study.options.model_copy(update={"direction": direction})
    found = SweepSummary("x", options, 3, rows(*values)).best()
    assert (found and found.index) == best


def test_the_time_left_counts_what_waits_and_the_rest_of_what_is_at_work(scene: Any) -> None:
    options = scene().study.options.model_copy(update={"workers": 2})
    whole = SweepSummary("x", options, 6, rows())
    assert seconds_left(whole) is None
    ended = [dataclasses.replace(row, seconds=seconds) for row, seconds in zip(rows(1.0, 2.0), (10, 30), strict=True)]
    at_work = [TrialSummary(2, "running", {}, {}, seconds=5.0), TrialSummary(3, "interrupted", {}, {}, seconds=50.0)]
    assert seconds_left(dataclasses.replace(whole, trials=tuple(ended))) == 4 * 20 / 2
    assert seconds_left(dataclasses.replace(whole, trials=(*ended, *at_work))) == (2 * 20 + 15) / 2
    assert seconds_left(dataclasses.replace(whole, trials=tuple(ended), count=2)) == 0
    failed = TrialSummary(2, "failed", {}, {}, seconds=1.0)
    assert seconds_left(dataclasses.replace(whole, trials=(*ended, failed), count=4)) == 10


def test_a_summary_reads_how_far_the_trials_at_work_are(scene: Any) -> None:
    play = scene("trials = 5\nseeds = 2")
    play.end(1.0)
    play.end(None, "oom", "no room")
    first, second = play.work(), play.work()
    for number, run in enumerate(first.runs):
        run.folder.path.mkdir()
        run.folder.set_status("running")
        MetricsLog(run.folder.metrics).write({"step": 10 - number, "tokens": 4800, "seconds": 2.5, "train/loss": 1.0})
    with first.run.folder.lock():
        found = play.summary()
    counts = {"complete": 1, "pruned": 1, "failed": 0, "running": 2, "interrupted": 0, "waiting": 1}
    assert found.counts() == counts
    assert (found.trials[2].step, found.trials[2].tokens, found.trials[2].seconds) == (9, 9600, 5.0)
    assert (found.trials[3].state, found.trials[3].tokens) == ("running", 0), "it has made no folder yet"
    assert play.summary().trials[2].state == "interrupted"
    assert found.tokens == 2 * 2 * 9600 + 9600
    assert found.trials[0].values == (1.0, 1.0)
    assert (found.trials[1].cause, found.trials[1].reason) == ("oom", "no room")
    assert second.index == 3
    second.lock.__exit__(None, None, None)
    assert play.summary().trials[3].state == "interrupted", "its controller has ended"


def test_what_is_no_sweep_has_no_summary(scene: Any) -> None:
    play = scene()
    options, storage = play.study.options, InMemoryStorage()
    with pytest.raises(KitError, match="no sweep of the experiment 'x' has begun in this storage"):
        read_summary("x", options, storage)
    optuna.create_study(study_name="x", storage=storage)
    with pytest.raises(KitError, match=r"study 'x' .* is not a sweep"):
        read_summary("x", options, storage)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("experiment", None),
        ("experiment", {"train": {}}),
        ("trial_tokens", "many"),
        ("space", [1]),
        ("count", "\x1b[2J"),
    ],
)
def test_a_study_that_holds_something_else_is_named(scene: Any, attribute: str, value: Any) -> None:
    play = scene()
    play.end(1.0)
    assert play.summary().count
    play.study.optuna_study.set_user_attr(attribute, value)
    with pytest.raises(KitError, match="study 'x'"):
        play.summary()


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("result", {"cause": "complete", "tokens": "many"}),
        ("result", {"cause": "complete", "reason": 1}),
        ("result", {"cause": "complete", "seconds": None}),
        ("result", {"cause": "complete", "values": {"a": "b"}}),
        ("result", {"cause": []}),
        ("result", {"cause": "complete", "format": 2}),
        ("result", "complete"),
        ("owner", {"folder": ["x"], "folder_id": "y", "seen": 1.0}),
    ],
)
def test_a_trial_that_says_something_else_is_no_traceback(scene: Any, attribute: str, value: Any) -> None:
    play = scene("trials = 5")
    play.end(1.0)
    play.work().trial.set_user_attr(attribute, value)
    with pytest.raises(KitError, match=f"trial 1 .*{attribute}"):
        play.summary()


def test_what_a_study_says_steers_no_terminal(scene: Any, console: Console) -> None:
    play = scene("trials = 5")
    play.end(None, "error", "\x1b]0;title\x07 [red]\x9b2J\u202e")
    console.print(trials_table(play.summary()))
    text = shown(console)
    assert "[red]" in text
    assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}


# best.toml


def test_best_toml_names_the_sweeps_copy_of_a_local_component_and_loads(scene: Any, tmp_path: Path) -> None:
    code = Path(gelu.__file__).read_text().replace("class GELU", "class Mine")
    (tmp_path / "mine.py").write_text(code)
    base = 'components = ["mine.py"]\n' + BASE.replace("n_layer = 2", 'n_layer = 2\nmlp = "mine"')
    play = scene("trials = 2", '"model.mlp" = { choice = ["mine", "relu2"] }\n' + PROMPT, base)
    play.end(1.0)
    write_best_experiment(play.study, play.summary())
    (tmp_path / "mine.py").unlink()
    moved = tmp_path / "elsewhere"
    play.study.folder.rename(moved)
    best = Experiment.load(moved / "best.toml")
    assert [os.path.realpath(path) for path in best.component_files] == [
        os.path.realpath(moved / "trials" / "components" / "mine.py")
    ]
    assert best.sweep is None
    assert best.model.block_size == 16


def test_best_toml_is_toml_whatever_the_values_are_and_says_where_it_comes_from(scene: Any) -> None:
    play = scene("trials = 9\nseeds = 2")
    play.end(5.0)
    fixed = {"optimizer.lr": 0.0002, "sample.prompt": "two\nlines = 3"}
    play.study.storage.set_trial_system_attr(play.study.trials()[1]._trial_id, "fixed_params", fixed)
    work = play.work()
    TrialResult(cause="complete", threads=3, values=(1.0, 1.5)).store(work.trial)
    play.study.optuna_study.tell(work.trial, 1.25)
    write_best_experiment(play.study, play.summary())
    best = Experiment.load(play.study.folder / "best.toml")
    assert best.sample.prompt == "two\nlines = 3"
    assert (best.optimizer.lr, best.train.threads) == (0.0002, 3)
    text = (play.study.folder / "best.toml").read_text()
    assert "# The best of 2 trials of the sweep 'x': trial 1.\n" in text
    assert "# val/loss 1.25, the mean of 2 seeds; the first one, which this file has, gave 1\n" in text
    assert '# optimizer.lr = 0.0002\n# sample.prompt = "two\\nlines = 3"\n' in text


def test_without_a_complete_trial_there_is_no_best_toml(scene: Any) -> None:
    play = scene()
    play.end(None, "error", "a bug")
    write_best_experiment(play.study, play.summary())
    assert not (play.study.folder / "best.toml").exists()
