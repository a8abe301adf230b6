"""A run is found by its folder, its id or its experiment's name, with @best and @STEP."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder, runs_root
from nanogpt_kit.runs.status import Best
from tests.runs.listed_runs import make_listed_run
from tests.runs.made_runs import losses, make_run


@pytest.fixture(autouse=True)
def in_the_folder_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(reference: str | os.PathLike[str], step: int | None = None) -> str:
    with pytest.raises(KitError) as caught:
        find_run(reference, step)
    return str(caught.value)


# --- folders, ids and names -------------------------------------------------------------------------------------


def test_a_run_id_alone_names_its_run() -> None:
    runs = [make_run("tiny"), make_run("other"), make_run("tiny")]
    for run in runs:
        found = find_run(run.path.name)
        assert (found.folder, found.step, found.runs) == (run, None, ())


def test_a_renamed_run_folder_is_found_by_its_own_name() -> None:
    run = make_run("tiny")
    run.path.rename(run.path.with_name("my-best"))
    assert find_run("my-best").folder.path == run.path.with_name("my-best")
    assert find_run("my-best@20").step == 20


def test_a_run_folder_object_names_its_run() -> None:
    run = make_run()
    assert find_run(run).folder == run
    assert find_run(run.path).folder == run
    assert (os.fspath(run), repr(run)) == (str(run.path), f"RunFolder({str(run.path)!r})")


def test_an_id_of_two_experiments_is_refused_with_both_folders() -> None:
    run = make_run("tiny")
    shutil.copytree(run.path, runs_root() / "copy" / run.path.name)
    told = refusal(run.path.name)
    assert f"{runs_root() / 'copy' / run.path.name} and {run.path}" in told
    assert find_run(f"copy/{run.path.name}").folder.path == runs_root() / "copy" / run.path.name


def test_the_runs_of_a_sweep_do_not_count_among_those_of_its_experiment() -> None:
    run, trial = make_run("tiny"), make_run("trials", evaluations=losses(s20=1.0))
    folder = runs_root() / "tiny" / "sweep" / "trial-0001-s7"
    folder.parent.mkdir()
    trial.path.rename(folder)
    assert find_run("tiny").runs == (run,)
    assert find_run("tiny/sweep@best").folder.path == folder


def test_an_experiment_stands_for_its_newest_finished_run() -> None:
    make_run()
    finished = make_run()
    unfinished = [make_run(state=state, steps=[4]) for state in ("interrupted", "failed", "running")]
    found = find_run("tiny")
    assert found.folder == finished
    assert found.runs[2:] == tuple(unfinished)


def test_without_a_finished_run_it_is_the_newest_with_a_checkpoint_and_else_the_newest() -> None:
    first, second = make_run(state="failed", steps=[]), make_run(state="failed", steps=[])
    assert find_run("tiny").folder == second
    saved = make_run(state="interrupted", steps=[4])
    make_run(state="interrupted", steps=[])
    assert find_run("tiny").folder == saved
    first.set_status("finished")  # its checkpoints were removed
    assert find_run("tiny").folder == saved


def test_an_imported_run_counts_as_finished() -> None:
    imported = make_run("gpt2", steps=[0], total_steps=0, data=None, imported=True)
    make_run("gpt2", state="interrupted", steps=[4])
    assert find_run("gpt2").folder == imported
    assert find_run(imported).described() == f"run {Path('runs/gpt2', imported.path.name)}: imported"


# --- @STEP and @best --------------------------------------------------------------------------------------------


def test_a_step_is_named_behind_any_reference_or_by_an_option() -> None:
    run = make_run(steps=[10, 20])
    for name in ("tiny", run.path.name, str(run.path), f"tiny/{run.path.name}", "runs/tiny"):
        assert (find_run(f"{name}@10").folder.path.absolute(), find_run(f"{name}@10").step) == (run.path, 10)
        assert find_run(name, 10).step == find_run(f"{name}@10", 10).step == 10
    assert "has no checkpoint of step 7; there are: 10, 20" in refusal("tiny@7")
    assert "has no checkpoint of step 7; there are: 10, 20" in refusal("tiny", 7)
    assert refusal("tiny@10", 20) == "'tiny@10' names step 10, and step 20 is requested, too; give one of them"


def test_the_best_run_of_an_experiment_has_the_lowest_last_loss() -> None:
    make_run(evaluations=losses(s10=1.0, s20=4.5))  # its last loss counts, not its lowest
    best = make_run(evaluations=losses(s10=5.0, s20=4.25), steps=[10, 20])
    make_run(evaluations=losses(s20=4.75))
    make_run()  # never evaluated
    found = find_run("tiny@best")
    assert (found.folder, found.step) == (best, None)
    assert (find_run("tiny@best@10").folder, find_run("tiny@best@10").step) == (best, 10)
    assert find_run("runs/tiny@best").folder.path.absolute() == best.path


def test_without_an_evaluated_run_none_is_the_best() -> None:
    runs = [make_run(), make_run(evaluations=losses(s20=4.0), steps=[])]
    told = refusal("tiny@best")
    assert told.startswith("no run of tiny has a checkpoint and a val/loss; name one of its runs: ")
    assert told.endswith(f"{runs[1].path.name}, {runs[0].path.name}")


def test_the_best_of_a_single_run_is_the_checkpoint_that_keep_best_has_kept() -> None:
    run = make_run(steps=[10, 20], best=Best(step=10, value=4.0))
    for name in (run.path.name, str(run.path)):
        assert find_run(f"{name}@best").step == 10
    assert "is a single run: @best and a step exclude each other" in refusal(f"{run.path.name}@best@10")
    shutil.rmtree(run.checkpoint(10))
    assert f"{run}: its best checkpoint, of step 10, was removed; there are: 20" in refusal(f"{run}@best")
    without = make_run(steps=[10, 20])
    told = refusal(f"{without}@best")
    assert f"{without} has no record of its best checkpoint" in told
    assert "checkpoint.keep_best" in told
    assert told.endswith("there are: 10, 20")


@pytest.mark.parametrize("name", ["tiny@best", "tiny@5", "tiny@best@20", "@best", "@20"])
def test_a_folder_whose_name_has_such_an_ending_is_that_folder(name: str) -> None:
    make_run("tiny", evaluations=losses(s20=4.0), steps=[5, 20])
    run = make_run(name)
    assert find_run(name).folder == run
    assert (find_run(f"{name}@20").folder, find_run(f"{name}@20").step) == (run, 20)
    run.path.rename("here")
    Path("here").rename(name)
    assert find_run(name).folder.path == Path(name)


# --- what is not found ------------------------------------------------------------------------------------------


def test_an_unknown_name_gets_the_nearest_experiment_or_run() -> None:
    assert "There are no runs yet." in refusal("tinny")
    run = make_run("tiny")
    make_run("owt-gpt2")
    told = refusal("tinny")
    assert told.startswith(f"no run 'tinny', and no experiment of that name has runs in {runs_root()}/; ")
    assert "did you mean 'tiny'? Runs here: owt-gpt2, tiny." in told
    assert f"did you mean {run.path.name!r}?" in refusal(run.path.name[:-1])
    assert "A name may be followed by @best or @STEP, as in tiny@best and tiny@500." in refusal("tiny@bset")


@pytest.mark.parametrize("name", ["gpt2-medium", "gpt2-meduim", "openai-community/gpt2-medium"])
def test_the_name_of_a_published_model_gets_the_command_that_imports_it(name: str) -> None:
    assert "`nanogpt-kit import gpt2-medium` downloads the published model" in refusal(name)


def test_an_experiment_without_runs_gets_the_command_that_trains_it() -> None:
    Path("mine.toml").write_text('name = "tiny"\n[model]')
    for name in ("mine", "mine.toml", "quickstart"):
        assert f"{name} is an experiment; `nanogpt-kit run {name}` trains it." in refusal(name)
    assert "`nanogpt-kit run quickstart` trains it." in refusal("quickstart@best@500")
    make_run("tiny")
    assert "mine is an experiment; its runs have the name tiny. Runs here: tiny." in refusal("mine@best")
    Path("mine.toml").write_text('name = ["tiny"]\n[model]')
    assert "mine is an experiment; `nanogpt-kit run mine` trains it." in refusal("mine")
    Path("mine.toml").write_text("name =")
    assert "experiment;" not in refusal("mine")


def test_many_experiments_are_listed_in_part() -> None:
    for number in range(23):
        make_run(f"e{number:02d}", steps=[])
    assert "e18, e19 and 3 more." in refusal("nothing like it")


def test_a_name_that_controls_the_terminal_is_shown_escaped() -> None:
    run = make_run("tiny", evaluations=losses(s20=4.0))
    strange = run.path.with_name("a\nb\x1b[31m")
    run.path.rename(strange)
    make_run("tiny")
    assert "\n" not in refusal("nobody")
    found = find_run(RunFolder(strange))
    assert found.described() == r"run runs/tiny/a\nb\u001b[31m: step 20 of 20, val/loss 4.0000"
    shutil.copytree(strange, runs_root() / "copy" / strange.name)
    assert "\n" not in refusal(strange.name)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a\0b", "x" * 5000, "@", "@@", "nobody@99999999999999999999"])
def test_any_other_text_is_refused_in_a_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run()
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "deeper")
    assert refusal(name).startswith("no run ")


def test_a_trial_and_an_arm_are_found_by_the_names_of_their_folders() -> None:
    trial = make_listed_run("tiny/sweep/trial-0002-s7")
    assert find_run("trial-0002-s7").folder == trial
    assert find_run("tiny/sweep/trial-0002-s7").folder == trial
    for name in ("wide", "mine"):
        make_listed_run(f"{name}/sweep/trial-0002-s7")
    with pytest.raises(KitError, match=r"is the name of 3 runs: .*mine/sweep.*tiny/sweep.*wide/sweep.*by its folder"):
        find_run("trial-0002-s7")
