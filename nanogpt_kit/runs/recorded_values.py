"""What the files of a run have recorded, read without raising: what is damaged or missing is empty."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli

from nanogpt_kit.core.entry import LOCAL
from nanogpt_kit.runs.folder import RUN_ID, STARTED
from nanogpt_kit.runs.metrics import is_finite_number, lines_from_the_end, parse_metrics_line
from nanogpt_kit.runs.metrics_table import IN_EVERY_ROW
from nanogpt_kit.system.json_files import read_json
from nanogpt_kit.system.reading import read_text

MAX_TOML_BYTES = 5_000_000
MARK_OF_TRAINING = b'"train/loss"'  # in a line of metrics.jsonl that is not of an evaluation
STARTS = ("init_from", "branched_from", "tokenizer_from")  # of provenance.json: what a run began with


def read_options(path: str) -> dict[str, Any]:
    """The options of experiment.toml by dotted key; none where it cannot be read."""
    try:
        return flat_options(tomli.loads(read_text(Path(path, "experiment.toml"), MAX_TOML_BYTES)))
    except (OSError, ValueError, RecursionError):
        return {}


def flat_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"optimizer.lr": 1e-3}. A component of a list has its name in the key, as in sampler.top_k.k; its index where an
    earlier one has the same name, and in lists within sections, as in model.attention.0.window. The list itself is that
    of the names; of tables without names there is none."""
    return dict(flat_items(values, ""))


def flat_items(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{before}{name}"
        if isinstance(value, dict):
            yield from flat_items(value, f"{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            if any("use" in item for item in value):
                yield key, json_value([item.get("use", index) for index, item in enumerate(value)])
            uses = [bare_name(item.get("use", index)) for index, item in enumerate(value)]
            for index, item in enumerate(value):
                part = uses[index] if not before and uses.index(uses[index]) == index else index
                options = {name: option for name, option in item.items() if name != "use"}
                yield from flat_items(options, f"{key}.{part}.")
        else:
            yield key, json_value(value)


def bare_name(use: Any) -> Any:
    """The name of a component without the distribution that a file names with it."""
    return use.rpartition("/")[2] if isinstance(use, str) else use


def json_value(value: Any) -> Any:
    """The value itself where JSON has it, else its text: of dates, infinity and NaN."""
    if isinstance(value, dict):
        return {key: json_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [json_value(inner) for inner in value]
    return value if isinstance(value, str | int) or is_finite_number(value) else str(value)


def last_records(metrics: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(all metrics of the last step, those of the last evaluation), each with its step; empty where there is none."""
    last: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    for line in lines_from_the_end(metrics):
        is_evaluation = MARK_OF_TRAINING not in line
        if last and not is_evaluation and not line.startswith(b'{"step": %d,' % last["step"]):
            continue
        record = parse_metrics_line(line)
        if record is None:
            continue
        last = last or {"step": record["step"]}
        if record["step"] == last["step"]:
            last = {**record, **last}
        if is_evaluation:
            if evaluation and record["step"] != evaluation["step"]:
                break
            evaluation = {**record, **evaluation}
        elif evaluation and record["step"] < last["step"]:
            break
    return last, evaluation


def metrics_of(record: Mapping[str, Any]) -> dict[str, float | None]:
    """The metrics of a record; None for NaN and infinity."""
    values = ((name, value) for name, value in record.items() if name not in IN_EVERY_ROW)
    return {name: float(value) if is_finite_number(value) else None for name, value in values}


def start_time(name: str, origin: Mapping[str, Any]) -> str:
    """From a run id, which has milliseconds, else from provenance.json."""
    run_id = RUN_ID.fullmatch(name)
    if run_id:
        day, clock, milliseconds = run_id[1], run_id[2], run_id[3] or "000"
        moment = f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}"
        return f"{moment}.{milliseconds}Z"
    started = text_of(origin, "started")
    return f"{started[:-1]}.000Z" if started and STARTED.fullmatch(started) else ""


def read_object(path: str, name: str) -> dict[str, Any]:
    """The JSON object of a file; empty where there is none."""
    try:
        values = read_json(Path(path, name))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def text_of(values: Mapping[str, Any], key: str) -> str | None:
    return values[key] if isinstance(values.get(key), str) else None


def texts_of(values: Any) -> dict[str, str]:
    return {key: text for key, text in values.items() if isinstance(text, str)} if isinstance(values, dict) else {}


def number_of(values: Mapping[str, Any], key: str) -> float:
    return max(0.0, values[key]) if is_finite_number(values.get(key)) else 0.0


def data_of(values: Any) -> dict[str, str]:
    """Fingerprints of the text and the tokenizer, the hash of each split, and of the marks in it, if there are any."""
    if not isinstance(values, dict):
        return {}
    kept = {key: text for key, text in texts_of(values).items() if key in ("dataset", "tokenizer")}
    marks = {f"marks of {split}": text for split, text in texts_of(values.get("counted")).items()}
    return {**kept, **texts_of(values.get("splits")), **marks}


def starts_of(origin: Mapping[str, Any]) -> dict[str, str]:
    """The checkpoints that a run began with, as absolute paths: it may record them relative to its start folder."""
    found = {}
    for key in STARTS:
        checkpoint = texts_of(origin.get(key)).get("checkpoint")
        if checkpoint and "\0" not in checkpoint:
            found[key] = os.path.join(text_of(origin, "folder") or "", checkpoint)
    return found


def version_changes_text(origin: Mapping[str, Any]) -> str:
    """The plugins of which a run continued with another version: "ngk-attn 0.3.0 in place of 0.1.0 from step 40"."""
    changes = origin.get("version_changes")
    texts = []
    for change in changes if isinstance(changes, list) else ():
        names = texts_of(change)
        if isinstance(change, dict) and names.keys() >= {"distribution", "before", "after"}:
            what = f"in place of {names['before']}" if names["before"] != names["after"] else "with other code"
            step = f" from step {change['step']:,}" if type(change.get("step")) is int else ""
            texts.append(f"{names['distribution']} {names['after']} {what}{step}")
    return ", ".join(texts)


def packages_text(versions: Mapping[str, Any]) -> str:
    """Such as "torch 2.9.0, numpy 2.3.1"."""
    return ", ".join(f"{name} {version}" for name, version in versions.items() if name != LOCAL)
