"""What usually helps a run that becomes unstable, by what its options are now.

Sources: those of `divergence.py`, and Wortsman et al. 2023, arXiv:2304.13013, for the second moment of AdamW.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MANY_WARMUPS = 5  # a spike that comes later is not one of the warmup
HIGH_BETA2, HIGH_MOMENTUM = 0.95, 0.95


def remedies(kind: str, step: int, options: Mapping[str, Any]) -> list[str]:
    """For trouble of a kind ("loss", "gradient" or "attention") at a step of a run with these resolved options."""
    model, optimizer = options["model"], options["optimizer"]
    if kind == "loss" and step == 1:  # no update has changed the weights that gave this loss
        return of_initial_weights(model, options["init"])
    found = ["model.qk_norm = true"] if kind == "attention" and model.get("qk_norm") is False else []
    if "lr" in optimizer:
        found.append(f"a lower optimizer.lr than {optimizer['lr']:g}")
    key, warmup = warmup_of_rate(options["schedule"])
    if warmup is not None and step <= MANY_WARMUPS * max(warmup, 100):
        found.append(f"a longer {key} than {warmup:,}")
    if not options["train"]["grad_clip"]:
        found.append("train.grad_clip = 1.0")
    betas = optimizer.get("betas")
    if betas and betas[1] > HIGH_BETA2:
        found.append(f"optimizer.betas = [{betas[0]:g}, {HIGH_BETA2:g}]")
    if optimizer.get("momentum", 0.0) > HIGH_MOMENTUM:
        found.append(f"a lower optimizer.momentum than {optimizer['momentum']:g}")
    if kind == "loss" and options.get("order", {}).get("use") == "sequential":
        found.append('order = "shuffled" if the text changes there')
    return found or ["smaller updates"]


def warmup_of_rate(schedule: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[str, int | None]:
    """(key, value) of the warmup of the learning rate's schedule; no value where it has none."""
    keyed = (
        {"schedule": schedule}
        if isinstance(schedule, Mapping)
        else {f"schedule.{i}": s for i, s in enumerate(schedule)}
    )
    found = (
        (f"{key}.warmup_steps", one.get("warmup_steps"))
        for key, one in keyed.items()
        if one["target"] == "optimizer.lr"
    )
    return next(found, ("", None))


def of_initial_weights(model: Mapping[str, Any], init: Mapping[str, Any]) -> list[str]:
    if model.get("init_from"):
        return ["the tokenizer that the model of model.init_from was trained with"]
    return [f"a smaller init.std than {init['std']:g}" if "std" in init else "smaller initial weights ([init])"]
