"""Run folders that no training made, with the options and metrics that lists of runs show."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from nanogpt_kit.runs.folder import RunFolder, runs_root
from nanogpt_kit.runs.indexed_run import FILES

OPTIONS: dict[str, Any] = {
    "model": {"use": "gpt", "n_layer": 2, "mlp": {"use": "gelu", "width": 4.0}},
    "optimizer": {"use": "adamw", "lr": 1e-3, "betas": [0.9, 0.95]},
    "train": {"steps": 20, "seed": 7},
    "sampler": [{"use": "temperature", "value": 0.8}, {"use": "top_k", "k": 200}],
}


def make_listed_run(
    place: str,
    options: Mapping[str, Any] | None = None,
    loss: float | None = 2.5,
    state: str = "finished",
    step: int = 20,
    started: str = "2026-01-02T03:04:05Z",
    **origin: Any,
) -> RunFolder:
    """A run at `place` below the runs folder; `options` replace values of OPTIONS by dotted key, `origin` those of its
    provenance. Its last evaluation is before its last logged step where `step` is odd."""
    path = runs_root() / place
    path.mkdir(parents=True)
    values = json.loads(json.dumps(OPTIONS))
    values["name"] = place.split("/")[0]
    for key, value in (options or {}).items():
        table = values
        *above, last = key.split(".")
        for part in above:
            table = table.setdefault(part, {})
        table[last] = value
    (path / "experiment.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
    seed = values["train"]["seed"]
    record = {"format": 2, "folder": str(Path.cwd()), "started": started, "seed": seed, **origin}
    (path / "provenance.json").write_text(json.dumps(record), encoding="utf-8")
    status = {"format": 2, "state": state, "time": 0.0, "step": step, "total_steps": 20, "seconds": step / 8}
    (path / "status.json").write_text(json.dumps(status), encoding="utf-8")
    lines = [
        {"step": at, "tokens": 80 * at, "seconds": at / 8, "train/loss": 3 - at / 100} for at in range(1, step + 1)
    ]
    evaluated = step - step % 2
    lines.insert(evaluated, {"step": evaluated, "tokens": 80 * evaluated, "seconds": 0.0, "val/loss": loss})
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return RunFolder(path)


def make_old(folder: RunFolder) -> RunFolder:
    """Its files were last changed long ago, so that the index keeps what it reads of them."""
    for name in FILES:
        if (folder.path / name).exists():
            os.utime(folder.path / name, (10**9, 10**9))
    return folder
