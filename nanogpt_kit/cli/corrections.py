"""Mistakes in the words of a command: the first line that is printed names what to write instead."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import click

from nanogpt_kit.cli.foreign_words import FOREIGN_VERBS
from nanogpt_kit.cli.option_remedy import WORDS, OptionRemedy, experiment_values
from nanogpt_kit.core.errors import did_you_mean, printable
from nanogpt_kit.core.foreign_names import plain
from nanogpt_kit.runs.secrets import hide_in_text

EXAMPLES = {"sweep": "sweep_lr", "ablate": "ablate_parts"}  # of verbs that require a table


class UsageMistake(click.UsageError):
    """A mistake in the words of a command. Unlike click's own errors it prints the message first."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {printable(hide_in_text(self.format_message()))}", file, err=True)
        if self.ctx is not None:
            usage = f"{self.ctx.get_usage()}\nTry '{self.ctx.command_path} --help' for help."
            click.echo(usage, file, err=True)


class VerbGroup(click.Group):
    """The whole command line: the errors of its verbs become a UsageMistake with a remedy."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[WORDS] = list(args)
        with remedies(self):
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        is_verb = args[0].startswith("-") or self.get_command(ctx, args[0]) is not None
        if not ctx.resilient_parsing and not is_verb:
            remedy = verb_remedy(ctx.command_path, args, self.list_commands(ctx))
            raise UsageMistake(f"there is no command {args[0]!r}{remedy}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with remedies(self):
                return super().invoke(ctx)
        except KeyboardInterrupt as error:  # click would print an empty line, in each process of a run
            raise click.Abort from error


@contextmanager
def remedies(group: click.Group) -> Iterator[None]:
    """Adds what to write instead to errors that click raises inside, for the command line of `group`."""
    try:
        yield
    except click.NoSuchOption as error:
        if error.ctx is None:
            raise
        remedy = OptionRemedy(error.option_name, error.ctx, group).text()
        raise UsageMistake(f"there is no option {error.option_name}{remedy}", error.ctx) from None
    except click.MissingParameter as error:
        message = sentence(error).rstrip(".")
        if error.ctx and error.param and error.param.name in ("experiment", "run", "runs", "folder"):
            verb = error.ctx.command_path
            first = error.ctx.params.get("run") or EXAMPLES.get(verb.rpartition(" ")[2], "quickstart")
            folder = " exported/" if verb.endswith(" export") else ""
            message += f"; for example: {verb} {shlex.quote(first)}{folder}"
        raise UsageMistake(message, error.ctx) from None
    except click.UsageError as error:
        if isinstance(error, UsageMistake) or type(error).__name__ == "NoArgsIsHelpError":  # not in click 8.1
            raise
        raise UsageMistake(sentence(error), error.ctx) from None


def sentence(error: click.UsageError) -> str:
    name = getattr(error, "command_name", None)  # of click.NoSuchCommand, which click 8.1 does not have
    if name is not None and isinstance(error.cmd, click.Group):
        return f"there is no command {name!r}{did_you_mean(name, error.cmd.commands)}"
    message = error.format_message()
    return message[:1].lower() + message[1:]


def verb_remedy(program: str, words: Sequence[str], verbs: Sequence[str]) -> str:
    """What to write instead of a command that does not exist, the first of `words`."""
    word, *rest = words
    known = next((later for later in rest if later in verbs), None)
    verb = FOREIGN_VERBS.get(plain(word))
    if verb == "--help":
        return f"; write {program} {known} --help" if known else f"; write {program} --help"
    if verb and " " not in verb:
        return f"; write {program} {shlex.join([verb, *rest])}"
    if verb:
        name = shlex.quote(rest[0]) if rest else "EXPERIMENT"
        return f"; write {program} {verb.format(name=name)}"
    if known:
        rest.remove(known)
        order = [*rest, word] if "=" in word else [word, *rest]
        return f"; the verb comes first: {program} {shlex.join([known, *order])}"
    if word.endswith(".toml") or os.path.exists(f"{word}.toml") or experiment_values(word) is not None:
        return f"; to train an experiment, write {program} {shlex.join(['run', *words])}"
    close = difflib.get_close_matches(word.lower(), verbs, n=1)
    return f"; did you mean {close[0]!r}?" if close else f". Commands: {', '.join(sorted(verbs))}."
