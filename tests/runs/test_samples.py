"""samples.txt keeps every text once, under its step, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit.runs import samples


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "samples.txt"


def test_texts_lie_under_the_step_at_which_they_were_written(path: Path) -> None:
    samples.add_samples(path, 0, ["first"])
    samples.add_samples(path, 10, ["second", "third\n"])
    assert path.read_text() == f"{'=' * 60} step 0\nfirst\n{'=' * 60} step 10\nsecond\n{'-' * 80}\nthird\n\n"
    assert samples.newest_samples(path) == f"second\n{'-' * 80}\nthird\n\n"


def test_texts_stay_as_they_are_when_others_come(path: Path) -> None:
    strange = "\r\n one\r two\x85 \u2028 \0 \u2603 \x1b[31m\n\n"
    for step in (1, 2, 3):
        samples.add_samples(path, step, [strange])
    assert path.read_bytes().decode().count(strange) == 3
    assert samples.newest_samples(path) == strange + "\n"
    samples.truncate_samples(path, 1)
    assert path.read_bytes().decode() == f"{'=' * 60} step 1\n{strange}\n"


def test_samples_written_again_at_their_step_appear_once(path: Path) -> None:
    samples.add_samples(path, 5, ["same"])
    samples.add_samples(path, 10, ["same"])
    whole = path.read_bytes()
    samples.add_samples(path, 10, ["same"])
    assert path.read_bytes() == whole
    samples.add_samples(path, 10, ["other"])
    assert samples.newest_samples(path) == "other\n"


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (4, 0), (5, 1), (9, 1), (10, 3), (11, 3), (100, 4)])
def test_samples_after_a_step_are_dropped(path: Path, step: int, kept: int) -> None:
    parts = [(5, ["a"]), (10, ["b", "c"]), (10, ["d"]), (100, ["e"])]
    for number, texts in parts:
        samples.add_samples(path, number, texts)
    samples.truncate_samples(path, step)
    other = path.with_name("other.txt")
    other.write_text("")
    for number, texts in parts[:kept]:
        samples.add_samples(other, number, texts)
    assert path.read_bytes() == other.read_bytes()


def test_truncating_a_missing_file_of_samples_does_nothing(path: Path) -> None:
    samples.truncate_samples(path, 0)
    assert not path.exists()
