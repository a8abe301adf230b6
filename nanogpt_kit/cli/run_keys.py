"""The keys by which runs are filtered, sorted and shown, and what to write instead of one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.foreign_names import foreign_option

if TYPE_CHECKING:
    from nanogpt_kit.core.options import Options
    from nanogpt_kit.runs.indexed_run import IndexedRun

KEYS = "A key is a field, an option such as optimizer.lr, or a metric such as val/loss"


def check_key(key: str, runs: Sequence[IndexedRun], place: str) -> None:
    """Raises KitError, with the nearest name, for a key that none of these runs has and no other could have."""
    from nanogpt_kit.runs.indexed_run import FIELDS

    if not runs or key in FIELDS or any(run.value(key) is not None or key in run.metrics for run in runs):
        return
    known = known_keys(runs)
    if key not in known:
        nearest = nearest_key(key, known)
        guess = f"; did you mean {nearest!r}?" if nearest else "."
        raise KitError(f"{place}: unknown key {key!r}{guess} {KEYS}; fields: {', '.join(FIELDS)}")


def known_keys(runs: Iterable[IndexedRun]) -> set[str]:
    """Every key that these runs have, or that the sections of any experiment have."""
    from nanogpt_kit.core.experiment import Experiment

    return keys_of_runs(runs) | set(section_keys(Experiment))


def keys_of_runs(runs: Iterable[IndexedRun]) -> set[str]:
    """The fields, and the options and metrics that these runs have."""
    from nanogpt_kit.runs.indexed_run import FIELDS

    keys = set(FIELDS)
    for run in runs:
        keys.update(run.metrics)
        keys.update(key.removesuffix(".use") for key in run.options)
    return keys


def section_keys(owner: type[Options], before: str = "") -> Iterator[str]:
    """The options that every experiment has, whatever its components."""
    from nanogpt_kit.core.options import option_classes

    for name, option in owner.model_fields.items():
        yield f"{before}{name}"
        for options in option_classes(option.annotation):
            yield from section_keys(options, f"{before}{name}.")


def nearest_key(key: str, known: Iterable[str]) -> str:
    """The key with this last part, or another program's name for it, or the most similar one; or empty."""
    names = sorted(known)
    foreign = foreign_option(key)
    same_end = [name for separator in "./" for name in names if name.rpartition(separator)[2] == key]
    if foreign and foreign[0] in names:
        return foreign[0]
    if same_end:
        return same_end[0]
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(key.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else ""
