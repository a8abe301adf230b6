"""Records of comparisons that nobody made."""

from __future__ import annotations

from typing import Any

from nanogpt_kit.comparison.record import ArmRecord, Comparison, Measurement, Result


def make_result(arm: int = 1, difference: float | None = 0.25, **details: Any) -> Result:
    known = {"seeds": (1, 2, 3), "difference": difference, "difference_sd": 0.125, "low": -0.5, "high": 1.0}
    return Result(arm=arm, **(known | details))


def make_record(*results: Result, labels: tuple[str, ...] = ("gelu", "swiglu"), **details: Any) -> Comparison:
    known: dict[str, Any] = {
        "id": "1",
        "kind": "compare",
        "command": "",
        "started": 0.0,
        "time": 0.0,
        "metric": "val/loss",
        "direction": "minimize",
        "yardstick": "y",
        "arms": tuple(ArmRecord(label=label, experiment="tiny", configuration=label) for label in labels),
        "looks": (),
        "measurements": (),
        "results": results,
    }
    return Comparison(**(known | details))


def made(arm: int, seed: int, value: float | None, **details: Any) -> Measurement:
    state = "finished" if value is not None else "failed"
    return Measurement(**{"arm": arm, "seed": seed, "run": "r", "state": state, "value": value, **details})
