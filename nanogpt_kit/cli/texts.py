"""Generated texts on standard output, and how fast they were generated."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.json_output import print_json
from nanogpt_kit.cli.output import is_terminal
from nanogpt_kit.core.errors import printable

if TYPE_CHECKING:
    from nanogpt_kit.generate.generator import GeneratedToken

SEPARATOR = "-" * 80  # between texts


@dataclass
class TokenRate:
    """Tokens per second, measured from the request for the first token."""

    tokens: int = 0
    seconds: float = 0.0

    def measure(self, generated: Iterable[GeneratedToken]) -> Iterator[GeneratedToken]:
        """Yields the same items, counting tokens and seconds."""
        start = time.perf_counter()
        for token in generated:
            self.tokens += token.token is not None
            self.seconds = time.perf_counter() - start
            yield token

    def __str__(self) -> str:
        rate = self.tokens / self.seconds if self.seconds else 0.0
        return f"{self.tokens:,} tokens in {self.seconds:.2f} s, {rate:,.1f} tokens/s"


def print_texts(prompts: Sequence[str], generated: Iterable[GeneratedToken], raw: bool = False) -> None:
    """Prints texts in order while a batch is generated; the first one that is not complete is printed as it grows."""
    texts = list(prompts)
    complete: set[int] = set()
    current = 0
    print_prompt(texts[0], raw)
    for token in generated:
        texts[token.text_index] += token.text
        if token.text_index == current:
            print_generated(token.text, raw)
        if token.finish_reason:
            complete.add(token.text_index)
        while current in complete:
            print_generated("\n")
            current += 1
            if current < len(texts):
                print_generated(f"{SEPARATOR}\n")
                print_prompt(prompts[current], raw)
                print_generated(texts[current].removeprefix(prompts[current]), raw)


def print_records(records: Sequence[dict[str, Any]], generated: Iterable[GeneratedToken], logprobs: bool) -> None:
    """Prints a line of JSON for each text, in order: the record with its prompt, and the generated text."""
    results = [
        {**record, "text": "", "tokens": 0, **({"token_ids": [], "logprobs": []} if logprobs else {})}
        for record in records
    ]
    complete: set[int] = set()
    current = 0
    for token in generated:
        result = results[token.text_index]
        result["text"] += token.text
        result["tokens"] += token.token is not None
        if logprobs and token.token is not None:
            result["token_ids"].append(token.token)
            result["logprobs"].append(token.logprob)
        if token.finish_reason:
            result["finish_reason"] = token.finish_reason
            complete.add(token.text_index)
        while current in complete:
            print_json(results[current], indent=None)
            current += 1


def print_prompt(text: str, raw: bool = False) -> None:
    """Prints the beginning of a text: in bold on a terminal, unless it shows no styles."""
    if raw or not text or not is_terminal(sys.stdout) or has_plain_terminal():
        print_generated(text, raw)
    else:
        click.echo(click.style(printable(text), bold=True), nl=False, color=True)


def has_plain_terminal() -> bool:
    """Whether styles are off: by NO_COLOR (https://no-color.org), or since the terminal does not know them."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "unknown")


def print_generated(text: str, raw: bool = False, err: bool = False) -> None:
    """Prints text of a model unchanged into a pipe or file; on a terminal its control characters are escaped.

    Each character is escaped by itself, so it does not matter where an escape sequence is cut into pieces.
    """
    if not raw and is_terminal(sys.stderr if err else sys.stdout):
        text = printable(text)
    click.echo(text, nl=False, err=err, color=True)  # color: click would remove escape sequences from piped text
