"""`nanogpt-kit sample RUN`: let a run's model write."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from nanogpt_kit.cli.experiment import STEP, TRUST, WEIGHTS, check_overrides
from nanogpt_kit.core.errors import KitError

if TYPE_CHECKING:
    from nanogpt_kit.generate.loaded import LoadedRun, Piece

LINE = "-" * 80
HISTORY = 1000  # lines
INTERRUPTED = 130  # as a shell says it


@click.command()
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--prompt", help="What the text begins with.")
@click.option("--prompt-file", type=click.Path(path_type=Path), help="A file with the prompt; - is stdin.")
@click.option(
    "--jsonl",
    type=click.Path(path_type=Path),
    help='A file with a {"prompt": ...} a line; - is stdin. Each comes back with its "text", as a line.',
)
@click.option("--json", "as_json", is_flag=True, help="Lines of JSON instead of text.")
@click.option("--logprobs", is_flag=True, help="Tokens with the log-probabilities that the model gave them, in JSON.")
@click.option("--num-samples", type=click.IntRange(1), help="Texts for each prompt.  [default: sample.num_samples]")
@click.option("--max-new-tokens", type=click.IntRange(0), help="Tokens of each.  [default: sample.max_new_tokens]")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of the draws; text number i uses seed + i.")
@click.option("--stop", multiple=True, help="A text ends before it; may be given several times.")
@STEP
@WEIGHTS
@TRUST
def sample(
    run: str,
    overrides: tuple[str, ...],
    prompt: str | None,
    prompt_file: Path | None,
    jsonl: Path | None,
    as_json: bool,
    logprobs: bool,
    num_samples: int | None,
    max_new_tokens: int | None,
    seed: int | None,
    stop: tuple[str, ...],
    step: int | None,
    weights: str | None,
    trust_code: bool,
) -> None:
    """Write text with RUN: a run folder, the name of an experiment (then its newest run), or an exported model.

    Without a prompt it asks for one on a terminal, and otherwise takes what comes on stdin, or else sample.prompt.
    KEY=VALUE overrides [sample] and the samplers, as in sampler.0.value=0.5 or 'sampler=["top_p"]'. A model in
    another program's format may need its tokenizer, as in tokenizer=byte; without one it is GPT-2's.
    """
    if sum(source is not None for source in (prompt, prompt_file, jsonl)) > 1:
        raise KitError("--prompt, --prompt-file and --jsonl are three ways to say the same; take one")
    strange = [text for text in overrides if "=" not in text]
    if strange:
        raise KitError(f"command line: expected key=value, got {strange[0]!r}; a prompt goes behind --prompt")
    check_overrides(overrides, ("sample", "sampler"), [run])
    asked = None if jsonl is None else read_records(jsonl)  # before a large model is loaded for nothing
    told = prompt if prompt_file is None else read(prompt_file, "--prompt-file")
    in_json = jsonl is not None or as_json or logprobs
    from nanogpt_kit.generate.loaded import load_run
    from nanogpt_kit.train.precision import choose_device

    loaded = load_run(run, choose_device("auto"), trust_code, overrides, weights, step)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": stop or None, "logprobs": logprobs}
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every locale knows what a model writes
    if asked is None and told is None:
        if is_terminal(sys.stdin) and is_terminal(sys.stdout) and not in_json:
            converse(loaded, options, seed, num_samples or max(1, loaded.experiment.sample.num_samples))
            return
        piped = "" if is_terminal(sys.stdin) else read(Path("-"))
        told = piped or loaded.experiment.sample.prompt
    if asked is not None:
        check_prompts(asked, loaded)
    wanted = num_samples or (1 if asked else max(1, loaded.experiment.sample.num_samples))
    given: Iterable[dict[str, Any]] = [{"prompt": told}] if asked is None else asked.values()
    records = [record for record in given for _ in range(wanted)]
    pace = Pace()
    pieces = pace.count(loaded.pieces([record["prompt"] for record in records], seed=seed, **options))
    try:
        if in_json:
            write_records(records, pieces, logprobs)
        else:
            write_texts([record["prompt"] for record in records], pieces)
    except BrokenPipeError:  # whoever read has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered goes nowhere
    with suppress(BrokenPipeError):  # where stderr goes the same way
        click.echo(str(pace), err=True)


@dataclass
class Pace:
    """How fast tokens come, from the moment that the first was asked for."""

    tokens: int = 0
    seconds: float = 0.0

    def count(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        began = time.perf_counter()
        for piece in pieces:
            self.tokens += piece.token is not None
            self.seconds = time.perf_counter() - began
            yield piece

    def __str__(self) -> str:
        rate = self.tokens / self.seconds if self.seconds else 0.0
        return f"{self.tokens:,} tokens in {self.seconds:.2f} s, {rate:,.1f} a second"


def write_texts(prompts: Sequence[str], pieces: Iterable[Piece]) -> None:
    """All at a time, and shown one after the other: the first that is not done as it comes."""
    texts = list(prompts)
    done: set[int] = set()
    current = 0
    show(texts[0])
    for piece in pieces:
        texts[piece.number] += piece.text
        if piece.number == current:
            show(piece.text)
        if piece.ended:
            done.add(piece.number)
        while current in done:
            show("\n")
            current += 1
            if current < len(texts):
                show(f"{LINE}\n{texts[current]}")


def write_records(records: Sequence[dict[str, Any]], pieces: Iterable[Piece], logprobs: bool) -> None:
    """A line each, in their order, as soon as those before it are written. What was asked is carried along."""
    found = [
        {**record, "text": "", "tokens": 0, **({"token_ids": [], "logprobs": []} if logprobs else {})}
        for record in records
    ]
    done: set[int] = set()
    current = 0
    for piece in pieces:
        record = found[piece.number]
        record["text"] += piece.text
        record["tokens"] += piece.token is not None
        if logprobs and piece.token is not None:
            record["token_ids"].append(piece.token)
            record["logprobs"].append(piece.logprob)
        if piece.ended:
            record["ended"] = piece.ended
            done.add(piece.number)
        while current in done:
            show(json.dumps(found[current], ensure_ascii=False) + "\n")
            current += 1


def show(text: str) -> None:
    click.echo(text, nl=False, color=True)  # else it would take escape sequences out of what is piped


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()  # None: it was closed


def read(path: Path, option: str = "") -> str:
    """A file's text, or stdin's where it is -. Raises KitError."""
    try:
        if str(path) != "-":
            return path.read_text(encoding="utf-8-sig")
        return io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig").read() if sys.stdin else ""
    except (OSError, UnicodeDecodeError) as error:
        place = f"{option} {path}" if str(path) != "-" else "stdin"
        raise KitError(f"{place} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """By their places, file:line. Raises KitError with each fault."""
    lines = read(path, "--jsonl").split("\n")  # splitlines would also cut where JSON's strings may go on
    records: dict[str, dict[str, Any]] = {}
    faults = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            record = json.loads(line)
            json.dumps(record, ensure_ascii=False, allow_nan=False).encode()  # what could not be written again
        except (ValueError, RecursionError) as error:
            faults.append(f"{place}: no JSON: {error}")
            continue
        if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
            faults.append(f'{place}: expected an object with a string "prompt", got {line[:80]}')
        else:
            records[place] = record
    if faults or not records:
        raise KitError(*(faults or [f"{path} holds no prompts"]))
    return records


def check_prompts(records: dict[str, dict[str, Any]], loaded: LoadedRun) -> None:
    """Raises KitError with each prompt that the vocabulary cannot tell."""
    from nanogpt_kit.generate.loaded import encode_prompt

    faults = []
    for place, record in records.items():
        try:
            encode_prompt(loaded.encoder, record["prompt"])
        except KitError as error:
            faults.append(f"{place}: {error}")
    if faults:
        raise KitError(*faults)


def converse(loaded: LoadedRun, options: dict[str, Any], seed: int | None, num_samples: int) -> None:
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
                write_texts(prompts, pace.count(loaded.pieces(prompts, seed=number, **options)))
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
        from nanogpt_kit.runs.trust import ledger

        self.file = ledger().with_name("prompts")
        with suppress(ImportError, OSError):  # Windows has no readline
            import readline

            readline.set_history_length(HISTORY)
            readline.read_history_file(self.file)

    def __exit__(self, *_: object) -> None:
        with suppress(ImportError, OSError):
            import readline

            self.file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(self.file)
