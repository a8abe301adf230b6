"""`nanogpt-kit compare` with real runs: verdicts and exit codes, refusals, and what its options add."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.core.errors import DONE, INTERRUPTED, MISTAKE, UNDECIDED, WORSE
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep.preview import START_SECONDS
from nanogpt_kit.train import session

Command = Callable[..., Any]
SLOW = "optimizer.lr=1e-5"  # hardly learns anything
INERT = "train.log_every_steps=5"
SEEDS = (1337, 1338, 1339)

EVALUATOR = """\
from nanogpt_kit.api import Evaluator

class Mine(Evaluator):
    def metric_names(self):
        return ("mine/loss",)

    def evaluate(self, ctx):
        loss = ctx.split_loss("val")
        return {"mine/loss": FACTOR * loss.nats / loss.tokens}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_text: str, tiny_source: str) -> Path:
    """A folder with tiny.toml and runs of it and of two changes, with three seeds."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(tiny_source, encoding="utf-8")
    text = tiny_text.format(text="text.txt").replace("steps = 20", 'steps = 8\ncompile = "off"\nthreads = 1')
    text = text.replace("every_steps = 10", "every_steps = 4").replace("n_layer = 2", "n_layer = 1")
    (folder / "tiny.toml").write_text("callback = []\n" + text, encoding="utf-8")
    (folder / "slow.toml").write_text('extends = "tiny.toml"\nname = "slow"\n[optimizer]\nlr = 1e-5\n')
    for change in ("", SLOW, INERT):
        train(folder, "tiny.toml", change)
    return folder


def train(folder: Path, file: str, change: str = "", seeds: tuple[int, ...] = SEEDS) -> None:
    """Runs in this process."""
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        for seed in seeds:
            changes = [*change.split(), f"train.seed={seed}", "sample.num_samples=0"]
            session.run(Experiment.load(file, changes, trust_code=True))


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(folder)
    patch.setenv("NANOGPT_KIT_RUNS", "runs")
    patch.setenv("NANOGPT_KIT_DATA", "data")


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    enter(trained, monkeypatch)
    return trained


def run_count() -> int:
    return len(list(Path("runs").rglob("experiment.toml")))


# Verdicts


def test_a_contender_is_worse_and_the_same_one_as_the_base_better(command: Command, here: Path) -> None:
    count = run_count()
    worse, better = command("compare", "tiny", SLOW), command("compare", "slow", "tiny")
    assert (worse.code, better.code) == (WORSE, DONE)
    assert worse.out.splitlines()[-1].endswith("over 3 pairs: worse")
    assert better.out.splitlines()[-1].startswith("tiny against slow: val/loss lower by")
    assert f"{SLOW}: tiny with this change" in worse.err
    assert "slow: the experiment slow.toml" in better.err
    assert run_count() == count


@pytest.mark.parametrize("contender", ["tiny", INERT])
def test_a_contender_of_the_same_bytes_is_undecided_with_difference_0(
    command: Command, here: Path, contender: str
) -> None:
    told = command("compare", "tiny", contender, "--json")
    [result] = json.loads(told.out)["results"]
    assert told.code == UNDECIDED
    assert (result["difference"], result["low"], result["high"], result["verdict"]) == (0, 0, 0, "undecided")


def test_with_several_contenders_one_that_is_undecided_outweighs_one_that_is_worse(
    command: Command, here: Path
) -> None:
    told = command("compare", "tiny", SLOW, INERT, "--text", "is it inert?", "--json")
    assert told.code == UNDECIDED
    values = json.loads(told.out)
    assert [result["verdict"] for result in values["results"]] == ["worse", "undecided"]
    assert values["text"] == "is it inert?"
    assert Comparison.read(Path(values["path"])).id == values["id"]
    path = Path(values["path"])
    assert told.err.endswith(f"record: {path}\nreport: nanogpt-kit report {path.parent}\n")


def test_json_is_all_that_is_on_standard_output(command: Command, here: Path) -> None:
    told = command("compare", "runs/tiny", SLOW, "--seeds", "2", "--json")
    values = json.loads(told.out)
    assert values["metric"] == "val/loss"
    assert [arm["label"] for arm in values["arms"]] == ["runs/tiny", SLOW]
    assert "runs/tiny: 3 runs with seeds 1337 to 1339" in told.err


def test_the_note_of_an_experiment_is_the_reason_where_none_is_given(command: Command, here: Path) -> None:
    (here / "noted.toml").write_text('extends = "tiny.toml"\nnote = "is it the same?"\n')
    assert command("compare", "tiny", "noted").out.startswith("is it the same?\n")


def test_seeds_that_are_added_widen_the_interval(command: Command, here: Path) -> None:
    change = "optimizer.lr=2.9e-3"
    train(here, "tiny.toml", change, SEEDS[:2])  # the third is trained by the command
    two, three, same = (json.loads(command("compare", "tiny", change, f"--seeds={n}", "--json").out) for n in (2, 3, 3))
    [first], [second], [third] = two["results"], three["results"], same["results"]
    assert (first["level"], second["level"]) == (0.95, pytest.approx(0.9975))
    assert [look["seeds"] for look in three["looks"]] == [[1337, 1338], [1337, 1338, 1339]]
    assert third == second
    assert [one["is_reused"] for one in same["measurements"]].count(True) >= 3


def test_runs_without_a_partner_are_named(command: Command, here: Path) -> None:
    train(here, "tiny.toml", "optimizer.lr=1e-4", seeds=SEEDS[:2])
    told = command("compare", "tiny", "optimizer.lr=1e-4")
    assert told.code in (UNDECIDED, WORSE)  # of two pairs
    assert "not compared, since another arm has no such run: tiny with seed 1339" in told.err


# Refusals


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ("dataset.source=other.txt", ["other.txt", "text"]),
        ("tokenizer=char", ["val/bits_per_byte", "--metric"]),
        ("train.steps=7", ["8 steps", "7 steps"]),
    ],
)
def test_what_does_not_compare_is_refused_before_anything_runs(
    command: Command, here: Path, change: str, reasons: list[str]
) -> None:
    (here / "other.txt").write_text("another text, of other words entirely. " * 300)
    count = run_count()
    told = command("compare", "tiny", change, "--seeds", "2")
    assert (told.code, told.out) == (MISTAKE, "")
    assert all(reason in told.err for reason in reasons), told.err
    assert run_count() == count


def test_tokenizers_are_compared_in_bits_per_byte(command: Command, here: Path) -> None:
    train(here, "tiny.toml", "tokenizer=char")
    told = command("compare", "tiny", "tokenizer=char", "--metric", "val/bits_per_byte")
    assert told.code in (DONE, UNDECIDED, WORSE), told.err
    assert "val/bits_per_byte" in told.out


def test_an_evaluator_that_was_edited_is_refused(command: Command, here: Path) -> None:
    (here / "mine.py").write_text(EVALUATOR.replace("FACTOR", "1.0"))
    (here / "measured.toml").write_text(
        'extends = "tiny.toml"\nname = "measured"\ncomponents = ["mine.py"]\nevaluator = ["loss", "mine"]\n'
    )
    train(here, "measured.toml")
    same = command("compare", "runs/measured", "measured", "--metric", "mine/loss", "--trust-code")
    assert same.code == UNDECIDED, same.err
    (here / "mine.py").write_text(EVALUATOR.replace("FACTOR", "0.9"))
    words = ("compare", "runs/measured", "measured", "--metric", "mine/loss", "--trust-code", "--seeds", "2")
    told = command(*words)
    assert (told.code, told.out) == (MISTAKE, "")
    assert "mine/loss" in told.err
    assert "evaluator" in told.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny"], "expected a contender besides tiny, as in nanogpt-kit compare quickstart"),
        (["tiny", SLOW, "--again"], "--again trains every run again, so it requires --seeds"),
        (["tiny", SLOW, INERT, "--tokens-saved"], "--tokens-saved takes one contender, got 2"),
        (["tiny", SLOW, INERT, "--noise"], "--noise takes a base and at most one contender, got 2"),
        (["tiny", SLOW, "--noise", "--target=1", "--open-test"], "remove --target and --open-test"),
        (["tiny", "train.micro_batch_size=1"], "`nanogpt-kit compare tiny train.micro_batch_size=1 --seeds 3`"),
        (["tiny", SLOW, "--open-test"], "the dataset of tiny has no test split; dataset.test_fraction"),
        (["tiny", SLOW, "--metric=val/los"], "did you mean 'val/loss'?"),
        (["tiny", SLOW, "--target=nan"], "command line: --target should be a finite number, got nan"),
    ],
)
def test_a_mistake_is_a_sentence(command: Command, here: Path, words: list[str], message: str) -> None:
    told = command("compare", *words)
    assert (told.code, told.out) == (MISTAKE, "")
    assert message in told.err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_verdict_that_cannot_be_printed_keeps_its_exit_code_and_says_so(here: Path) -> None:
    words = [sys.executable, "-m", "nanogpt_kit", "compare", "tiny", SLOW]
    with open("/dev/full", "w") as device:
        done = subprocess.run(words, stdout=device, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == WORSE
    assert "standard output: No space left on device: part of the output is lost" in done.stderr


# More than a verdict


def test_the_target_and_the_tokens_saved_are_those_of_the_better_arm(command: Command, here: Path) -> None:
    for steps, seeds in ((4, SEEDS), (6, SEEDS[:2])):  # one run is left to be trained
        train(here, "tiny.toml", f"train.steps={steps}", seeds)
    words = ("compare", "tiny", SLOW, "--target=5.3", "--tokens-saved")
    told = command(*words)
    lines = told.out.splitlines()
    assert told.code == WORSE
    assert any(line.startswith(f"{SLOW} never reaches val/loss 5.3") for line in lines)
    assert any(line.startswith("tokens saved by tiny: ") for line in lines)
    count = run_count()
    values = json.loads(command(*words, "--json").out)
    assert run_count() == count  # the ledger answers
    budgets = {(one["tokens"], one["seed"]) for one in values["tokens_saved"]["values"]}
    assert budgets == {(80 * steps, seed) for steps in (4, 6, 8) for seed in SEEDS}
    assert values["target"]["arms"][0]["step"] in (4, 8)
    assert values["target"]["arms"][1] is None
    noise = [Comparison.read(path) for path in Path("runs/tiny/noise").rglob("comparison.json")]
    assert {one.budget for one in noise} >= {"4 steps", "6 steps"}


def test_noise_is_measured_without_a_verdict(command: Command, here: Path) -> None:
    told = command("compare", "--noise", "tiny", SLOW, "--seeds", "3")
    assert told.code == DONE
    assert "standard deviation over seeds: " in told.out
    assert "against" not in told.out
    values = json.loads(command("compare", "--noise", "tiny", "--seeds", "3", "--json").out)
    assert values["kind"] == "noise"
    assert [effect["seeds"] for effect in values["noise"]["effects"]] == [3, 5, 10, 20]
    assert values["noise"]["difference_sd"] is None


def test_a_preview_starts_nothing(command: Command, here: Path) -> None:
    count = run_count()
    told = command("compare", "tiny", SLOW, "--seeds", "5", "--tokens-saved", "--preview")
    assert told.code == DONE
    assert "4 of 10 runs are to be done" in told.out
    assert "--tokens-saved: " in told.out
    assert "4 and 6 steps" in told.out
    values = json.loads(command("compare", "tiny", SLOW, "--seeds", "5", "--preview", "--json").out)
    assert (values["missing_runs"], values["runs"], values["tokens"]) == (4, 10, 4 * 8 * 80)
    assert values["seconds"] > 4 * START_SECONDS
    assert [list(arm["changes"]) for arm in values["arms"]] == [[], ["optimizer.lr"]]
    assert run_count() == count


def test_the_test_split_is_opened_once(command: Command, here: Path) -> None:
    (here / "tested.toml").write_text(
        'extends = "tiny.toml"\nname = "tested"\n[dataset]\ntest_fraction = 0.2\n', encoding="utf-8"
    )
    for change in ("", SLOW):
        train(here, "tested.toml", change)
    told = command("compare", "tested", SLOW, "--open-test", "--json")
    opened = json.loads(told.out)["test"]
    assert told.code == WORSE
    assert opened["metric"] == "test/loss"
    assert [result["verdict"] for result in opened["results"]] == ["worse"]
    values = [one["value"] for one in opened["measurements"]]
    assert len(set(values)) == 6
    again = command("compare", "tested", SLOW, "--open-test")
    assert again.code == WORSE
    assert "test/loss, on the test split" in again.out
    count = run_count()
    more = command("compare", "tested", SLOW, "--seeds", "4", "--open-test")
    assert (more.code, run_count()) == (MISTAKE, count)
    other = command("compare", "tested", "model.bias=true", "--seeds", "2", "--open-test")
    assert other.code == MISTAKE
    assert "`nanogpt-kit compare tested optimizer.lr=1e-5 --open-test --json`" in other.err


def test_ctrl_c_prints_what_is_kept_and_the_command_that_continues(here: Path) -> None:
    words = ["compare", "tiny", "optimizer.lr=2e-3", "--seeds", "3"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nanogpt_kit", *words],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    before = ""
    while "started" not in before:
        line = process.stderr.readline()
        assert line, before
        before += line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (INTERRUPTED, "")
    assert "stopped; the comparison is saved in runs/tiny/compare/" in err
    assert err.count("continue with: ") == 1
    assert err.rstrip().endswith(f"continue with: nanogpt-kit {' '.join(words)}")
