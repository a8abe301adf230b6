"""Yardsticks: for each metric a hash of what measures it. Values with other yardsticks are not comparable.

A yardstick has the validation text (or its tokens), the evaluator's options and the content of the files that they
name, the source of the evaluator, and the kit's evaluation code. The model, its context length, its precision and the
samplers are what is measured, so they are not part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from nanogpt_kit.core.code_identity import KIT, hash_source
from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.errors import Key
from nanogpt_kit.core.evaluator_metrics import metric_of_source
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Evaluator
from nanogpt_kit.core.local_component import LocalEntry
from nanogpt_kit.core.module_source import class_sources
from nanogpt_kit.core.options import Component, components_in, digest, path_options
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.corpus.hashes import content_hash
from nanogpt_kit.data.manifest import DataManifest, SourceRecord, SplitRecord

# What computes a loss over a split. Generation is left out: a change there would make losses incomparable.
EVALUATION_CODE = ("train/evaluation.py", "data/batches.py", "data/split.py", "nn/loss.py")
UNDECLARED = "*"  # the metrics of evaluators that do not declare theirs
OTHERS = ""  # metrics that no evaluator makes, as those of callbacks


def compute_yardsticks(experiment: Experiment, manifest: DataManifest) -> dict[str, str]:
    """The yardstick of each metric of an experiment on prepared data, with the keys UNDECLARED and OTHERS.

    Raises KitError where a file that an evaluator names cannot be read.
    """
    kit = [hash_source(KIT / name) or metadata.version(KIT_DISTRIBUTION) for name in EVALUATION_CODE]
    yardsticks = {OTHERS: digest(tokens_of(manifest, "val"))}
    undeclared = []
    for evaluator in experiment.evaluator:
        instrument = [kit, evaluator_identity(experiment, evaluator)]
        names = evaluator.metric_names()
        if names is None:
            undeclared.append(digest([instrument, measured_data(evaluator, manifest, of_text=False)]))
        of_text = evaluator.text_metrics()
        for name in names or ():
            yardsticks[name] = digest([instrument, measured_data(evaluator, manifest, of_text=name in of_text)])
            for index, source in enumerate(experiment.dataset.sources if evaluator.measures_sources else ()):
                measured = measured_data(evaluator, manifest, of_text=name in of_text, source=index)
                yardsticks[metric_of_source(name, source)] = digest([instrument, measured])
    if undeclared:
        yardsticks[UNDECLARED] = digest(undeclared)
    return yardsticks


def measured_data(evaluator: Evaluator, manifest: DataManifest, of_text: bool, source: int | None = None) -> Any:
    """What identifies the data of a metric: the text of the splits, or their tokens; of one source, by its index.

    Where an evaluator reads no split, but another text, its metrics in tokens depend on the tokenizer.
    """
    splits = [split for split in evaluator.splits_read() if split in manifest.splits]
    if of_text:
        return [text_of(manifest, split, source) for split in splits]
    return [tokens_of(manifest, split, source) for split in splits] or manifest.tokenizer.fingerprint


def record_of(manifest: DataManifest, split: str, source: int | None) -> SplitRecord | SourceRecord:
    return manifest.splits[split] if source is None else manifest.splits[split].sources[source]


def text_of(manifest: DataManifest, split: str, source: int | None = None) -> list[Any]:
    """Tokens do not represent characters that are unknown to the tokenizer, so that those are another text."""
    record = record_of(manifest, split, source)
    return [record.text_sha256 or record.sha256, record.unknown]


def tokens_of(manifest: DataManifest, split: str, source: int | None = None) -> list[str | None]:
    record = record_of(manifest, split, source)
    marks = record.counted_sha256 if isinstance(record, SourceRecord) else record.counted and record.counted.sha256
    return [record.sha256, record.documents_sha256, *([marks] if marks else [])]


def evaluator_identity(experiment: Experiment, evaluator: Evaluator) -> list[Any]:
    """The code and options of an evaluator and of the components in its slots, with their keys."""
    parts: list[tuple[Key, Component]] = [((), evaluator), *components_in(evaluator)]
    entries = {key: experiment.entry_of(part) for key, part in parts}
    files = [entry for entry in entries.values() if isinstance(entry, LocalEntry)]
    local = {entry.target.partition(":")[0]: entry.source for entry in files}
    return [[key, class_identity(type(part), entries[key], local), option_values(part)] for key, part in parts]


def class_identity(component: type[Component], entry: Entry, local: Mapping[str, bytes]) -> list[Any]:
    """The class and its source; the version of its distribution where some of that has no source."""
    sources = class_sources(component, local)
    return [component.__qualname__, sources, "" if all(sources.values()) else f"{entry.qualified} {entry.version}"]


def option_values(component: Component) -> dict[str, Any]:
    """Options as plain values without slots, and with the content of files and folders in place of their names."""
    paths = path_options(type(component))
    slots = {str(key[0]) for key, _ in components_in(component)}
    values = component.model_dump(mode="json", exclude={*paths, *slots})
    return values | {name: content_of(getattr(component, name)) for name in paths}


def content_of(value: Any) -> Any:
    if isinstance(value, tuple):
        return [content_of(item) for item in value]
    if value is None or not Path(value).exists():
        return value
    files = sorted(path for path in Path(value).rglob("*") if path.is_file()) or [Path(value)]
    return [content_hash(path) for path in files if path.is_file()]
