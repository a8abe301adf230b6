"""Filters of a list of runs, as users write them: optimizer.lr>=1e-3, val/loss<2, model.mlp=swiglu, state=finished."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from operator import ge, gt, le, lt
from typing import Any

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.indexed_run import FIELDS, IndexedRun
from nanogpt_kit.runs.recorded_values import bare_name

FILTER = re.compile(r"(?P<key>[^<>=!]+)(?P<operator><=|>=|!=|==|=|<|>)(?P<value>.*)", re.DOTALL)
ORDER: dict[str, Callable[[Any, Any], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge}


@dataclass(frozen=True)
class Filter:
    """A condition on the value of one key. A run without the value does not match it."""

    key: str
    operator: str  # of ORDER, "=" or "!="
    text: str

    def matches(self, run: IndexedRun) -> bool:
        value = run.value(self.key)
        if value is None:
            return False
        if self.operator in ORDER:
            return self.is_ordered(value)
        if "/" not in self.text and names_components(run, self.key):
            value = [bare_name(one) for one in value] if isinstance(value, list) else bare_name(value)
        return self.is_equal(value) == (self.operator == "=")

    def is_ordered(self, value: Any) -> bool:
        """Numbers by their size; texts, such as times, by their characters."""
        number = number_in(self.text)
        compare = ORDER[self.operator]
        if is_number(value):
            return number is not None and compare(value, number)
        return isinstance(value, str) and compare(value, self.text)

    def is_equal(self, value: Any) -> bool:
        """A list is equal to its text, and to each of its elements: sampler=top_k."""
        if isinstance(value, list) and any(map(self.is_equal, value)):
            return True
        number = number_in(self.text)
        if is_number(value) and number is not None:
            return bool(value == number)
        text = self.text.lower() if isinstance(value, bool) else self.text
        return value_text(value) == text or fnmatchcase(value_text(value), text)


@dataclass(frozen=True)
class PlaceFilter:
    """That a run, or a folder above it, has this path, which may have wildcards."""

    key: str  # "run" or "folder"
    path: str

    def matches(self, run: IndexedRun) -> bool:
        place = f"{run.value(self.key)}/"
        return place.startswith(f"{self.path}/") or fnmatchcase(place, f"{self.path}/*")


def names_components(run: IndexedRun, key: str) -> bool:
    """Whether the value of a key is the name of a component, or a list of names: of a plugin distribution/name."""
    has_list = isinstance(run.options.get(key), list) and ("." not in key or key.startswith("model."))
    return has_list or key.endswith(".use") or f"{key}.use" in run.options


def key_of(text: str, runs: Sequence[IndexedRun]) -> str:
    """The key that a filter compares; empty for a name, which may contain an operator: tiny/compare/1f2/lr=0.1-s7."""
    found = FILTER.fullmatch(text)
    key = found["key"].strip() if found else ""
    if key and not any(run.value(key) is not None for run in runs) and any(map(place_of(text).matches, runs)):
        return ""
    return key


def place_of(text: str) -> PlaceFilter:
    return PlaceFilter("run", text.rstrip("/"))


def is_number(value: Any) -> bool:
    return type(value) in (int, float)  # a bool is an int, too


def number_in(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def value_text(value: Any) -> str:
    """As in TOML, texts without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def select_runs(runs: Sequence[IndexedRun], texts: Sequence[str]) -> list[IndexedRun]:
    """The runs that match every filter; a filter without an operator is the name of an experiment or a run.

    Raises KitError for a filter that cannot be read.
    """
    filters = [parse_filter(text, runs) for text in texts]
    return [run for run in runs if all(one.matches(run) for one in filters)]


def parse_filter(text: str, runs: Sequence[IndexedRun]) -> Filter | PlaceFilter:
    found, key = FILTER.fullmatch(text), key_of(text, runs)
    if found is None or not key:
        return name_filter(text, runs)
    operator, value = found["operator"].replace("==", "="), without_quotes(found["value"].strip())
    if operator == "=" and value[:1] in ORDER and number_in(value[1:]) is not None:
        raise KitError(f"filter {text!r}: the operator is {value[0]}=, as in {key}{value[0]}={value[1:].strip()}")
    values = [known for run in runs if (known := run.value(key)) is not None]
    if operator in ORDER and number_in(value) is None and values and all(map(is_number, values)):
        raise KitError(f"filter {text!r}: {key} is a number, as in {key}{operator}{value_text(values[-1])}")
    return Filter(key, operator, value)


def without_quotes(value: str) -> str:
    """A text may be written as in TOML."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def name_filter(text: str, runs: Sequence[IndexedRun]) -> Filter | PlaceFilter:
    """A filter by experiment, by the path of a run or of a folder of runs, or by the name of such a folder."""
    place = place_of(text)
    folder, name = PlaceFilter("folder", os.path.abspath(text)), PlaceFilter("run", f"*/{place.path}")
    for one in (Filter("experiment", "=", text), place, folder, name):
        if not runs or any(map(one.matches, runs)):
            return one
    if text in FIELDS or any(run.value(text) is not None for run in runs):
        example = f"{text}<2" if "/" in text else f"{text}>=1e-3"
        raise KitError(
            f"filter {text!r}: a key needs an operator and a value, in quotes for the shell, as in {example!r}"
        )
    names = {run.experiment for run in runs}
    close = difflib.get_close_matches(text, sorted(names), n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    raise KitError(f"filter {text!r}: no experiment and no run has this name{guess}")
