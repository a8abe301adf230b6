"""The tables of an experiment that choose no component: how long, how often, how much."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from nanogpt_kit.core.options import Options, expanded_option

FILE = re.compile(r"(sqlite(?:\+\w+)?:///)(.*)", re.DOTALL)  # a storage of Optuna's


def expanded_storage(named: Any) -> Any:
    """Where it is a file: a URL of a server may hold a password, whose `$` is meant."""
    if not isinstance(named, str):
        return named
    database = FILE.fullmatch(named)
    if database:
        return f"{database[1]}{expanded_option(database[2])}"
    return expanded_option(named) if named.endswith(".journal") else named


class Train(Options):
    """[train]: how long, how much at once, in what arithmetic."""

    steps: int = Field(
        ge=0, le=10**12, description="optimizer updates; 0 only evaluates the model that training would start from"
    )
    batch_tokens: int = Field(ge=1, le=10**12, description="tokens of one update, over all ranks and micro-steps")
    micro_batch_size: Annotated[int, Field(ge=1, le=10**12)] | Literal["auto"] | None = Field(
        None, description="windows of a forward and backward pass on each rank; left out: its whole share; auto: as fit"
    )
    max_tokens: int | None = Field(None, ge=1, description="of training, where that ends the run before `steps` do")
    max_seconds: float | None = Field(
        None, gt=0, description="spent in steps, where that ends the run before `steps` do; schedules do not know of it"
    )
    grad_clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0 leaves it alone")
    seed: int = Field(1337, ge=0, lt=2**63, description="of weights, batches and dropout")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda, else mps, else cpu")
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = Field(
        "auto", description="auto: cuda bf16, else fp16; cpu bf16 where the chip multiplies it natively, else fp32"
    )
    compile: Literal["auto", "off", "default", "max-autotune"] = Field(
        "auto", description="auto: default, where the run is long enough to win back what compiling costs; else off"
    )
    activation_checkpointing: bool = Field(
        False,
        description="whether the backward pass computes blocks again: less memory, a third more to compute",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="most CPU threads; left out: as OMP_NUM_THREADS says, else as a step keeps busy",
    )
    log_every_steps: int = Field(10, ge=1, description="between lines of metrics.jsonl")
    watch: tuple[Literal["updates", "activations", "attention"], ...] = Field(
        (), description="what to look at on logged steps: updates by role, largest activations and attention logits"
    )


class Evaluate(Options):
    """[evaluate]: when the evaluators speak. They always do after the last step."""

    every_steps: int = Field(1000, ge=1, description="steps between evaluations")
    batch_size: int | None = Field(
        None, ge=1, le=10**12, description="windows at once; left out: as many as a micro-batch"
    )


class Checkpoint(Options):
    """[checkpoint]: when the run is saved. It always is after the last step, and when it is interrupted."""

    every_steps: int = Field(1000, ge=1, description="steps between checkpoints")
    keep_last: int = Field(2, ge=1, description="how many to keep, the newest")
    keep_every_steps: int | None = Field(None, ge=1, description="keeps those of its multiples, too")
    keep_best: str | None = Field(
        None, min_length=1, description="keeps that of the lowest value, too, of a metric such as val/loss"
    )


class Sample(Options):
    """[sample]: the text that a finished run writes, and the defaults of `nanogpt-kit sample`."""

    prompt: str = Field("\n", description="what the text begins with")
    num_samples: int = Field(1, ge=0, le=10**6, description="texts to write; 0 writes none after a run")
    max_new_tokens: int = Field(500, ge=0, le=10**9, description="tokens of each text")
    seed: int = Field(1337, ge=0, lt=2**63, description="of the draws; sample number i uses seed + i")
    stop: tuple[str, ...] = Field((), description="strings before which a text ends, as it does at end-of-text")
    on_overflow: Literal["auto", "rolling", "refill", "exact"] = Field(
        "auto",
        description="what a text that outgrows block_size does: the oldest token falls out of the cache (rolling, for "
        "relative positions), the newer half is read anew (refill), or all but the oldest token is, for every new one "
        "(exact, as nanoGPT); auto: rolling where it can be, else refill",
    )
    batch_size: int = Field(16, ge=1, le=10**6, description="texts that are written at a time")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="of the weights; auto: fp16 on an x86 CPU, whose products stay in fp32; else bf16 where the device "
        "multiplies it natively; else fp32",
    )
    compile: Literal["auto", "off", "default"] = Field(
        "auto",
        description="of the step that adds a token; auto: recorded as a CUDA graph on a GPU, off elsewhere, since on a "
        "CPU it gains nothing",
    )


class Sweep(Options):
    """[sweep]: the values to try for some of the experiment's options, how many times, and how to choose them."""

    metric: str = Field("val/loss", min_length=1, description="what trials are ranked by, as metrics.jsonl names it")
    direction: Literal["minimize", "maximize"] = Field(
        "minimize", description="whether the metric's low values are good"
    )
    trials: int = Field(
        20, ge=1, le=10**6, description="how many; where the space holds fewer points, each of them once"
    )
    sampler: Literal["tpe", "random", "qmc", "grid", "cmaes"] = Field(
        "tpe",
        description="chooses the values: tpe and cmaes learn from earlier trials, qmc spreads evenly, grid takes all",
    )
    seed: int = Field(1337, ge=0, lt=2**31, description="of the sampler")
    pruner: Literal["none", "median", "asha", "hyperband", "patience"] = Field(
        "none",
        description="what ends bad trials early: those below the median, below the best of a rung (asha, hyperband: "
        "with several first rungs), or that got no better for `patience` evaluations",
    )
    min_tokens: int | None = Field(
        None,
        ge=1,
        description="before a trial may be pruned; left out: its tokens / reduction_factor squared",
    )
    reduction_factor: int = Field(
        3, ge=2, description="asha, hyperband: one in so many goes on from a rung to the next"
    )
    patience: int = Field(3, ge=1, description="evaluations without a better value")
    storage: Annotated[str, BeforeValidator(expanded_storage)] = Field(
        "journal",
        min_length=1,
        repr=False,  # it may hold a password
        description="journal or sqlite: a file in the sweep's folder; or where several machines meet: a path that ends "
        "in .journal, or a URL sqlite:///..., postgresql://..., mysql://..., grpc://host:port",
    )
    workers: int = Field(
        1, ge=1, le=4096, description="trials at a time on this machine, each with GPUs or cores of its own"
    )
    seeds: int = Field(
        1, ge=1, le=10**4, description="runs of a trial, with train.seed, train.seed + 1, ...: their mean counts"
    )
    confirm: int = Field(
        0, ge=0, le=10**4, description="of the best trials run again at the end, with fresh seeds, to be ranked by"
    )
    confirm_seeds: int = Field(3, ge=2, le=10**4, description="fresh seeds of each")
    max_tokens: int | None = Field(None, ge=1, description="all trials' together; after them no further trial begins")
    max_seconds: float | None = Field(
        None, gt=0, description="all trials' steps together; after them no further trial begins"
    )
    space: dict[str, Any] = Field(description="dotted keys of the experiment, each with its values")
