"""The help of `nanogpt-kit` alone, and the example at the end of each verb's."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from nanogpt_kit.cli import main
from nanogpt_kit.cli.top_help import SECTIONS, TopHelp

HELP = {name: text for verbs in SECTIONS.values() for name, text in verbs.items()}


def help_of(group: click.Group, *words: str, width: int = 80) -> str:
    options = {"prog_name": "nanogpt-kit", "terminal_width": width, "max_content_width": width}
    return CliRunner().invoke(group, [*words, "--help"], **options).output


def test_every_verb_is_in_one_section() -> None:
    assert set(main.commands) <= set(HELP)
    assert len(HELP) == sum(map(len, SECTIONS.values()))
    assert "Others" not in help_of(main)


@pytest.mark.parametrize("width", [60, 80, 110])
def test_each_verb_is_a_sentence_on_one_line(width: int) -> None:
    lines = help_of(main, width=width).splitlines()
    assert max(map(len, lines)) <= width
    for name in main.commands:
        [line] = [line for line in lines if line.split()[:1] == [name]]
        assert line.split(maxsplit=1)[1] == HELP[name].sentence.removesuffix(".") + "."


def commands_below(group: click.Group, *words: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*words, name)
        if isinstance(command, click.Group):
            yield from commands_below(command, *words, name)


@pytest.mark.parametrize("words", list(commands_below(main)), ids=" ".join)
def test_a_narrow_terminal_shows_whole_words_and_sentences(words: tuple[str, ...]) -> None:
    lines, whole = help_of(main, *words, width=60).splitlines(), help_of(main, *words, width=400).split()
    assert max(map(len, lines)) <= 60
    assert {word for line in lines for word in line.split()} - {"log-", "probabilities"} <= set(whole)


def test_it_ends_with_two_commands_to_try() -> None:
    assert help_of(main).endswith("Example:\n  nanogpt-kit run quickstart\n  nanogpt-kit sample quickstart\n")


@pytest.mark.parametrize("name", sorted(main.commands))
def test_the_help_of_each_verb_ends_with_an_example_of_it(name: str) -> None:
    *_, before, last = help_of(main, name, width=60).splitlines()
    assert f"{last} ".startswith(f"  Example: nanogpt-kit {name} ")
    assert not before


def test_verbs_that_are_not_installed_are_left_out_and_others_are_listed() -> None:
    group = TopHelp()
    for name in ("sample", "run", "mine"):
        group.add_command(click.Command(name, help=f"Does {name}. And more."))
    sections = help_of(group).partition("Start here:\n")[2].partition("\n\nExample")[0]
    assert sections == (
        "  run     Train a model, evaluate it, generate samples.\n"
        "  sample  Generate text with a trained model.\n"
        "\n"
        "Others:\n"
        "  mine    Does mine."
    )


def test_a_verb_keeps_the_example_that_it_has() -> None:
    group = TopHelp()
    group.add_command(click.Command("run", epilog="Mine.", short_help="Also mine."))
    assert group.commands["run"].epilog == "Mine."
    assert "run  Also mine.\n" in help_of(group)
