"""Texts as they are shown, and the conversation with a model."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.prompts import is_terminal
from nanogpt_kit.core.errors import KitError, printable

if TYPE_CHECKING:
    from nanogpt_kit.generate.generator import GeneratedToken, TextGenerator

LINE = "-" * 80
HISTORY = 1000  # lines
INTERRUPTED = 130  # as a shell says it


@dataclass
class Pace:
    """How fast tokens come, from the moment that the first was asked for."""

    tokens: int = 0
    seconds: float = 0.0

    def count(self, pieces: Iterable[GeneratedToken]) -> Iterator[GeneratedToken]:
        began = time.perf_counter()
        for piece in pieces:
            self.tokens += piece.token is not None
            self.seconds = time.perf_counter() - began
            yield piece

    def __str__(self) -> str:
        rate = self.tokens / self.seconds if self.seconds else 0.0
        return f"{self.tokens:,} tokens in {self.seconds:.2f} s, {rate:,.1f} a second"


def write_texts(prompts: Sequence[str], pieces: Iterable[GeneratedToken], raw: bool = False) -> None:
    """All at a time, and shown one after the other: the first that is not done as it comes."""
    texts = list(prompts)
    done: set[int] = set()
    current = 0
    show(texts[0], raw)
    for piece in pieces:
        texts[piece.text_index] += piece.text
        if piece.text_index == current:
            show(piece.text, raw)
        if piece.finish_reason:
            done.add(piece.text_index)
        while current in done:
            show("\n")
            current += 1
            if current < len(texts):
                show(f"{LINE}\n{texts[current]}", raw)


def write_records(
    records: Sequence[dict[str, Any]], pieces: Iterable[GeneratedToken], logprobs: bool, raw: bool = False
) -> None:
    """A line each, in their order, as soon as those before it are written. What was asked is carried along."""
    found = [
        {**record, "text": "", "tokens": 0, **({"token_ids": [], "logprobs": []} if logprobs else {})}
        for record in records
    ]
    done: set[int] = set()
    current = 0
    for piece in pieces:
        record = found[piece.text_index]
        record["text"] += piece.text
        record["tokens"] += piece.token is not None
        if logprobs and piece.token is not None:
            record["token_ids"].append(piece.token)
            record["logprobs"].append(piece.logprob)
        if piece.finish_reason:
            record["ended"] = piece.finish_reason
            done.add(piece.text_index)
        while current in done:
            show(json.dumps(found[current], ensure_ascii=False) + "\n", raw)
            current += 1


def show(text: str, raw: bool = False, err: bool = False) -> None:
    """Text that a model wrote: to the byte into a pipe or a file; its control characters escaped on a terminal.

    Each is escaped by itself, so that it does not matter into which pieces a sequence is divided.
    """
    if not raw and is_terminal(sys.stderr if err else sys.stdout):
        text = printable(text)
    click.echo(text, nl=False, err=err, color=True)  # else it would take escape sequences out of what is piped


def converse(
    loaded: TextGenerator, options: dict[str, Any], seed: int | None, num_samples: int, raw: bool = False
) -> None:
    """Prompts from a terminal, and texts for each, until the input ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))  # Ctrl-C, as which it else comes, ends nothing here
    number = loaded.experiment.sample.seed if seed is None else seed
    click.echo("Type what a text begins with. Ctrl-C stops a text, Ctrl-D ends.", err=True)
    with history():
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
                click.echo(f"error: {error}", err=True)
                continue
            pace = Pace()
            try:
                prompts = [prompt] * num_samples
                write_texts(prompts, pace.count(loaded.stream_tokens(prompts, seed=number, **options)), raw)
            except KitError as error:
                click.echo(f"error: {error}", err=True)
                continue
            except KeyboardInterrupt:
                click.echo()
            click.echo(str(pace), err=True)
            number += num_samples  # another text, also where the prompt is the same


class history:
    """Earlier prompts at the arrow keys, of earlier sessions, too."""

    def __enter__(self) -> None:
        from nanogpt_kit.core.trust import trusted_hashes_file

        self.file = trusted_hashes_file().with_name("prompts")
        with suppress(ImportError, OSError):  # Windows has no readline
            import readline

            readline.set_history_length(HISTORY)
            readline.read_history_file(self.file)

    def __exit__(self, *_: object) -> None:
        with suppress(ImportError, OSError):
            import readline

            self.file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(self.file)
