"""The arms of a comparison from the words of a user."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit.comparison.arms import read_arms, split_overrides
from nanogpt_kit.comparison.groups import find_group, seeds_text
from nanogpt_kit.comparison.question import Arm
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder, runs_root
from tests.comparison.made_arms import make_arm_run

LOSS = {20: {"val/loss": 4.5}}
DIVERGED = {"state": "failed", "ended_by": "fault", "cause": "not_finite", "reason": "the loss is nan"}


@pytest.fixture
def here(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with tiny.toml is the current one."""
    monkeypatch.chdir(tiny.parent)
    monkeypatch.setenv("NANOGPT_KIT_RUNS", "runs")
    return tiny


def tiny_arm(path: Path, *changes: str) -> Arm:
    return Arm("tiny", Experiment.load(path).with_(*changes))


def made_run(
    arm: Arm, seed: int, second: int, folder: str = "", status: dict[str, object] | None = None, **origin: object
) -> RunFolder:
    path = Path(folder) if folder else runs_root() / "mine" / f"at-{second}"
    started = f"2026-01-02T03:04:{second:02}Z"
    return make_arm_run(arm, seed, LOSS, status, path, started=started, **origin)


# Experiments and changes


def test_a_change_is_of_the_base_and_shows_what_differs(here: Path) -> None:
    base, contender = read_arms([str(here), "model.mlp=swiglu optimizer.lr=2e-3"])
    assert base.arm.changes == {}
    assert contender.arm.label == "model.mlp=swiglu optimizer.lr=2e-3"
    assert contender.arm.changes["optimizer.lr"] == ("0.003", "0.002")
    assert contender.arm.changes["model.mlp.use"] == ('"gelu"', '"swiglu"')
    assert contender.meaning.endswith(f"{here} with this change")
    assert contender.arm.experiment.train == base.arm.experiment.train


def test_two_experiments_differ_in_what_decides_results_alone(here: Path) -> None:
    other = here.with_name("other.toml")
    text = here.read_text().replace('name = "tiny"', 'name = "other"\nnote = "why"').replace("lr = 3e-3", "lr = 4e-3")
    other.write_text(text.replace("[train]\n", "[train]\nseed = 7\nthreads = 1\n"))
    _, contender = read_arms(["tiny", "other"])
    assert dict(contender.arm.changes) == {"optimizer.lr": ("0.003", "0.004")}
    assert contender.meaning == "other: the experiment other.toml"


def test_a_list_with_blanks_is_one_override_and_quotes_are_those_of_a_shell() -> None:
    assert split_overrides('evaluator=["loss", "bits_per_byte"]') == ['evaluator=["loss", "bits_per_byte"]']
    assert split_overrides("a.b=1 'c.d=two words'") == ["a.b=1", "c.d=two words"]
    assert split_overrides("a.b=it's c.d=1") == ["a.b=it's", "c.d=1"]
    assert split_overrides(" optimizer.lr = 2e-3") == ["optimizer.lr = 2e-3"]


@pytest.mark.parametrize(
    "value",
    ['["early_stopping", "ema"]', '{ use = "swiglu", width = 3.0 }', '"two words"', "'it is \"so\"'", "[0.9,\n0.95]"],
)
def test_lists_tables_and_strings_of_toml_stay_whole_beside_other_overrides(value: str) -> None:
    assert split_overrides(f"a.b={value}  c.d=1 e={value}") == [f"a.b={value}", "c.d=1", f"e={value}"]


def test_a_value_that_is_never_closed_is_refused_with_its_key(here: Path) -> None:
    with pytest.raises(KitError, match=r"command line: sample.prompt: not a TOML value"):
        read_arms(["tiny", "sample.prompt='x y optimizer.lr=1"])


def test_a_change_without_a_base_names_the_order(here: Path) -> None:
    with pytest.raises(KitError, match=r"'model.mlp=swiglu' is a change.*compare quickstart model.mlp=swiglu"):
        read_arms(["model.mlp=swiglu", "tiny"])


def test_the_faults_of_all_contenders_are_reported_at_once(here: Path) -> None:
    with pytest.raises(KitError) as caught:
        read_arms(["tiny", "model.mlp=swiglo", "optimizer.lr=fast", "nowhere"])
    text = str(caught.value)
    assert len(caught.value.faults) == 3
    assert "command line: model.mlp" in text
    assert "command line: optimizer.lr" in text
    assert "'nowhere'" in text
    assert "`nanogpt-kit runs list`" in text


def test_arms_may_be_experiments_of_python(here: Path) -> None:
    base = Experiment.load(here)
    named = read_arms([base, base.with_("model.n_head=4")])
    assert [one.arm.label for one in named] == ["tiny", "tiny"]
    assert dict(named[1].arm.changes) == {"model.n_head": ("3", "4")}


# Groups of runs


def test_a_name_of_both_is_the_experiment(here: Path) -> None:
    made_run(tiny_arm(here), 3, 1, "runs/tiny/a")
    named = read_arms(["tiny", "runs/tiny"])
    assert named[0].arm.runs == ()
    assert named[1].arm.runs == (RunFolder(Path("runs/tiny/a")),)


def test_a_group_has_the_finished_runs_with_the_configuration_of_the_newest(here: Path) -> None:
    arm = tiny_arm(here)
    made_run(tiny_arm(here, "optimizer.lr=0.1"), 6, 1)
    older, other = made_run(arm, 7, 2), made_run(arm, 9, 3)
    newer = made_run(arm, 7, 4)
    made_run(arm, 8, 5, status={"state": "interrupted", "ended_by": None})
    found = find_group("runs/mine")
    assert found is not None
    assert (found.runs, found.seeds, found.newest) == ((newer, other), (7, 9), newer)
    assert older not in found.runs
    assert found.describe() == (
        "2 runs with seeds 7 and 9; 3 other runs are unfinished, repeated or of another configuration, and left out"
    )


def test_a_run_that_diverged_belongs_to_its_group_unless_its_seed_was_repeated(here: Path) -> None:
    arm = tiny_arm(here)
    finished, diverged = made_run(arm, 7, 1), made_run(arm, 8, 2, status=DIVERGED)
    made_run(arm, 7, 3, status=DIVERGED)
    group = find_group("mine")
    assert group is not None
    assert group.runs == (finished, diverged)


def test_the_seed_of_a_group_is_its_smallest(here: Path) -> None:
    arm = tiny_arm(here)
    for seed, second in ((12, 1), (11, 2), (13, 3)):
        made_run(arm, seed, second)
    (named,) = read_arms(["runs/mine"])
    assert named.arm.experiment.train.seed == 11
    assert named.meaning == "runs/mine: 3 runs with seeds 11 to 13"
    assert named.arm.configuration == arm.configuration


def test_a_trial_is_named_by_the_beginning_of_its_folders(here: Path) -> None:
    arm = tiny_arm(here)
    runs = [made_run(arm, seed, seed, f"runs/tiny/sweep/trial-0003-s{seed}") for seed in (5, 6)]
    made_run(arm, 4, 4, "runs/tiny/sweep/trial-00031-s4")
    for name in ("runs/tiny/sweep/trial-0003", "tiny/sweep/trial-0003"):
        found = find_group(name)
        assert found is not None
        assert found.runs == tuple(runs)


def test_an_arm_of_an_earlier_comparison_is_named_by_its_folders_though_they_have_an_equals_sign(here: Path) -> None:
    run = made_run(tiny_arm(here), 5, 5, "runs/tiny/compare/1a2b/model.mlp=swiglu-s5")
    _, named = read_arms(["tiny", "runs/tiny/compare/1a2b/model.mlp=swiglu"])
    assert named.arm.runs == (run,)


@pytest.mark.parametrize("name", ["mine", "runs/mine", "runs/mine/compare", "runs"])
def test_a_folder_whose_runs_are_deeper_names_one_that_is_a_group(here: Path, name: str) -> None:
    made_run(tiny_arm(here), 5, 5, "runs/mine/compare/1a2b/tiny-s5")
    with pytest.raises(KitError, match=f"'{name}' is neither .* as runs/mine/compare/1a2b is; name a folder such as"):
        read_arms(["tiny", name])
    with pytest.raises(KitError, match=r"no experiment 'other'"):
        read_arms(["tiny", "other"])


@pytest.mark.parametrize(("suffix", "reason"), [("best", "luck"), ("20", "last evaluation")])
def test_a_run_is_not_compared_by_a_checkpoint(here: Path, suffix: str, reason: str) -> None:
    made_run(tiny_arm(here), 7, 1)
    with pytest.raises(KitError, match=f"'mine@{suffix}': .*{reason}; write mine$"):
        find_group(f"mine@{suffix}")


def test_runs_that_are_not_finished_name_the_command_that_continues_one(here: Path) -> None:
    made_run(tiny_arm(here), 7, 1, "runs/mine/a", {"state": "interrupted", "ended_by": None})
    with pytest.raises(KitError, match=r"'mine': no run.*interrupted; `nanogpt-kit run runs/mine/a` continues it"):
        find_group("mine")


def test_seeds_as_text() -> None:
    texts = [seeds_text(seeds) for seeds in ([4], [4, 5], [4, 5, 6], [4, 6, 9], [])]
    assert texts == ["seed 4", "seeds 4 and 5", "seeds 4 to 6", "seeds 4, 6 and 9", "no seeds"]
