"""`nanogpt-kit sample RUN`: let a run's model write."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from nanogpt_kit.cli.experiment import STEP, TRUST, WEIGHTS, check_overrides
from nanogpt_kit.cli.paths import expand
from nanogpt_kit.cli.prompts import check_prompts, is_terminal, read, read_records
from nanogpt_kit.cli.writing import Pace, converse, write_records, write_texts
from nanogpt_kit.core.errors import KitError


@click.command()
@click.argument("run", callback=expand)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--prompt", help="What the text begins with.")
@click.option(
    "--prompt-file", type=click.Path(path_type=Path), callback=expand, help="A file with the prompt; - is stdin."
)
@click.option(
    "--jsonl",
    type=click.Path(path_type=Path),
    callback=expand,
    help='A file with a {"prompt": ...} a line; - is stdin. Each comes back with its "text", as a line.',
)
@click.option("--json", "as_json", is_flag=True, help="Lines of JSON instead of text.")
@click.option("--logprobs", is_flag=True, help="Tokens with the log-probabilities that the model gave them, in JSON.")
@click.option(
    "--num-samples", type=click.IntRange(1, 10**6), help="Texts for each prompt.  [default: sample.num_samples]"
)
@click.option(
    "--max-new-tokens", type=click.IntRange(0, 10**9), help="Tokens of each.  [default: sample.max_new_tokens]"
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of the draws; text number i uses seed + i.")
@click.option("--stop", multiple=True, help="A text ends before it; may be given several times.")
@click.option("--raw", is_flag=True, help="Do not escape control characters of text on a terminal.")
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
    raw: bool,
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
    place = "--prompt" if prompt_file is None else f"--prompt-file {prompt_file}"
    in_json = jsonl is not None or as_json or logprobs
    from nanogpt_kit.generate.load import load_run
    from nanogpt_kit.train.precision import choose_device

    loaded = load_run(run, choose_device("auto"), trust_code, overrides, weights, step)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": stop or None, "logprobs": logprobs}
    if asked is None and told is None:
        if is_terminal(sys.stdin) and is_terminal(sys.stdout) and not in_json:
            converse(loaded, options, seed, num_samples or max(1, loaded.experiment.sample.num_samples), raw)
            return
        piped = "" if is_terminal(sys.stdin) else read(Path("-"))
        told = piped or loaded.experiment.sample.prompt
        place = "stdin" if piped else "sample.prompt"
    if asked is not None:
        check_prompts(asked, loaded)
    else:
        check_prompts({place: {"prompt": told}}, loaded, "sample.prompt" if place == "sample.prompt" else "--prompt")
    wanted = num_samples or (1 if asked else max(1, loaded.experiment.sample.num_samples))
    given: Iterable[dict[str, Any]] = [{"prompt": told}] if asked is None else asked.values()
    records = [record for record in given for _ in range(wanted)]
    pace = Pace()
    pieces = pace.count(loaded.stream_tokens([record["prompt"] for record in records], seed=seed, **options))
    if in_json:
        write_records(records, pieces, logprobs, raw)
    else:
        write_texts([record["prompt"] for record in records], pieces, raw)
    click.echo(str(pace), err=True)
