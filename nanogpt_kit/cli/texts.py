"""Generated texts on standard output, and how fast they were generated."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.output import is_terminal
from nanogpt_kit.core.errors import printable

if TYPE_CHECKING:
    from nanogpt_kit.generate.generator import GeneratedToken

SEPARATOR = "-" * 80  # between texts


@dataclass
class TokenRate:
    """Tokens per second, from the request for the first one on."""

    tokens: int = 0
    seconds: float = 0.0

    def measure(self, pieces: Iterable[GeneratedToken]) -> Iterator[GeneratedToken]:
        """Passes the pieces on and counts their tokens."""
        start = time.perf_counter()
        for piece in pieces:
            self.tokens += piece.token is not None
            self.seconds = time.perf_counter() - start
            yield piece

    def __str__(self) -> str:
        rate = self.tokens / self.seconds if self.seconds else 0.0
        return f"{self.tokens:,} tokens in {self.seconds:.2f} s, {rate:,.1f} tokens/s"


def print_texts(prompts: Sequence[str], pieces: Iterable[GeneratedToken], raw: bool = False) -> None:
    """Texts are generated at once and printed in order; the first one that is not complete is printed as it grows."""
    texts = list(prompts)
    complete: set[int] = set()
    current = 0
    print_generated(texts[0], raw)
    for piece in pieces:
        texts[piece.text_index] += piece.text
        if piece.text_index == current:
            print_generated(piece.text, raw)
        if piece.finish_reason:
            complete.add(piece.text_index)
        while current in complete:
            print_generated("\n")
            current += 1
            if current < len(texts):
                print_generated(f"{SEPARATOR}\n{texts[current]}", raw)


def print_records(
    records: Sequence[dict[str, Any]], pieces: Iterable[GeneratedToken], logprobs: bool, raw: bool = False
) -> None:
    """A line of JSON for each text, in order: the record with its prompt, extended by what was generated."""
    results = [
        {**record, "text": "", "tokens": 0, **({"token_ids": [], "logprobs": []} if logprobs else {})}
        for record in records
    ]
    complete: set[int] = set()
    current = 0
    for piece in pieces:
        result = results[piece.text_index]
        result["text"] += piece.text
        result["tokens"] += piece.token is not None
        if logprobs and piece.token is not None:
            result["token_ids"].append(piece.token)
            result["logprobs"].append(piece.logprob)
        if piece.finish_reason:
            result["ended"] = piece.finish_reason
            complete.add(piece.text_index)
        while current in complete:
            print_generated(json.dumps(results[current], ensure_ascii=False) + "\n", raw)
            current += 1


def print_generated(text: str, raw: bool = False, err: bool = False) -> None:
    """Prints text of a model unchanged into a pipe or file; on a terminal its control characters are escaped.

    Each character is escaped by itself, so it does not matter where an escape sequence is cut into pieces.
    """
    if not raw and is_terminal(sys.stderr if err else sys.stdout):
        text = printable(text)
    click.echo(text, nl=False, err=err, color=True)  # color: click would remove escape sequences from piped text
