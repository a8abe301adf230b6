"""Labels in figures: short, and never equal for different names."""

from __future__ import annotations

import html
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanogpt_kit.report.labels import short_labels

PARTS = st.sampled_from(
    ["optimizer", "lr", ".", "@", "=", ",", "muon", "adamw", " ", "  ", "x" * 30, "<b>", "&lt;", "…"]
)
NAMES = st.lists(st.one_of(st.text(max_size=40), st.lists(PARTS, max_size=8).map("".join)), max_size=12)


@given(NAMES, st.integers(8, 40))
@example(["a" * 60 + str(at) + "b" * 60 for at in range(120)], 28)
@example(["\x00", "\\u0000", " ", "", "(1)", "e\u0301", "\u00e9", "a\u200bb", "ab"], 8)
def test_different_names_never_have_labels_that_look_equal(names: list[str], most: int) -> None:
    labels = short_labels(names, most)
    assert list(labels) == list(dict.fromkeys(names))
    assert len(set(labels.values())) == len(labels)
    assert all(label.isprintable() and label == " ".join(label.split()) for label in labels.values())
    assert all(len(label) <= most + 6 for label in labels.values()), "room for a number, not for the whole name"


def test_the_condition_of_a_parameter_is_in_brackets() -> None:
    names = ["optimizer.lr@optimizer.use=adamw", "optimizer.lr@optimizer.use=muon", "a.b@c.d=x|y,e.f=3", "model.norm"]
    labels = ["optimizer.lr (adamw)", "optimizer.lr (muon)", "a.b (x or y, 3)", "model.norm"]
    assert list(short_labels(names).values()) == labels


def test_values_that_two_conditions_share_are_shown_with_their_keys() -> None:
    assert list(short_labels(["a@x=1", "a@y=1"]).values()) == ["a (x=1)", "a (y=1)"]
    assert len(set(short_labels(["a@x=1", "a (1)"]).values())) == 2


@pytest.mark.parametrize("at", [0, 15, 50, 99])
def test_long_names_show_where_they_differ(at: int) -> None:
    base = "".join(random.Random(4).choices("abcdefgh", k=100))
    names = [f"{base[:at]}{letter}{base[at + 1 :]}" for letter in "XYZ"]
    labels = list(short_labels(names).values())
    assert [letter in label for letter, label in zip("XYZ", labels, strict=True)] == [True] * 3
    assert all(len(label) <= 28 for label in labels)


def test_a_thousand_long_names_have_a_thousand_labels() -> None:
    names = [f"{'x' * 40}{at // 10}{'y' * 40}{at % 10}" for at in range(1_000)]
    assert len(set(short_labels(names).values())) == 1_000


def test_labels_stay_distinct_when_they_are_escaped() -> None:
    names = ["<b>a</b>", "a", "&lt;b&gt;a&lt;/b&gt;"]
    assert len({html.escape(label, quote=False) for label in short_labels(names).values()}) == 3
