"""The best of several runs: only evaluations that compare are compared."""

from __future__ import annotations

import json

import pytest

from nanogpt_kit.runs.ranking import rank_runs
from tests.runs.made_runs import losses, make_run

BITS = "val/bits_per_byte"


def both(loss: float, bits: float | None) -> dict[int, dict[str, float | None]]:
    return {20: {"val/loss": loss, BITS: bits}}


def test_runs_with_the_same_tokens_are_ranked_by_the_loss() -> None:
    runs = [make_run(evaluations=losses(s20=loss)) for loss in (4.5, 4.25, 4.75)]
    ranking = rank_runs(runs, runs[2])
    assert ranking is not None
    assert (ranking.best, ranking.metric, ranking.value) == (runs[1], "val/loss", 4.25)
    assert (ranking.reference_value, ranking.count) == (4.75, 3)


def test_the_loss_decides_where_it_compares_although_there_are_bits_per_byte() -> None:
    runs = [make_run(evaluations=both(4.5, 6.0)), make_run(evaluations=both(4.25, 6.5))]
    ranking = rank_runs(runs, runs[0])
    assert ranking is not None
    assert (ranking.best, ranking.metric) == (runs[1], "val/loss")


def test_of_equal_runs_the_newest_is_the_best() -> None:
    runs = [make_run(evaluations=losses(s20=4.5)) for _ in range(3)]
    assert rank_runs(runs, runs[0]).best == runs[2]  # type: ignore[union-attr]


def test_other_tokens_of_the_same_text_are_ranked_by_bits_per_byte() -> None:
    byte = make_run(evaluations=both(1.5, 2.2), data=("text", "bytes"))
    bpe = make_run(evaluations=both(3.5, 2.1), data=("text", "bpe"))
    ranking = rank_runs([byte, bpe], byte)
    assert ranking is not None
    assert (ranking.best, ranking.metric) == (bpe, BITS)
    assert (ranking.value, ranking.reference_value, ranking.count) == (2.1, 2.2, 2)


@pytest.mark.parametrize("bits", [None, "2.1", True])
def test_where_one_lacks_bits_per_byte_only_the_same_tokens_are_compared(bits: float | None) -> None:
    byte = make_run(evaluations=both(1.5, 2.2), data=("text", "bytes"))
    char = make_run(evaluations=both(1.25, bits), data=("text", "characters"))
    bpe = make_run(evaluations=both(3.5, 2.1), data=("text", "bpe"))
    for reference in (byte, char, bpe):
        ranking = rank_runs([byte, char, bpe], reference)
        assert ranking is not None
        assert (ranking.best, ranking.metric, ranking.count) == (reference, "val/loss", 1)


def test_another_text_is_not_compared() -> None:
    runs = [make_run(evaluations=both(4.5, 6.0)), make_run(evaluations=both(1.0, 1.5), data=("other", "others"))]
    assert rank_runs(runs, runs[0]).best == runs[0]  # type: ignore[union-attr]
    assert rank_runs(runs, runs[1]).best == runs[1]  # type: ignore[union-attr]


def test_the_same_tokens_of_which_others_count_are_not_compared() -> None:
    of_all, of_answers = make_run(evaluations=both(4.5, 6.0)), {"data": ("other", "tokens"), "marks": "answers"}
    runs = [of_all, *(make_run(evaluations=both(loss, 1.5), **of_answers) for loss in (1.25, 1.0))]  # type: ignore[arg-type]
    for run, best, count in ((runs[0], runs[0], 1), (runs[1], runs[2], 2)):
        ranking = rank_runs(runs, run)
        assert ranking is not None
        assert (ranking.best, ranking.count) == (best, count)


def test_a_run_is_ranked_by_the_evaluation_that_its_checkpoint_has_reached() -> None:
    ahead = make_run(evaluations=losses(s10=5.0, s20=1.0), steps=[10], state="interrupted")
    other = make_run(evaluations=losses(s10=4.0, s20=3.0))
    assert rank_runs([ahead, other], ahead).best == other  # type: ignore[union-attr]
    assert rank_runs([ahead, other], ahead).reference_value == 5.0  # type: ignore[union-attr]


def test_a_reference_without_an_evaluation_is_replaced_by_the_newest_run_that_has_one() -> None:
    old = make_run(evaluations=losses(s20=1.0), data=("other", "others"))
    new, reference = make_run(evaluations=losses(s20=4.0)), make_run()
    assert rank_runs([old, new, reference], reference).best == new  # type: ignore[union-attr]


def test_runs_that_cannot_be_compared_are_left_out() -> None:
    whole = make_run(evaluations=losses(s20=4.0))
    damaged, imported = make_run(evaluations=losses(s20=1.0)), make_run(evaluations=losses(s20=1.0), data=None)
    (damaged.path / "provenance.json").write_text(json.dumps([1]))
    without = make_run(evaluations=losses(s20=1.0), steps=[])
    runs = [damaged, imported, whole, without]
    assert rank_runs(runs, whole).count == 1  # type: ignore[union-attr]
    assert rank_runs([damaged, imported, without], damaged) is None
