"""The sections of an experiment that choose no component: from training to sweeps and ablations."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from nanogpt_kit.core.errors import Key
from nanogpt_kit.core.options import MAY_CHANGE, Options, expand_option

SQLITE_URL = re.compile(r"(sqlite(?:\+\w+)?:///)(.*)", re.DOTALL)  # the part before the file, the file


def expand_storage(storage: Any) -> Any:
    """Expands the path of a storage that is a file. A server's URL may contain a password, whose `$` is literal."""
    if not isinstance(storage, str):
        return storage
    match = SQLITE_URL.fullmatch(storage)
    if match:
        return f"{match[1]}{expand_option(match[2])}"
    return expand_option(storage) if storage.endswith(".journal") else storage


class Train(Options):
    """[train]: the length of the run, its batches, and how the machine computes them."""

    steps: int = Field(
        ge=0,
        le=10**12,
        description="number of optimizer updates; 0: only evaluate the model that training would start from",
        json_schema_extra=MAY_CHANGE,
    )
    batch_tokens: int = Field(ge=1, le=10**12, description="tokens per update, over all ranks and micro-steps")
    micro_batch_size: Annotated[int, Field(ge=1, le=10**12)] | Literal["auto"] | None = Field(
        None,
        description="windows per forward and backward pass of a rank; omitted: all; auto: as many as fit in memory",
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="training tokens after which the run ends, if that is before `steps`",
        json_schema_extra=MAY_CHANGE,
    )
    max_seconds: float | None = Field(
        None,
        gt=0,
        description="seconds spent in steps after which the run ends, if that is before `steps`",
        json_schema_extra=MAY_CHANGE,
    )
    grad_clip: float = Field(1.0, ge=0, description="norm to which a larger gradient is scaled down; 0: no clipping")
    seed: int = Field(1337, ge=0, lt=2**63, description="seed for weights, batches and dropout")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="device; auto: cuda, else mps, else cpu")
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = Field(
        "auto",
        description="number format; auto: bf16 where the device has it natively, else fp16 on cuda, fp32 elsewhere",
    )
    compile: Literal["auto", "off", "default", "max-autotune"] = Field(
        "auto",
        description="mode of torch.compile; auto: default where the run is long enough to gain from it, else off",
        json_schema_extra=MAY_CHANGE,
    )
    activation_checkpointing: bool = Field(
        False,
        description="recompute blocks in the backward pass: less memory, a third more computation",
        json_schema_extra=MAY_CHANGE,
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="maximum number of CPU threads; omitted: OMP_NUM_THREADS, else as many as a step can use",
        json_schema_extra=MAY_CHANGE,
    )
    log_every_steps: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")
    watch: tuple[Literal["updates", "activations", "attention"], ...] = Field(
        (), description="extra metrics on logged steps: updates by role, largest activations and attention logits"
    )


class Evaluate(Options):
    """[evaluate]: when the evaluators run. They always run after the last step."""

    every_steps: int = Field(1000, ge=1, description="steps between evaluations")
    batch_size: int | None = Field(
        None, ge=1, le=10**12, description="windows per evaluation batch; omitted: as many as in a micro-batch"
    )


class Checkpoint(Options):
    """[checkpoint]: when the run is saved, besides after the last step and when it is interrupted."""

    every_steps: int = Field(1000, ge=1, description="steps between checkpoints")
    keep_last: int = Field(2, ge=1, description="number of newest checkpoints to keep")
    keep_every_steps: int | None = Field(
        None, ge=1, description="also keep each checkpoint whose step is a multiple of this"
    )
    keep_best: str | None = Field(
        None, min_length=1, description="also keep the checkpoint with the lowest value of this metric, e.g. val/loss"
    )


class Sample(Options):
    """[sample]: the text that a finished run writes, and the defaults of `nanogpt-kit sample`."""

    prompt: str = Field("\n", description="beginning of each text")
    num_samples: int = Field(1, ge=0, le=10**6, description="number of texts to write after the run")
    max_new_tokens: int = Field(500, ge=0, le=10**9, description="number of tokens to generate for each text")
    seed: int = Field(1337, ge=0, lt=2**63, description="seed for sampling; text i uses seed + i")
    stop: tuple[str, ...] = Field((), description="strings before which a text ends, as it does at end-of-text")
    on_overflow: Literal["auto", "rolling", "refill", "exact"] = Field(
        "auto",
        description="treatment of a text longer than block_size; auto: rolling where possible, else refill",
    )
    batch_size: int = Field(16, ge=1, le=10**6, description="number of texts generated in a batch")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="type of the weights; auto: fp16 on an x86 CPU, else bf16 where it is native, else fp32",
    )
    compile: Literal["auto", "off", "default"] = Field(
        "auto",
        description="compilation of the step that adds a token; auto: a CUDA graph on a GPU, off elsewhere",
    )


class Sweep(Options):
    """[sweep]: the values to try for some options of the experiment, and how trials choose among them."""

    metric: str = Field("val/loss", min_length=1, description="metric that ranks trials, as named in metrics.jsonl")
    direction: Literal["minimize", "maximize"] = Field("minimize", description="direction in which the metric improves")
    trials: int = Field(
        20, ge=1, le=10**6, description="number of trials; in a space with fewer points, each is tried once"
    )
    sampler: Literal["tpe", "random", "qmc", "grid", "cmaes"] = Field(
        "tpe",
        description="method that chooses values: tpe and cmaes learn from earlier trials, qmc spreads evenly, grid "
        "tries all",
    )
    seed: int = Field(1337, ge=0, lt=2**31, description="seed of the sampler")
    allocate: Literal["sampler", "equal"] = Field(
        "sampler",
        description="division of the trials among the branches of a choice: as the sampler chooses, or equal numbers",
    )
    pruner: Literal["none", "median", "asha", "hyperband", "patience"] = Field(
        "none",
        description="rule that ends bad trials early: compared with other trials, or without improvement (patience)",
    )
    min_tokens: int | None = Field(
        None,
        ge=1,
        description="training tokens before a trial may be pruned; omitted: those of a trial / reduction_factor "
        "squared",
    )
    reduction_factor: int = Field(
        3, ge=2, description="asha and hyperband: 1 / this is the fraction of trials kept at each rung"
    )
    patience: int = Field(
        3, ge=1, description="evaluations without improvement after which pruner=patience ends a trial"
    )
    storage: Annotated[str, BeforeValidator(expand_storage)] = Field(
        "journal",
        min_length=1,
        repr=False,  # it may contain a password
        description="storage of the study: journal or sqlite in the sweep's folder; a path *.journal or a database URL",
    )
    workers: int = Field(
        1, ge=1, le=4096, description="number of trials run in parallel on this machine, each on separate GPUs or cores"
    )
    seeds: int = Field(
        1, ge=1, le=10**4, description="runs per trial, with train.seed, train.seed + 1, ...; their mean is its value"
    )
    confirm: int = Field(
        0,
        ge=0,
        le=10**4,
        description="number of best trials to run again with fresh seeds at the end, with trial 0 and the best of "
        "each branch",
    )
    confirm_seeds: int = Field(3, ge=2, le=10**4, description="number of fresh seeds per confirmed trial")
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="training tokens, of the search and its confirmation together, after which no trial starts",
    )
    max_seconds: float | None = Field(
        None,
        gt=0,
        description="seconds in steps, of the search and its confirmation together, after which no trial starts",
    )
    space: dict[str, Any] = Field(description="values to try, by dotted key of the experiment")


class Ablate(Options):
    """[ablate]: changes of the experiment that are compared with it one by one."""

    seeds: int = Field(5, ge=1, le=10**4, description="runs of each arm, with train.seed, train.seed + 1, ...")
    metric: str = Field("val/loss", min_length=1, description="metric that decides, as named in metrics.jsonl")
    direction: Literal["minimize", "maximize"] = Field("minimize", description="direction in which the metric improves")
    workers: int = Field(
        1, ge=1, le=4096, description="number of runs in parallel on this machine, each on separate GPUs or cores"
    )
    storage: Annotated[str, BeforeValidator(expand_storage)] = Field(
        "journal",
        min_length=1,
        repr=False,  # it may contain a password
        description="storage of the study: journal or sqlite in its folder; a path *.journal or a database URL",
    )
    match: Literal["none", "parameters", "flops"] = Field(
        "none", description="count that match_with makes equal to the base's: parameters, or FLOPs per token"
    )
    match_with: str = Field(
        "model.n_embd", min_length=1, description="key of the whole number that is adjusted so that arms match"
    )
    factorial: bool = Field(
        False, description="comparison of all combinations of the changes, which shows how they interact"
    )
    vary: dict[str, Any] = Field({}, description="lists of values by dotted key; each value is one change")
    changes: dict[str, Any] = Field({}, description="named changes, each a table of dotted keys with their values")


def is_free_form(key: Key, over_list: bool) -> bool:
    """The `FreeForm` of an experiment: numbers in a key there may be names or, below `choice` and in lists, values."""
    if key[:2] in (("ablate", "vary"), ("ablate", "changes")):
        return not over_list
    return key[:2] == ("sweep", "space") and (not over_list or key[-1] == "choice")
