"""`nanogpt-kit completion SHELL`: the script that completes commands, and the answers to its questions.

The script runs the command with COMPLETE in the environment: click finds what is asked, `candidates` knows the words.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from click.shell_completion import CompletionItem, ShellComplete, add_completion_class

from nanogpt_kit.cli.candidates import path_candidates
from nanogpt_kit.cli.shell_words import escape_for_bash, is_one_line, split_command
from nanogpt_kit.core.errors import printable

COMPLETE = "_NANOGPT_KIT_COMPLETE"  # variable with which a script asks, as click names it
LINE, WORD = "COMP_LINE", "COMP_WORD"  # variables: the command up to the cursor; the part that bash replaces
OPEN_ENDS = ("=", ".", "/")  # of words that continue, so that no space follows
SCRIPTS = {shell: Path(__file__).with_name(f"completion.{shell}") for shell in ("bash", "zsh", "fish")}


@click.command()
@click.argument("shell", type=click.Choice(list(SCRIPTS)))
def completion(shell: str) -> None:
    """Print the script that completes commands in SHELL.

    For bash, add this line to ~/.bashrc: eval "$(nanogpt-kit completion bash)". For zsh, write the script to a file
    _nanogpt-kit in a folder of $fpath; for fish, to ~/.config/fish/completions/nanogpt-kit.fish.
    """
    click.echo(SCRIPTS[shell].read_text(encoding="utf-8"), nl=False)


class KitCompletion(ShellComplete):
    """Answers with one candidate per line. It never fails and prints nothing else."""

    open_quote = ""  # at the cursor

    def source(self) -> str:
        return SCRIPTS[self.name].read_text(encoding="utf-8")

    def get_completion_args(self) -> tuple[list[str], str]:
        words, self.open_quote = split_command(os.environ.get(LINE, ""))
        return words[1:-1], words[-1] if len(words) > 1 else ""

    def complete(self) -> str:
        with suppress(Exception), silent_output():
            args, incomplete = self.get_completion_args()
            return "\n".join(self.answer(list(self.candidates(args, incomplete)), incomplete))
        return ""

    def candidates(self, args: list[str], incomplete: str) -> Iterator[CompletionItem]:
        """The candidates for the whole word, those left out that the shell could take for something else."""
        option, equals, rest = incomplete.partition("=")
        is_value = bool(equals) and incomplete.startswith("-")  # --into=runs/a
        prefix = option + equals if is_value else ""
        for item in self.get_completions(args, incomplete):
            is_path = item.type in ("file", "dir")  # click leaves these to the shell
            items = path_candidates(rest if is_value else incomplete) if is_path else [item]
            for found in items:
                value = f"{prefix}{found.value}"
                looks_like_option = value.startswith("-") and not incomplete.startswith("-")
                if is_one_line(value) and value.startswith(incomplete) and not looks_like_option:
                    yield CompletionItem(value, help=found.help)

    def answer(self, items: list[CompletionItem], incomplete: str) -> list[str]:
        """The lines that the script of this shell reads."""
        raise NotImplementedError


class BashCompletion(KitCompletion):
    """First a line with "nospace" or nothing; then what replaces the part of the word that bash regards as the word."""

    name = "bash"

    def answer(self, items: list[CompletionItem], incomplete: str) -> list[str]:
        typed = os.environ.get(WORD, "")
        if typed.endswith("\\"):  # it would escape what follows
            return []
        is_open = len(items) == 1 and items[0].value.endswith(OPEN_ENDS)
        rests = [escape_for_bash(item.value[len(incomplete) :], self.open_quote) for item in items]
        return ["nospace" if is_open else "", *(typed + rest for rest in rests if rest is not None)]


class ZshCompletion(KitCompletion):
    """First the character up to which the word is kept; then -WORD:HELP where no space follows, else +WORD:HELP."""

    name = "zsh"

    def answer(self, items: list[CompletionItem], incomplete: str) -> list[str]:
        separator = next((character for character in "/=" if character in incomplete), "none")
        kept = incomplete.rfind(separator) + 1
        lines = [separator]
        for item in items:
            word = item.value[kept:].replace("\\", "\\\\").replace(":", "\\:")
            text = help_text(item)
            lines.append(("-" if item.value.endswith(OPEN_ENDS) else "+") + (f"{word}:{text}" if text else word))
        return lines


class FishCompletion(KitCompletion):
    """Lines of WORD, or of WORD, a tab and HELP."""

    name = "fish"

    def answer(self, items: list[CompletionItem], incomplete: str) -> list[str]:
        return [f"{item.value}\t{help_text(item)}".rstrip("\t") for item in items]


def help_text(item: CompletionItem) -> str:
    return printable(" ".join((item.help or "").split()))


@contextmanager
def silent_output() -> Iterator[None]:
    """Drops everything that this process writes: a warning while a component is imported would be taken for words."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = [os.dup(descriptor) for descriptor in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
        for descriptor in (nowhere, *saved):
            os.close(descriptor)


for shell_class in (BashCompletion, ZshCompletion, FishCompletion):
    add_completion_class(shell_class)
