"""Interactive generation: prompts are typed at a terminal."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.texts import TokenRate, print_texts
from nanogpt_kit.core.errors import INTERRUPTED, KitError

if TYPE_CHECKING:
    from nanogpt_kit.generate.generator import TextGenerator

HISTORY_LINES = 1000


def converse(
    generator: TextGenerator, options: dict[str, Any], seed: int | None, num_samples: int, raw: bool = False
) -> None:
    """Reads prompts and prints texts for each, until the input ends."""
    # __main__ turns SIGTERM into KeyboardInterrupt, like Ctrl-C, which ends a text here and not the command
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))
    next_seed = generator.experiment.sample.seed if seed is None else seed
    print_lines("Type the beginning of a text. Ctrl-C stops a text, Ctrl-D ends the conversation.", err=True)
    with PromptHistory():
        while True:
            try:
                prompt = input("> ")
            except EOFError:
                click.echo(err=True)
                return
            except KeyboardInterrupt:
                click.echo(err=True)
                continue
            except UnicodeDecodeError as error:
                print_lines(f"error: {error}", err=True)
                continue
            rate = TokenRate()
            prompts = [prompt] * num_samples
            try:
                print_texts(prompts, rate.measure(generator.stream_tokens(prompts, seed=next_seed, **options)), raw)
            except KitError as error:
                print_lines(f"error: {error}", err=True)
                continue
            except KeyboardInterrupt:
                click.echo()
            click.echo(str(rate), err=True)
            next_seed += num_samples  # the same prompt gives another text


class PromptHistory:
    """Recalls earlier prompts with the arrow keys, also those of earlier sessions."""

    def __enter__(self) -> None:
        from nanogpt_kit.system.folders import state_dir

        self.file = state_dir() / "prompts"
        with suppress(ImportError, OSError):  # Windows has no readline
            import readline

            readline.set_history_length(HISTORY_LINES)
            readline.read_history_file(self.file)

    def __exit__(self, *_: object) -> None:
        with suppress(ImportError, OSError):
            import readline

            self.file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(self.file)
