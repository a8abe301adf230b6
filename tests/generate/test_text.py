"""What is shown of a text that is being written: whole characters, and nothing of a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nanogpt_kit.components.tokenizer.byte import Byte
from nanogpt_kit.generate.text import StreamedText

ENCODER = Byte().restore({})


def shown(text: str | bytes, *stops: str) -> tuple[list[str], bool]:
    """After each byte, and at the end; and whether it stopped."""
    so_far, told = StreamedText(ENCODER, stops), []
    for byte in text.encode() if isinstance(text, str) else text:
        told.append(so_far.add(byte))
        if so_far.stopped:
            break
    return [*told, so_far.rest()], so_far.stopped


def test_a_character_of_several_bytes_comes_when_it_is_whole() -> None:
    assert shown("a\u2603b") == (["a", "", "", "\u2603", "b", ""], False)


def test_half_a_character_at_the_end_is_shown_as_in_the_whole_text() -> None:
    assert shown("a\u2603".encode()[:-1]) == (["a", "", "", "\ufffd"], False)


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert "".join(shown(b"a\xff\xfeb")[0]) == "a\ufffd\ufffdb"


def test_what_may_begin_a_stop_waits() -> None:
    assert shown("a\nUs\nUser: b", "\nUser:") == (["a", "", "", "", "\nUs", "", "", "", "", "", ""], True)
    assert shown("a\nUs", "\nUser:") == (["a", "", "", "", "\nUs"], False)


def test_the_earliest_stop_counts() -> None:
    assert "".join(shown("one two three", "three", "two")[0]) == "one "
    assert "".join(shown("aab", "ab")[0]) == "a"


@given(st.text("ab\u00e9", max_size=12), st.lists(st.text("ab\u00e9", min_size=1, max_size=4), max_size=3))
def test_what_is_shown_is_the_text_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    told, stopped = shown(text, *stops)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    first = min(end for end, _ in ends) if ends else 0  # the byte at which the first stop is whole
    expected = min(begin for end, begin in ends if end == first) if ends else len(text)
    assert ("".join(told), stopped) == (text[:expected], bool(ends))
