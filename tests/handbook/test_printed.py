"""The comparison of a page's output with what is printed: what it accepts, and that it can fail."""

from __future__ import annotations

import pytest

from tests.handbook.printed import difference

PRINTED = """\
device     cpu, 2 threads
folder     runs/my/20261129-172012357-s1337-909775
step 1/600  loss 5.5774  923 tokens/s  0:00 elapsed
step 69/600  loss 2.4989  val/loss 2.6584  2,738 tokens/s  0:05 elapsed  0:26 left
evaluated at step 10:  val/loss 4.7716
evaluated at step 20:  val/loss 3.9137

finished: runs/my/20261129-172012357-s1337-909775
record: runs/my/compare/65ebc76f1da5/comparison.json
difference  -0.0162  +0.0194
"""
SHOWN = """\
device cpu, 16 threads
folder     runs/my/20270101-000000000-s7-aaaaa1
step 1/1,600  loss 5.6  1,923,000 tokens/s  0:00:01 elapsed
evaluated at step 500:  val/loss 1e-3
finished: runs/my/20270101-000000000-s7-aaaaa1
record: runs/my/compare/d79265267a33/comparison.json
difference  0.0162  -0.0194
"""


def test_numbers_times_ids_hashes_devices_and_the_number_of_progress_lines_may_differ() -> None:
    assert difference(SHOWN, PRINTED) is None
    assert difference(PRINTED, PRINTED) is None


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("device cpu", "machine cpu"),
        ("evaluated at", "measured at"),
        ("val/loss", "val/accuracy"),
        ("runs/my/", "runs/yours/"),
        ("elapsed", "passed"),
        ("comparison.json", "comparison.json.gz"),
    ],
)
def test_a_changed_word_is_reported_with_its_line(right: str, wrong: str) -> None:
    assert right in SHOWN
    assert wrong.split()[0] in str(difference(SHOWN.replace(right, wrong), PRINTED))


def test_a_missing_and_an_added_line_are_reported() -> None:
    lines = SHOWN.splitlines(keepends=True)
    for index, line in enumerate(lines):
        assert difference("".join(lines[:index] + lines[index + 1 :]), PRINTED), line
        assert difference("".join([*lines[:index], "more\n", *lines[index:]]), PRINTED), line
    assert "difference" in str(difference("\n".join(reversed(lines)), PRINTED))


def test_a_line_of_three_dots_stands_for_any_lines_and_for_none() -> None:
    lines = PRINTED.splitlines(keepends=True)
    assert difference("...\n" + "".join(lines[2:4]) + "...\n" + lines[-1], PRINTED) is None
    assert difference("...\n", PRINTED) is None
    assert difference("".join(lines) + "...\n", PRINTED) is None
    assert difference("...\n" + "".join(lines[2:4]), PRINTED), "the end is not left out"
    assert difference("...\nnever printed\n...\n", PRINTED)


def test_three_dots_within_a_line_stay_within_it() -> None:
    assert difference("...\nrecord: ...comparison.json\n...\n", PRINTED) is None
    assert difference("...\nfinished: ...comparison.json\n...\n", PRINTED)


def test_nothing_is_printed() -> None:
    assert difference("", "") is None
    assert difference("", "a line\n")
    assert difference("a line\n", "")
