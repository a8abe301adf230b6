"""`report`: what each argument is taken as, where the file goes, and the sentences for mistakes."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from nanogpt_kit.cli.report_target import find_targets
from nanogpt_kit.cli.report_verdict import verdict_command
from nanogpt_kit.comparison.comparison import make_comparison
from nanogpt_kit.comparison.ledger import record_path
from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.report.page import NO_FIGURES
from nanogpt_kit.runs.folder import RunFolder, runs_root
from nanogpt_kit.train import session
from tests.comparison.made_arms import make_arm_run, make_question, measure_arms
from tests.report.test_run_page import without_plotly as without_plotly  # a fixture
from tests.runs.listed_runs import make_listed_run
from tests.sweep.test_stored_sweep import stored

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_plotly: None) -> Path:
    """The current folder, as users have it: runs/ is below it. Pages have no figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOGPT_KIT_RUNS", "runs")
    return tmp_path


@pytest.fixture
def comparison(tiny: Path) -> Comparison:
    question = make_question(tiny, "model.mlp=swiglu", kind="ablate")
    return make_comparison(question, measure_arms(question, [{1: 2.5, 2: 2.625}, {1: 2.25, 2: 2.5}]), "nanogpt-kit")


def experiment_with(table: str, name: str = "tiny") -> None:
    values = {"name": name, "model": {"use": "gpt"}, table: {"vary" if table == "ablate" else "space": {}}}
    Path(f"{name}.toml").write_text(tomli_w.dumps(values), encoding="utf-8")


def written(answer: Any) -> str:
    """The content of the file whose path a successful command has printed, and nothing else."""
    assert answer.code == 0, answer.err
    return Path(answer.out.removesuffix("\n")).read_text(encoding="utf-8")


# Targets


def test_a_trained_run_is_reported_whole(tiny: Path, command: Command) -> None:
    run = session.run(Experiment.load(tiny, ["train.steps=3", "sample.max_new_tokens=8"]))
    answer = command("report", "tiny")
    page = written(answer)
    assert answer.out == f"runs/tiny/{run.path.name}/report.html\n"
    assert f"run runs/tiny/{run.path.name}: step 3 of 3, val/loss" in answer.err
    assert NO_FIGURES in answer.err
    for part in (">Evaluations<", ">Configuration<", ">Samples<", ">Provenance<", "Finished: 3 steps"):
        assert part in page
    assert page.index("<p>val/loss") < page.index('">Evaluations</h2>')


@pytest.mark.parametrize("word", ["a", "tiny/a", "runs/tiny/a", "runs/tiny/a/", "runs/tiny/a/experiment.toml"])
def test_a_run_is_named_as_everywhere(word: str, command: Command) -> None:
    make_listed_run("tiny/a")
    assert command("report", word).out == "runs/tiny/a/report.html\n"


def test_the_runs_of_a_trial_are_named_by_their_common_beginning() -> None:
    for seed in (7, 8):
        make_listed_run(f"tiny/sweep/trial-0003-s{seed}")
    found = find_targets("runs/tiny/sweep/trial-0003")
    assert [target.folder.name for target in found] == ["trial-0003-s7", "trial-0003-s8"]


def test_a_comparison_is_named_by_folder_file_id_or_beginning(comparison: Comparison) -> None:
    folder = record_path(comparison).parent
    for word in (folder, folder / "comparison.json", comparison.id, comparison.id[:5]):
        [target] = find_targets(str(word))
        assert (target.kind, os.path.abspath(target.folder)) == ("comparison", os.path.abspath(folder))
        assert target.meaning == f"ablation runs/tiny/ablate/{comparison.id}"


def test_a_comparison_is_reported(comparison: Comparison, command: Command) -> None:
    answer = command("report", comparison.id)
    assert "model.mlp=swiglu" in written(answer)
    assert answer.out == f"runs/tiny/ablate/{comparison.id}/report.html\n"


def test_a_sweep_is_named_by_experiment_file_or_folder(command: Command) -> None:
    stored(Path("runs/tiny/sweep"), name="tiny")
    experiment_with("sweep")
    for word in ("tiny", "tiny.toml", "runs/tiny", "runs/tiny/sweep", "runs/tiny/sweep/sweep.json"):
        answer = command("report", word)
        assert "Sweep of tiny" in written(answer)
        assert answer.out == "runs/tiny/sweep/report.html\n"
        assert "sweep runs/tiny/sweep" in answer.err


def test_a_report_of_trials_does_not_take_the_place_of_that_of_their_sweep(command: Command) -> None:
    stored(Path("runs/tiny/sweep"), name="tiny")
    trials = [make_listed_run(f"tiny/sweep/trial-000{at}-s7").path for at in range(2)]
    assert command("report", *trials).out == "report.html\n"
    assert command("report", trials[0]).out == f"{trials[0]}/report.html\n"


def test_an_experiment_is_its_study_where_it_has_such_a_table_and_its_run_otherwise(
    comparison: Comparison, tiny: Path
) -> None:
    stored(Path("runs/tiny/sweep"), name="tiny")
    run = make_listed_run("tiny/20260102-030405000-s7-abcdef", started="2027-01-01T00:00:00Z")
    [target] = find_targets("tiny")
    assert target.folder.name == run.path.name, "the file has neither table"
    assert f"also there: sweep runs/tiny/sweep; ablation runs/tiny/ablate/{comparison.id}" in target.meaning
    experiment_with("ablate")
    [target] = find_targets("tiny")
    assert target.folder.name == comparison.id
    assert "also there: sweep runs/tiny/sweep; runs of tiny: " in target.meaning
    assert "tiny@best names one" in target.meaning
    experiment_with("sweep")
    assert find_targets("tiny")[0].kind == "sweep"
    Path("tiny.toml").unlink()
    assert find_targets("tiny")[0].kind == "run"


def test_a_name_that_has_only_a_study_is_that_study(comparison: Comparison, tiny: Path) -> None:
    tiny.unlink()
    for folder in (runs_root() / "tiny").iterdir():
        if (folder / "experiment.toml").exists():
            folder.rename(folder.with_name(f".{folder.name}"))
    assert find_targets("tiny")[0].folder.name == comparison.id


# Several runs


def test_they_are_reported_beside_them_or_here(command: Command) -> None:
    for place in ("tiny/a", "tiny/b", "other/c"):
        make_listed_run(place)
    answer = command("report", "runs/tiny/a", "runs/tiny/b", "runs/tiny/a")
    assert answer.out == "runs/tiny/report.html\n"
    assert "<h1>2 runs of tiny</h1>" in written(answer)
    answer = command("report", "runs/tiny/a", "runs/tiny/b", "runs/tiny/report.html")
    assert "left out, since it is the report of an earlier call: runs/tiny/report.html" in answer.err
    assert answer.code == 0
    assert command("report", "tiny/a", "other/c").out == "report.html\n"


def test_a_run_that_has_several_paths_is_one_run(here: Path, command: Command) -> None:
    run, _ = make_listed_run("tiny/a"), make_listed_run("tiny/b")
    Path("link").symlink_to(run.path)
    same = ["tiny/a", f"runs/../runs/{run.path.relative_to('runs')}", here / run.path, "link"]
    answer = command("report", *same)
    assert answer.out == "runs/tiny/a/report.html\n"
    assert "<h1>Run tiny/a</h1>" in written(answer)
    answer = command("report", *same, "tiny/b", "link")
    assert answer.out == "runs/tiny/report.html\n"
    assert "<h1>2 runs of tiny</h1>" in written(answer)


def test_many_runs_are_counted_on_standard_error(command: Command) -> None:
    words = [str(make_listed_run(f"tiny/{at}").path) for at in range(9)]
    assert command("report", *words).err.splitlines()[0] == "9 runs"


def test_the_command_of_a_verdict_is_one_that_compare_takes(tiny: Path, command: Command) -> None:
    quick = ["train.steps=2", "sample.num_samples=0", "callback=[]"]
    runs = [
        session.run(Experiment.load(tiny, [*quick, f"train.seed={seed}", f"model.mlp={mlp}"]))
        for mlp in ("gelu", "swiglu")
        for seed in (1, 2)
    ]
    line = verdict_command(runs)
    assert line in written(command("report", *(run.path for run in runs)))
    assert shlex.split(line)[:2] == ["nanogpt-kit", "compare"]
    answer = command(*shlex.split(line)[1:], "--json")
    assert json.loads(answer.out)["results"][0]["seeds"] == [1, 2], answer.err
    session.run(Experiment.load(tiny, [*quick, "train.seed=1", "model.mlp=gelu", "optimizer.lr=0.5"]))
    answer = command(*shlex.split(line)[1:], "--json")
    assert json.loads(answer.out)["results"][0]["seeds"] == [1, 2], "it holds when newer runs are in the folder"
    assert verdict_command(runs[:2]) == "", "one configuration"
    assert verdict_command([runs[0], runs[3]]) == "", "no seed in common"
    assert verdict_command([runs[0], runs[1], runs[2]]) == "", "one seed in common"


def test_no_command_of_a_verdict_is_named_where_compare_would_not_find_the_runs(tiny: Path, tmp_path: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    place = tmp_path / "mixed"  # outside the runs folder, and of two configurations
    runs = [
        make_arm_run(arm, seed, {20: {"val/loss": 2.5}}, folder=place / f"{name}{seed}")
        for arm, name in zip(question.arms, ("base", "other"), strict=True)
        for seed in (1, 2)
    ]
    assert verdict_command(runs) == ""


def test_the_command_of_a_verdict_has_only_what_compares_by_the_metric_of_the_page(tiny: Path, tmp_path: Path) -> None:
    seeds = {"base": (1, 2, 3, 4), "a": (1, 2, 3), "b": (3, 4), "c": (1, 2, 3), "longer": (1, 2)}
    question = make_question(tiny, "model.mlp=swiglu", "optimizer.lr=2", "optimizer.lr=3", "optimizer.lr=4")
    runs = [
        make_arm_run(
            arm, seed, {40 if name == "longer" else 20: {"val/loss": 2.5}}, folder=tmp_path / name / f"s{seed}"
        )
        for arm, name in zip(question.arms, seeds, strict=True)
        for seed in seeds[name]
    ]
    assert verdict_command(runs) == "nanogpt-kit compare base/ a/ c/", (
        "b shares one seed with a, longer has more tokens"
    )
    assert verdict_command(runs[:7], "val/bits_per_byte") == "nanogpt-kit compare base/ a/ --metric val/bits_per_byte"
    assert verdict_command(runs[7:]) == "", "b and c share one seed"
    assert verdict_command([runs[8], *runs[:7]]) == "nanogpt-kit compare base/ a/", "b, which is first, shares no two"


def test_runs_of_a_folder_of_their_own_are_named_by_it(tiny: Path, tmp_path: Path) -> None:
    question = make_question(tiny, "model.mlp=swiglu")
    runs = [
        make_arm_run(arm, seed, {20: {"val/loss": 2.5}}, folder=tmp_path / "runs" / name / f"s{seed}")
        for arm, name in zip(question.arms, ("base", "my change"), strict=True)
        for seed in (1, 2)
    ]
    assert verdict_command(runs) == "nanogpt-kit compare runs/base/ 'runs/my change/'"


# Mistakes


def fault_of(answer: Any) -> str:
    assert (answer.code, answer.out) == (2, ""), answer
    return str(answer.err)


def test_unknown_names_have_the_nearest(comparison: Comparison, command: Command) -> None:
    make_listed_run("small/a")
    text = fault_of(command("report", "smal"))
    assert "no run 'smal'" in text
    assert "did you mean 'small'?" in text
    near = f"{comparison.id[:-1]}z"
    text = fault_of(command("report", near))
    assert f"A near name is that of runs/tiny/ablate/{comparison.id}." in text


def test_a_study_that_has_not_begun_has_the_command_that_begins_it(command: Command) -> None:
    experiment_with("sweep", "mine")
    assert "Its sweep has not begun: `nanogpt-kit sweep mine` begins it." in fault_of(command("report", "mine"))
    experiment_with("ablate", "yours")
    text = fault_of(command("report", "yours"))
    assert "Its ablation has not begun: `nanogpt-kit ablate yours` begins it." in text


def test_a_storage_is_refused_where_no_sweep_is_reported(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    make_listed_run("tiny/a")
    text = fault_of(command("report", "tiny", "--storage", "sqlite:///a.db"))
    assert "--storage: it is for a sweep, and this is run runs/tiny/a: " in text
    assert "leave it out" in text
    monkeypatch.setenv("NANOGPT_KIT_STORAGE", "sqlite:///a.db")
    assert command("report", "tiny").code == 0, "it is set for the sweeps of a shell"


def test_kinds_are_not_mixed(comparison: Comparison, command: Command) -> None:
    make_listed_run("small/a")
    stored(Path("runs/swept/sweep"), name="swept")
    text = fault_of(command("report", "small", comparison.id))
    assert f"not ablation runs/tiny/ablate/{comparison.id} together with runs" in text
    assert "leave it out" in text
    assert "together with a sweep" in fault_of(command("report", comparison.id, "runs/swept/sweep"))
    assert command("report", comparison.id, comparison.id).code == 0


def test_a_folder_of_comparisons_asks_for_one_of_them(comparison: Comparison, command: Command) -> None:
    text = fault_of(command("report", "runs/tiny/ablate"))
    assert "'runs/tiny/ablate' is a folder of comparisons" in text
    assert comparison.id in text


def test_a_beginning_that_several_comparisons_share_is_refused(comparison: Comparison) -> None:
    folder = record_path(comparison).parent
    other = folder.with_name(comparison.id[:6] + "f" * 6)
    other.mkdir()
    (other / "comparison.json").write_bytes((folder / "comparison.json").read_bytes())
    with pytest.raises(KitError, match=f"the beginning of 2 comparisons: .*{other.name}"):
        find_targets(comparison.id[:6])
    assert find_targets(comparison.id)[0].folder.name == comparison.id


def test_a_checkpoint_is_refused_since_its_run_is_reported_whole(command: Command) -> None:
    run = make_listed_run("tiny/a")
    run.checkpoint(20).mkdir(parents=True)
    text = fault_of(command("report", "tiny@20"))
    assert "a report shows a whole run, and not its checkpoint of step 20; write runs/tiny/a" in text
    text = fault_of(command("report", "tiny@30"))
    assert "has no checkpoint of step 30; there are: 20" in text
    assert "comparison" not in text


def test_a_damaged_comparison_is_a_sentence(comparison: Comparison, command: Command) -> None:
    record_path(comparison).write_text("{")
    assert "comparison.json cannot be read" in fault_of(command("report", comparison.id))


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_listed_run("tiny/a")
    module = sys.modules["nanogpt_kit.cli.report"]  # its name in the package is the verb
    monkeypatch.setattr(module, "page_of", lambda *_: pytest.fail("it was read"))
    Path("folder").mkdir()
    os.mkfifo("pipe")
    for file, reason in {
        "folder": "it is a folder; name a file in it, as in folder/report.html",
        "no such/a.html": "the folder 'no such' does not exist; `mkdir -p 'no such'` makes it",
        "pipe": "it is not a regular file; name another file",
    }.items():
        text = fault_of(command("report", "tiny", "--output", file))
        assert f"command line: --output: '{file}' cannot be written: {reason}" in text
    assert os.path.exists("pipe")


def test_a_full_disk_is_a_sentence_and_leaves_the_report_of_before(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_listed_run("tiny/a")
    before = written(command("report", "tiny"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    text = fault_of(command("report", "tiny"))
    assert "No space left on device; --output names another file" in text
    assert (run.path / "report.html").read_text(encoding="utf-8") == before
    assert sorted(path.name for path in run.path.iterdir() if path.name.startswith(".")) == []


def test_output_names_the_file_and_home_is_expanded(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    make_listed_run("tiny/a")
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    Path("home").mkdir()
    assert command("report", "tiny", "--output", "~/mine.html").out == f"{Path('home').absolute() / 'mine.html'}\n"
    assert not (runs_root() / "tiny" / "a" / "report.html").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 elsewhere")
def test_names_that_are_not_utf_8_have_a_report(command: Command) -> None:
    run = make_listed_run("tiny/a", command=os.fsdecode(b"run \xfe"))
    other = RunFolder(run.path.rename(run.path.with_name(os.fsdecode(b"\xff<b>"))))
    answer = command("report", other.path)
    assert answer.code == 0, answer.err
    page = (other.path / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;" in page
    assert "run \\udcfe" in page


def test_an_output_that_is_no_report_is_refused_since_it_would_be_lost(command: Command) -> None:
    run = make_listed_run("tiny/a")
    before = run.metrics.read_bytes()
    text = fault_of(command("report", "tiny", "--output", run.metrics))
    assert "'runs/tiny/a/metrics.jsonl' cannot be written: it is a file that is not HTML, and would be lost" in text
    assert run.metrics.read_bytes() == before
    Path("empty").touch()
    Path("mine.html").write_text("by hand")
    for file in ("empty", "empty", "mine.html"):  # the second time it is a report
        assert command("report", "tiny", "--output", file).code == 0
    text = fault_of(command("report", "tiny", "--output", "empty/a.html"))
    assert "empty is not a folder; name another file" in text
