"""The page of several runs: groups by configuration, spread over seeds, and what compares."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nanogpt_kit.report.run_group_page import add_figures, runs_of_groups_page
from nanogpt_kit.report.run_groups import comparable_sets, group_runs, main_metric
from nanogpt_kit.report.run_page import runs_page
from nanogpt_kit.report.run_results import ReportedRun
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.samples import add_samples
from tests.report.test_run_page import evaluated, log, text_of
from tests.report.test_run_page import without_plotly as without_plotly  # a fixture
from tests.runs.listed_runs import make_listed_run

TOKENS = {"dataset": "text", "splits": {"train": "tokens", "val": "valtokens"}}
YARDSTICKS = {"val/loss": "by tokens", "val/bits_per_byte": "by text"}


def seeded(
    place: str, seed: int, loss: float, configuration: str = "plain", options: dict[str, Any] | None = None, **more: Any
) -> RunFolder:
    origin = {"configuration": configuration, "data": TOKENS, "yardsticks": YARDSTICKS, "code": "code"}
    run = make_listed_run(place, {"train.seed": seed, **(options or {})}, **{**origin, **more})
    logged = {"step": 20, "tokens": 1600, "seconds": 2.5, "train/loss": loss - 0.25, "optim/lr": 0.5}
    log(run, evaluated(10, loss + 1), logged, evaluated(20, loss, **{"val/bits_per_byte": 2 * loss}))
    return run


def four_runs() -> list[RunFolder]:
    """Two configurations with two seeds each; gelu's mean is 2.5."""
    swiglu = {"model.mlp": {"use": "swiglu", "width": 2.5}}
    return [
        seeded("tiny/a", 1, 2.25),
        seeded("tiny/b", 2, 2.75),
        seeded("tiny/c", 1, 2.0, "changed", swiglu),
        seeded("tiny/d", 2, 3.5, "changed", swiglu),
    ]


def reported(runs: list[RunFolder]) -> list[ReportedRun]:
    return [ReportedRun.read(run) for run in runs]


def words(runs: list[RunFolder], command: str = "") -> str:
    return text_of(runs_page(runs, lambda metric: f"{command} {metric}" if command else ""))


# Groups


@pytest.mark.usefixtures("without_plotly")
def test_runs_of_one_configuration_are_a_group_with_mean_spread_and_each_seed() -> None:
    text = words(four_runs())
    assert "configuration n mean sd seed 1 seed 2" in text
    assert "model.mlp=gelu 2 2.5000 0.3536 2.2500 2.7500" in text
    assert "model.mlp=swiglu 2 2.7500 1.0607 2.0000 3.5000" in text
    assert "2 configurations, each over the seeds of its runs." in text
    assert "val/loss: model.mlp=gelu 2.5000 (n = 2), model.mlp=swiglu 2.7500 (n = 2)." in text


@pytest.mark.usefixtures("without_plotly")
def test_one_group_has_its_mean_and_spread_in_the_first_line() -> None:
    text = words(four_runs()[:2])
    assert "val/loss 2.5000, the mean over 2 seeds, standard deviation 0.3536." in text
    assert "configuration" in text
    assert "compare" not in text


@pytest.mark.usefixtures("without_plotly")
def test_no_verdict_is_claimed_and_the_command_that_gives_one_is_named() -> None:
    runs = four_runs()
    text = words(runs, "nanogpt-kit compare here there").replace("never a best value", "")
    assert "this page does not say" in text
    assert "judges it by seeds: nanogpt-kit compare here there val/loss" in text
    assert not {"better", "worse", "undecided", "significant", "best"} & {*text.lower().split()}
    assert "judges configurations that were measured alike and share at least two seeds" in words(runs)


@pytest.mark.usefixtures("without_plotly")
def test_only_finished_runs_count_and_their_last_evaluation_never_their_best() -> None:
    runs = [*four_runs()[:2], seeded("tiny/e", 3, 0.5, state="failed"), seeded("tiny/f", 4, 8.0)]
    log(runs[3], evaluated(10, 1.0), evaluated(20, 8.5))
    text = words(runs)
    assert "tiny 3 4.5000 3.4731 2.2500 2.7500 8.5000" in text
    assert "tiny/e tiny 3 failed" in text
    assert "The mean of tiny leaves out 1 of 4 seeds, whose runs are not finished: 1 failed." in text
    assert "leaves out" not in words([*runs[:2], seeded("tiny/g", 2, 9.0, state="failed")]), "its seed has a result"


@pytest.mark.usefixtures("without_plotly")
def test_of_runs_with_one_seed_the_newest_counts_and_both_are_listed() -> None:
    runs = four_runs()[:2]
    runs.append(seeded("tiny/again", 2, 2.5, started="2027-01-02T03:04:05Z"))
    runs.append(seeded("tiny/early", 1337, 9.0, state="running"))
    text = words(runs)
    assert "val/loss 2.3750, the mean over 2 seeds" in text
    assert "Another run has the seed of one that is counted here; see the table of runs." in text
    assert "tiny/again tiny 2 finished" in text
    assert "tiny/early tiny 1337 interrupted" in text, "a seed is not an amount"


@pytest.mark.usefixtures("without_plotly")
def test_runs_that_differ_by_more_than_their_seed_are_warned_of() -> None:
    runs = [seeded("tiny/a", 1, 2.0), seeded("tiny/b", 2, 2.0, code="other"), seeded("tiny/c", 3, 2.0)]
    assert "The runs of tiny differ by more than their seed: code." in words(runs)


@pytest.mark.usefixtures("without_plotly")
def test_a_run_without_a_recorded_configuration_is_alone() -> None:
    groups = group_runs(reported([make_listed_run("tiny/a"), make_listed_run("tiny/b"), seeded("tiny/c", 1, 2.0)]))
    assert [len(group.runs) for group in groups] == [1, 1, 1]
    assert len({group.name for group in groups}) == 3


@pytest.mark.usefixtures("without_plotly")
def test_groups_of_different_experiments_have_their_names() -> None:
    runs = [seeded("small/a", 1, 2.0), seeded("large/a", 1, 2.0, "changed", {"optimizer.lr": 2.0})]
    assert [group.name for group in group_runs(reported(runs))] == ["small", "large"]


@pytest.mark.usefixtures("without_plotly")
def test_options_code_and_samples_of_the_groups_are_side_by_side() -> None:
    runs = four_runs()
    add_samples(runs[0].samples, 20, ["of gelu"])
    add_samples(runs[2].samples, 20, ["of swiglu"])
    text = words(runs)
    assert "option model.mlp=gelu model.mlp=swiglu model.mlp.use gelu swiglu" in text
    assert "model.mlp=gelu, step 20 of gelu model.mlp=swiglu, step 20 of swiglu" in text


@pytest.mark.usefixtures("without_plotly")
def test_many_seeds_are_in_one_cell() -> None:
    text = words([seeded(f"tiny/{seed}", seed, 2.0 + seed / 64) for seed in range(1, 15)])
    assert "configuration n mean sd values by seed" in text
    assert "seed 14: 2.2188" in text


# What compares


@pytest.mark.usefixtures("without_plotly")
def test_losses_of_other_tokens_are_warned_of_and_bits_per_byte_take_their_place() -> None:
    other = {"val/loss": "by other tokens", "val/bits_per_byte": "by text"}
    runs = [*four_runs()[:2], seeded("bpe/a", 1, 5.0, "bpe", yardsticks=other)]
    text = words(runs)
    assert "val/loss does not compare between these groups" in text
    assert "val/bits_per_byte, which depends on no tokenizer, compares between them." in text
    assert "val/bits_per_byte at the last evaluation of each finished run" in text
    groups = group_runs(reported(runs))
    assert main_metric(groups) == "val/bits_per_byte"
    assert [[group.name for group in some] for some in comparable_sets(groups, "val/loss")] == [["tiny"], ["bpe"]]


@pytest.mark.usefixtures("without_plotly")
def test_the_command_of_a_verdict_is_asked_for_by_the_metric_that_compares() -> None:
    other = {"val/loss": "by other tokens", "val/bits_per_byte": "by text"}
    runs = [*four_runs()[:2], seeded("bpe/a", 1, 5.0, "bpe", yardsticks=other)]
    assert "judges it by seeds: compare a b val/bits_per_byte" in words(runs, "compare a b")
    elsewhere = {"val/loss": "elsewhere", "val/bits_per_byte": "elsewhere"}
    assert "compare a b" not in words([*runs[:2], seeded("c/a", 1, 5.0, "c", yardsticks=elsewhere)], "compare a b")


@pytest.mark.usefixtures("without_plotly")
def test_other_text_leaves_nothing_that_compares() -> None:
    other = {"val/loss": "elsewhere", "val/bits_per_byte": "elsewhere"}
    text = words([seeded("tiny/a", 1, 2.0), seeded("other/a", 1, 5.0, "other", yardsticks=other)])
    assert "val/loss does not compare" in text
    assert "compares between them" not in text
    assert "val/loss: tiny" not in text, "their means are not in one sentence"


@pytest.mark.usefixtures("without_plotly")
def test_values_without_a_yardstick_compare_by_the_validation_tokens_or_not_at_all() -> None:
    runs = [seeded("a/a", 1, 2.0, "a", yardsticks={}), seeded("b/b", 1, 2.0, "b", yardsticks={})]
    assert len(comparable_sets(group_runs(reported(runs)), "val/loss")) == 1
    bare = [seeded("c/a", 1, 2.0, "a", yardsticks={}, data={}), seeded("d/b", 1, 2.0, "b", yardsticks={}, data={})]
    assert len(comparable_sets(group_runs(reported(bare)), "val/loss")) == 2


def test_losses_of_the_same_tokens_of_which_others_count_do_not_compare() -> None:
    marked = {**TOKENS, "counted": {"train": "answers"}}
    runs = [seeded("a/a", 1, 2.0, "a"), seeded("b/b", 1, 2.0, "b", data=marked)]
    assert len(comparable_sets(group_runs(reported(runs)), "train/loss")) == 2


# Figures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure of a page, which itself is not written."""
    found: list[Any] = []
    monkeypatch.setattr("nanogpt_kit.report.page.Page._figure_html", lambda _, figure, *more: found.append(figure))
    return found


def test_what_does_not_compare_is_not_on_one_axis(drawn: list[Any]) -> None:
    other = {"val/loss": "by other tokens", "val/bits_per_byte": "by text"}
    elsewhere = {"dataset": "text", "splits": {"train": "others", "val": "others"}}
    runs = [*four_runs()[:2], seeded("bpe/a", 1, 5.0, "bpe", yardsticks=other, data=elsewhere)]
    runs_of_groups_page(reported(runs), lambda _: "")
    names = [
        (figure.layout.yaxis.title.text, [trace.name for trace in figure.data if trace.showlegend is not False])
        for figure in drawn
    ]
    both = ["tiny (n = 2)", "bpe (n = 1)"]
    assert names[:5] == [
        ("val/bits_per_byte", both),
        ("val/loss", ["tiny (n = 2)"]),
        ("val/loss", ["bpe (n = 1)"]),
        ("train/loss", ["tiny (n = 2)"]),
        ("train/loss", ["bpe (n = 1)"]),
    ]
    assert dict(names)["optim/lr"] == both, "a learning rate compares"


def test_a_group_has_one_colour_on_every_figure(drawn: list[Any]) -> None:
    runs_of_groups_page(reported(four_runs()), lambda _: "")
    colors = {trace.name: set[str]() for figure in drawn for trace in figure.data if trace.name.endswith("(n = 2)")}
    for figure in drawn:
        for trace in figure.data:
            if trace.name in colors:
                colors[trace.name].add(trace.line.color)
    assert len(colors) == 2
    assert all(len(one) == 1 for one in colors.values())


def test_a_page_of_many_configurations_draws_the_first_twenty() -> None:
    from nanogpt_kit.report.page import Page

    runs = [seeded(f"tiny/{at}", 1, 2.0, f"c{at}", {"optimizer.lr": at / 64}) for at in range(23)]
    page = Page("a")
    add_figures(page, group_runs(reported(runs)), "val/loss")
    assert "The first 20 of 23 groups." in text_of(page)
    assert json.dumps("optimizer.lr=0.0 (n = 1)") in "".join(page.parts)
