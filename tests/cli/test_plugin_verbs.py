"""Verbs of plugins: listed without an import, called by name, and refused in one sentence where they cannot be."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt_kit.cli import main
from nanogpt_kit.cli.completion import COMPLETE, KitCompletion
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.runs.folder import RunFolder

Install = Callable[..., None]
GROUP = "[nanogpt_kit.verb]\n"
VERB = """
import click
from nanogpt_kit.api import KitError

print("imported")

@click.command()
@click.argument("word")
@click.option("--loudness", type=int, help="How loud.")
def hello(word, loudness):
    "Greet WORD."
    if word == "nobody":
        raise KitError("nobody cannot be greeted")
    click.echo(f"hello {word}")
"""


@pytest.fixture
def hello(install: Install) -> None:
    install("friendly-kit", f"{GROUP}hello = friendly:hello\n", friendly=VERB)


def plugin_section(text: str) -> list[str]:
    return text.partition("Plugins:\n")[2].partition("\n\n")[0].splitlines()


@pytest.mark.usefixtures("hello")
def test_the_help_lists_it_with_its_distribution_and_imports_nothing(command: Callable[..., object]) -> None:
    answer = command("--help")
    assert plugin_section(answer.out) == ["  hello  from friendly-kit 1.0"]
    assert "friendly" not in sys.modules


def test_without_verbs_of_plugins_the_help_has_no_section_for_them(
    install: Install, command: Callable[..., object]
) -> None:
    install("norm-kit", "[nanogpt_kit.norm]\nmine = mine:Mine\n")
    assert "Plugins:" not in command("--help").out


@pytest.mark.usefixtures("hello")
def test_it_is_called_and_what_its_import_prints_goes_to_standard_error(command: Callable[..., object]) -> None:
    answer = command("hello", "you")
    assert (answer.code, answer.out) == (0, "hello you\n")
    assert answer.err == "imported\n"
    assert "Greet WORD." in command("hello", "-h").out


@pytest.mark.usefixtures("hello")
def test_its_errors_are_reported_as_those_of_the_kit(command: Callable[..., object]) -> None:
    answer = command("hello", "nobody")
    assert (answer.code, answer.err.splitlines()[-1]) == (2, "error: nobody cannot be greeted")
    answer = command("hello", "you", "--loudnes", "3")
    assert answer.code == 2
    assert "there is no option --loudnes; did you mean --loudness?" in answer.err
    answer = command("hello")
    assert (answer.code, "missing argument 'WORD'" in answer.err) == (2, True)


@pytest.mark.usefixtures("hello")
def test_it_is_proposed_for_a_misspelt_word(command: Callable[..., object]) -> None:
    answer = command("helo", "you")
    assert answer.code == 2
    assert "there is no command 'helo'; did you mean 'hello'?" in answer.err


@pytest.mark.usefixtures("hello")
def test_shells_complete_it_and_its_options() -> None:
    completion = KitCompletion(main, {}, "nanogpt-kit", COMPLETE)
    found = {item.value: item.help for item in completion.candidates([], "hel")}
    assert found == {"hello": "from friendly-kit 1.0"}
    assert "friendly" not in sys.modules
    assert [item.value for item in completion.candidates(["hello"], "--l")] == ["--loudness"]


@pytest.mark.usefixtures("hello")
def test_it_is_not_a_component(command: Callable[..., object]) -> None:
    assert [entry.qualified for entry in Registry.installed().verbs] == ["friendly-kit/hello"]
    assert "hello" not in [entry.name for entry in Registry.installed().entries]


def test_a_built_in_verb_is_not_replaced(install: Install, command: Callable[..., object]) -> None:
    install("friendly-kit", f"{GROUP}check = friendly:hello\n", friendly=VERB)
    assert plugin_section(command("--help").out) == ["  friendly-kit/check  from friendly-kit 1.0"]
    assert "Validate EXPERIMENT without running" in command("check", "--help").out
    assert command("friendly-kit/check", "you").out == "hello you\n"


def test_a_name_that_two_distributions_claim_is_refused_when_it_is_used(
    install: Install, command: Callable[..., object]
) -> None:
    for name in ("one", "two"):
        install(f"{name}-kit", f"{GROUP}hello = {name}_friendly:hello\n", **{f"{name}_friendly": VERB})
    names = [line.split()[0] for line in plugin_section(command("--help").out)]
    assert names == ["one-kit/hello", "two-kit/hello"]
    answer = command("hello", "you")
    assert answer.code == 2
    assert "verb 'hello'; write nanogpt-kit one-kit/hello or nanogpt-kit two-kit/hello" in answer.err
    assert command("two-kit/hello", "you").out == "hello you\n"
    assert "one_friendly" not in sys.modules


def test_one_that_looks_like_an_option_is_listed_as_it_can_be_called(
    install: Install, command: Callable[..., object]
) -> None:
    install("friendly-kit", f"{GROUP}-x = friendly:hello\n", friendly=VERB)
    assert plugin_section(command("--help").out) == ["  friendly-kit/-x  from friendly-kit 1.0"]
    assert command("friendly-kit/-x", "you").out == "hello you\n"


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("raise RuntimeError('out of luck')", "RuntimeError: out of luck"),
        ("raise SystemExit(7)", "SystemExit: 7"),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("hallo = 1", "AttributeError: module 'friendly' has no attribute 'hello'"),
        ("def hello(): pass", "is not a verb: expected a click command, got function"),
    ],
)
def test_one_that_cannot_be_imported_is_reported_in_a_sentence(
    install: Install, command: Callable[..., object], source: str, cause: str
) -> None:
    install("friendly-kit", f"{GROUP}hello = friendly:hello\n", friendly=source)
    answer = command("hello", "you")
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
    assert all(part in answer.err for part in ("friendly-kit 1.0", "friendly:hello", cause))
    assert command("--help").code == 0
    assert command("plugins", "list").code == 0


def test_one_that_was_made_for_another_kit_is_reported_with_the_remedy(
    install: Install, command: Callable[..., object]
) -> None:
    entry = f"{GROUP}hello = friendly:hello\n"
    install("friendly-kit", entry, "nanogpt-kit>=99", friendly="from nanogpt_kit.api import Future")
    answer = command("hello", "you")
    assert answer.code == 2
    assert "pip install --upgrade nanogpt-kit friendly-kit" in answer.err


def test_the_example_of_the_page_works(install: Install, command: Callable[..., object], run: RunFolder) -> None:
    page = (Path(__file__).parents[2] / "docs" / "extending" / "verbs.md").read_text(encoding="utf-8")
    (metadata,), (source,) = (re.findall(rf"^```{name}\n(.*?)^```", page, re.S | re.M) for name in ("toml", "python"))
    (entry,) = re.findall(r'^\[project\.entry-points\."nanogpt_kit\.verb"\]\n(.+)$', metadata, re.M)
    install("nanogpt-kit-next-token", f"{GROUP}{entry.replace(chr(34), '')}\n", next_token=source)
    answer = command("next-token", run.path, "as everybody", "--count", "3")
    probabilities = [float(line.split()[0]) for line in answer.out.splitlines()]
    assert len(probabilities) == 3
    assert sorted(probabilities, reverse=True) == probabilities
    assert answer.out.splitlines()[0].endswith("' '")  # "as everybody knows" is what the text repeats
    assert "PROMPT is empty" in command("next-token", run.path, "").err
