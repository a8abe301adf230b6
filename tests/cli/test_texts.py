"""What a model wrote never steers a terminal, and goes into a pipe to the byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from nanogpt_kit.cli import texts
from nanogpt_kit.cli.json_output import reserve_stdout
from nanogpt_kit.core.errors import printable
from nanogpt_kit.generate.generator import GeneratedToken
from nanogpt_kit.runs import samples

HOSTILE = "a\x1b]0;owned\x07b\x9b2Jc\x7f\rd\u202ee\tf\ng"
ESCAPED = "a\\u001b]0;owned\\u0007b\\u009b2Jc\\u007f\\u000dd\\u202ee\tf\ng"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "is_terminal", lambda stream: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def pieces() -> list[GeneratedToken]:
    return [
        GeneratedToken(0, letter, token=1, finish_reason="length" if n == len(HOSTILE) - 1 else None)
        for n, letter in enumerate(HOSTILE)
    ]


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_controls_are_escaped_wherever_pieces_are_divided(capfd: pytest.CaptureFixture[str]) -> None:
    texts.print_texts([HOSTILE], pieces())
    assert capfd.readouterr().out == f"\x1b[1m{ESCAPED}\x1b[0m{ESCAPED}\n"


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_the_prompt_is_bold_unless_styles_are_off(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    two = [GeneratedToken(n, letter, token=1, finish_reason="length") for n, letter in enumerate("xy")]
    texts.print_texts(["one", "two"], reversed(two))
    bar = "-" * 80
    assert capfd.readouterr().out == f"\x1b[1mone\x1b[0mx\n{bar}\n\x1b[1mtwo\x1b[0my\n"
    monkeypatch.setenv(variable, value)
    texts.print_texts(["one", "two"], reversed(two))
    assert capfd.readouterr().out == f"onex\n{bar}\ntwoy\n"


@pytest.mark.usefixtures("terminal")
def test_raw_text_is_shown_as_it_is_on_a_terminal(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    texts.print_texts([HOSTILE], pieces(), raw=True)
    assert capfdbinary.readouterr().out == (HOSTILE + HOSTILE + "\n").encode()


def test_piped_text_is_as_the_model_wrote_it(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    texts.print_texts([HOSTILE], pieces())
    assert capfdbinary.readouterr().out == (HOSTILE + HOSTILE + "\n").encode()


@pytest.mark.usefixtures("terminal")
def test_escaped_json_is_the_same_json(capfd: pytest.CaptureFixture[str]) -> None:
    with click.Context(click.Command("sample")) as ctx:
        reserve_stdout(ctx)
        texts.print_records([{"prompt": HOSTILE}], pieces(), logprobs=False)
    out = capfd.readouterr().out
    assert printable(out) == out
    assert json.loads(out)["text"] == HOSTILE


def test_the_samples_of_a_run_are_escaped_on_a_terminal_only(
    tiny: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from nanogpt_kit.generate import text

    monkeypatch.setattr(text.StreamedText, "add", lambda self, token: "\x1b[2J")
    first = ["run", tiny, "train.steps=1", "callback=[]", "sample.max_new_tokens=2", f"--into={tmp_path / 'one'}"]
    assert "\x1b[2J" in command(*first).out
    monkeypatch.setattr(texts, "is_terminal", lambda stream: True)
    answer = command(*first[:-1], f"--into={tmp_path / 'two'}")
    assert "\\u001b[2J" in answer.out
    assert "\x1b" not in answer.out
    assert samples.read_samples(tmp_path / "two" / "samples.txt") == samples.read_samples(
        tmp_path / "one" / "samples.txt"
    )


def test_samples_that_are_not_utf8_stay_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "samples.txt"
    samples.add_samples(path, 1, ["one"])
    before = path.read_bytes().replace(b"one", b"\xff\x1b")
    path.write_bytes(before)
    samples.add_samples(path, 2, ["two"])
    samples.truncate_samples(path, 1)
    assert path.read_bytes() == before
    assert samples.newest_samples(path) == "\ufffd\x1b\n"
