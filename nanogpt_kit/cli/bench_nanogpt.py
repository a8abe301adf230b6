"""`nanogpt-kit bench EXP --nanogpt DIR`: a row of the tables in docs/guide/performance.md."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nanogpt_kit import __version__
from nanogpt_kit.cli.bench_text import check_tokens, json_of_generation, read_rate_text, rounds_text
from nanogpt_kit.cli.json_output import print_json
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.runs.secrets import hide_in_command
from nanogpt_kit.system.folders import available_cores

if TYPE_CHECKING:
    from nanogpt_kit.bench.nanogpt_comparison import Comparison, Row
    from nanogpt_kit.core.experiment import Experiment

WAITING = {"asleep": "nanoGPT, idle threads asleep", "default": "nanoGPT, OpenMP's default"}


def bench_beside_nanogpt(
    experiment: Experiment,
    source: tuple[str, tuple[str, ...], bool],
    folder: str,
    texts: int | None,
    rounds: int,
    seconds: float,
    as_json: bool,
) -> None:
    """`source` is what the experiment was loaded from: its path, the overrides, whether code is trusted."""
    from nanogpt_kit.bench.nanogpt_checkout import Checkout
    from nanogpt_kit.bench.nanogpt_generation import compare_generation
    from nanogpt_kit.bench.nanogpt_training import compare_training
    from nanogpt_kit.nn.uninitialized import check_model_parts

    checkout = Checkout.open(folder)
    check_model_parts(experiment)
    load = functools.partial(load_with, *source)
    if texts is None:
        comparison = compare_training(experiment, load, checkout, rounds, seconds)
    else:
        check_tokens(experiment)
        comparison = compare_generation(experiment, load, checkout, texts, rounds, seconds)
    name = hide_in_command([experiment.name, *source[1]])
    if as_json:
        print_json(json_of_comparison(name, comparison))
    else:
        lines = [*condition_lines(comparison), "", *table_lines(name, comparison), "", *remarks(comparison)]
        print_lines("\n".join(lines).rstrip())


def load_with(path: str, overrides: Sequence[str], trust_code: bool, more: Sequence[str]) -> Experiment:
    from nanogpt_kit.core.experiment import Experiment

    return Experiment.load(path, [*overrides, *more], trust_code)


def condition_lines(comparison: Comparison) -> list[str]:
    """On what, with what and how it was measured."""
    from nanogpt_kit.bench.rounds import MIN_ROUNDS

    machine = machine_record(comparison)
    rounds = len(comparison.rows[0].rates)
    interval = "95% interval" if rounds >= MIN_ROUNDS else "lowest to highest"
    chip = f"{machine['cores']} core{'s' * (machine['cores'] > 1)} of {machine['cpu']}"
    return [
        f"{machine['gpu'] or chip}, torch {machine['torch']}, {datetime.now(UTC):%Y-%m-%d}",
        f"{comparison.checkout}, nanogpt-kit {__version__}",
        f"tokens/s, medians of {rounds_text(rounds)}; ratios within a round: median ({interval})",
    ]


def work_text(comparison: Comparison) -> str:
    """The sizes of the model, and what is timed."""
    model, timing = comparison.model, comparison.timing
    sizes = f"{model['n_layer']} layers, {model['n_embd']} wide"
    if timing is None:
        windows = comparison.experiment.train.batch_tokens // model["block_size"]
        return f"{sizes}, {windows} window{'s' * (windows > 1)} of {model['block_size']} tokens"
    texts = f"{timing.texts} texts" if timing.texts > 1 else "one text"
    return f"{sizes}, {texts} of {timing.tokens} tokens"


def machine_record(comparison: Comparison) -> dict[str, Any]:
    import torch

    from nanogpt_kit.bench.machine_facts import processor_name
    from nanogpt_kit.train.precision import choose_device

    device = choose_device(comparison.experiment.train.device)
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {"cpu": processor_name(), "cores": len(available_cores()), "gpu": gpu, "torch": str(torch.__version__)}


def table_lines(name: str, comparison: Comparison) -> list[str]:
    """A table in Markdown with one row, so that the rows of several experiments make one table."""
    theirs = [WAITING[row.settings] for row in comparison.theirs] if len(comparison.theirs) > 1 else ["nanoGPT"]
    names = ["experiment", *theirs]
    cells = [f"`{name}`: {work_text(comparison)}", *(rate_text(row) for row in comparison.theirs)]
    for row in comparison.ours:
        names += [row.settings, "ratio" if len(comparison.theirs) == 1 else "ratios"]
        cells += [rate_text(row), ", ".join(map(ratio_text, comparison.ratios(row)))]
    return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", f"| {' | '.join(cells)} |"]


def rate_text(row: Row) -> str:
    rate = statistics.median(row.rates)
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def ratio_text(ratios: Sequence[float]) -> str:
    from nanogpt_kit.bench.rounds import median_interval

    low, high = median_interval(ratios)
    return f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"


def remarks(comparison: Comparison) -> list[str]:
    """What the table does not show: differences, the speed of memory, whether the texts are the same."""
    lines = []
    if comparison.differences:
        lines += ["nanoGPT lacks parts of the experiment, and computes with its own in their place:"]
        lines += [f"  {difference}" for difference in comparison.differences]
    if comparison.timing is not None:
        lines += [f"{comparison.ours[-1].settings}: {read_rate_text(comparison.timing)}", greedy_text(comparison)]
    return lines


def greedy_text(comparison: Comparison) -> str:
    equal, count = comparison.equal_greedy_tokens, comparison.greedy_tokens
    if equal is None:
        return "greedy texts are not compared: each program has its own weights"
    if equal == count:
        return f"greedy texts of {count} tokens are identical in fp32"
    return f"greedy texts differ in fp32: of {count} tokens the first {equal} are identical"


def json_of_comparison(name: str, comparison: Comparison) -> dict[str, Any]:
    from nanogpt_kit.bench.rounds import median_interval

    rows = [
        {
            "program": row.program,
            "settings": row.settings,
            "tokens_per_second": statistics.median(row.rates),
            "interval": median_interval(row.rates),
            "rounds": row.rates,
        }
        for row in comparison.rows
    ]
    ratios = [
        {
            "row": row.settings,
            "to": other.settings,
            "median": statistics.median(found),
            "interval": median_interval(found),
            "rounds": found,
        }
        for row in comparison.ours
        for other, found in zip(comparison.theirs, comparison.ratios(row), strict=True)
    ]
    checkout, timing = comparison.checkout, comparison.timing
    return {
        "experiment": name,
        "nanogpt": {"folder": str(checkout.folder), "commit": checkout.commit, "modified": list(checkout.modified)},
        "machine": machine_record(comparison),
        "model": comparison.model,
        "rows": rows,
        "ratios": ratios,
        "differences": comparison.differences,
        "sample": None if timing is None else json_of_generation(timing),
        "greedy": {"tokens": comparison.greedy_tokens, "equal": comparison.equal_greedy_tokens} if timing else None,
    }
