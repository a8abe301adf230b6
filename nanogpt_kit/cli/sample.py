"""`nanogpt-kit sample RUN`: generate text with a run's model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.candidates import run_candidates
from nanogpt_kit.cli.conversation import converse
from nanogpt_kit.cli.experiment import OVERRIDES, STEP, TRUST, WEIGHTS, check_overrides, print_notes
from nanogpt_kit.cli.json_output import reserve_stdout
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.option_remedy import OVERRIDABLE
from nanogpt_kit.cli.output import is_terminal
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.cli.prompts import check_prompts, read_prompt, read_prompt_records
from nanogpt_kit.cli.texts import TokenRate, print_records, print_texts
from nanogpt_kit.core.errors import KitError

if TYPE_CHECKING:
    from nanogpt_kit.generate.generator import TextGenerator

SEED = click.IntRange(0, 2**63 - 1)


def check_seed(ctx: click.Context, option: click.Parameter, value: int | None) -> int | None:
    """As the type of the option SEED would add its bounds to the help, 19 digits that narrow terminals break."""
    return None if value is None else int(SEED.convert(value, option, ctx))


@click.command()
@click.argument("run", callback=expand_path_argument, shell_complete=run_candidates)
@OVERRIDES
@click.option("--prompt", help="Beginning of the text.")
@click.option(
    "--prompt-file",
    type=click.Path(path_type=Path),
    callback=expand_path_argument,
    help="File with the prompt; - for standard input.",
)
@click.option(
    "--jsonl",
    type=click.Path(path_type=Path),
    callback=expand_path_argument,
    help='File with {"prompt": ...} on each line; - for standard input. Prints each line with its "text" added.',
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object per text, one per line.")
@click.option("--logprobs", is_flag=True, help="As --json, with token ids and the model's log-probabilities of them.")
@click.option("--num-samples", type=click.IntRange(1, 10**6), help="Texts per prompt.  [default: sample.num_samples]")
@click.option(
    "--max-new-tokens", type=click.IntRange(0, 10**9), help="Tokens per text.  [default: sample.max_new_tokens]"
)
@click.option(
    "--seed", type=int, callback=check_seed, help="Seed for sampling; text i uses seed + i.  [default: sample.seed]"
)
@click.option("--stop", multiple=True, help="End a text before this string; repeatable.")
@click.option("--raw", is_flag=True, help="Do not escape control characters in texts on a terminal.")
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
    """Generate text with RUN: a run folder, a run id, an experiment's name, or an exported model.

    NAME is the newest finished run of an experiment, NAME@best the one with the lowest validation loss, and RUN@STEP
    an earlier checkpoint. The run is printed on standard error.

    Without --prompt, --prompt-file and --jsonl, sample asks for prompts on a terminal, or reads standard input; if that
    is empty, sample.prompt is used. KEY=VALUE overrides [sample] and the samplers, as in sampler.temperature=0.5 or
    'sampler=["top_p"]'. For a model in another program's format it may also name the tokenizer, as in tokenizer=byte;
    the default is GPT-2's.
    """
    if sum(source is not None for source in (prompt, prompt_file, jsonl)) > 1:
        raise KitError("--prompt, --prompt-file and --jsonl exclude each other; give one of them")
    words = [text for text in overrides if "=" not in text]
    if words:
        raise KitError(f"command line: expected key=value, got {words[0]!r}; a prompt is given with --prompt")
    check_overrides(overrides, OVERRIDABLE["sample"], [run])
    records = None if jsonl is None else read_prompt_records(jsonl)  # mistakes are found before the model is loaded
    if prompt_file is not None:
        prompt = read_prompt(prompt_file, "--prompt-file")
    as_json = as_json or logprobs or jsonl is not None
    if as_json:
        reserve_stdout(click.get_current_context())
    from nanogpt_kit.generate.load import load_model
    from nanogpt_kit.generate.source import find_model
    from nanogpt_kit.train.precision import choose_device

    source = find_model(run, step, weights)
    print_lines(source.described(), err=True)
    generator = load_model(source, choose_device("auto"), trust_code, overrides, weights, ("sampler",))
    print_notes(generator.experiment.layers.notes)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": stop or None, "logprobs": logprobs}
    texts_per_prompt = num_samples or max(1, generator.experiment.sample.num_samples)
    if records is not None:
        check_prompts(records, generator)
        texts_per_prompt = num_samples or 1
    elif prompt is None and is_terminal(sys.stdin) and is_terminal(sys.stdout) and not as_json:
        converse(generator, options, seed, texts_per_prompt, raw)
        return
    else:
        records = read_single_prompt(generator, prompt, prompt_file)
    requests = [record for record in records.values() for _ in range(texts_per_prompt)]
    prompts = [request["prompt"] for request in requests]
    rate = TokenRate()
    generated = rate.measure(generator.stream_tokens(prompts, seed=seed, **options))
    if as_json:
        print_records(requests, generated, logprobs)
    else:
        print_texts(prompts, generated, raw)
    click.echo(str(rate), err=True)


def read_single_prompt(
    generator: TextGenerator, prompt: str | None, prompt_file: Path | None
) -> dict[str, dict[str, Any]]:
    """The prompt that was given, or that of stdin or of the experiment, by its location. Raises KitError."""
    option = "--prompt"
    location = option if prompt_file is None else f"--prompt-file {prompt_file}"
    if prompt is None:
        prompt, location = "" if is_terminal(sys.stdin) else read_prompt(Path("-")), "stdin"
        if not prompt:
            prompt, location = generator.experiment.sample.prompt, "sample.prompt"
            option = location
    records = {location: {"prompt": prompt}}
    check_prompts(records, generator, option)
    return records
