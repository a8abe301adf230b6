"""What `nanogpt-kit bench` prints of its measurements."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.core.errors import KitError

if TYPE_CHECKING:
    from nanogpt_kit.bench.generation import GenerationTiming
    from nanogpt_kit.bench.rounds import Timing
    from nanogpt_kit.core.experiment import Experiment


def check_tokens(experiment: Experiment) -> None:
    if not experiment.sample.max_new_tokens:
        raise KitError("sample.max_new_tokens is 0: there is nothing to time")


def read_rate_text(timing: GenerationTiming) -> str:
    """How fast weights and cache are read, beside the speed of memory."""
    used, plain = statistics.median(timing.bytes_per_second) / 1e9, timing.read_bytes_per_second / 1e9
    return f"{used:,.1f} GB/s of weights and cache read: {timing.read_fraction:.2f} of the {plain:,.1f} of a plain read"


def json_of_generation(timing: GenerationTiming) -> dict[str, Any]:
    from nanogpt_kit.bench.rounds import median_interval

    return {
        "texts": timing.texts,
        "tokens": timing.tokens,
        "precision": timing.precision,
        "tokens_per_second": statistics.median(timing.rates),
        "interval": median_interval(timing.rates),
        "rounds": timing.rates,
        "bytes_per_second": statistics.median(timing.bytes_per_second),
        "read_bytes_per_second": timing.read_bytes_per_second,
        "read_fraction": timing.read_fraction,
        "copy_bytes_per_second": timing.copy_bytes_per_second,
    }


def rounds_text(count: int) -> str:
    from nanogpt_kit.bench.rounds import MIN_ROUNDS

    return f"{count} round{'s' * (count > 1)}{', too few for 95%' * (count < MIN_ROUNDS)}"


def json_of_timing(timing: Timing) -> dict[str, Any]:
    from nanogpt_kit.bench.rounds import median_interval

    return {
        **timing.facts,
        "tokens_per_second": timing.tokens_per_second,
        "interval": median_interval(timing.rounds),
        "rounds": timing.rounds,
        "steps_per_round": timing.steps,
        "parts_ms": {part: 1000 * seconds for part, seconds in timing.parts.items()},
        "mfu": timing.mfu,
        "peak_memory_bytes": timing.memory,
    }


def show_timing(timing: Timing) -> None:
    facts = json_of_timing(timing)
    threads = f" ({facts['threads']})" if facts["device"] == "cpu" else ""
    print_lines(f"  {facts['device']}{threads}, {facts['precision']} ({facts['precision_since']})")
    print_lines(f"  compile: {facts['compile']} ({facts['compile_since']})")
    for key, choice in facts["choices"].items():
        print_lines(f"  {key}: {choice}")
    low, high = facts["interval"]
    rounds = f"{rounds_text(len(timing.rounds))}; steps per round: {timing.steps}"
    print_lines(f"  {facts['tokens_per_second']:,.0f} tokens/s ({low:,.0f} to {high:,.0f}, {rounds})")
    parts = ", ".join(f"{part} {ms:,.2f}" for part, ms in facts["parts_ms"].items())
    print_lines(f"  {1000 * facts['step_tokens'] / facts['tokens_per_second']:,.2f} ms per step: {parts}")
    peak = f"{facts['peak_flops'] / 1e9:,.0f} GFLOP/s"
    if timing.mfu is None:
        print_lines(
            f"  MFU unknown: the FLOPs of the model cannot be counted; {facts['precision']} products reach {peak}"
        )
    else:
        flops = f"{facts['flops_per_token'] / 1e6:,.1f} MFLOPs per token"
        print_lines(f"  MFU {timing.mfu:.1%}: {flops}, relative to {peak} of {facts['precision']} matrix products here")
    if timing.memory is not None:
        print_lines(f"  {timing.memory / 2**20:,.0f} MiB peak memory")
