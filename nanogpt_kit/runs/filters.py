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

FILTER = re.compile(r"(?P<key>[^<>=!]+)(?P<operator><=|>=|!=|==|=|<|>)(?P<value>.*)", re.DOTALL)
BARE_KEY = re.compile(r"[a-z_]\w*([./]\w+)+")  # which no experiment has as its name, since it is a key of the runs
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
        return fnmatchcase(value_text(value), self.text)


def key_of(text: str) -> str:
    """The key that a filter compares; empty for a name."""
    found = FILTER.fullmatch(text)
    return found["key"].strip() if found else ""


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


def parse_filter(text: str, runs: Sequence[IndexedRun]) -> Filter:
    found = FILTER.fullmatch(text)
    if found is None:
        return name_filter(text, runs)
    key, operator, value = found["key"].strip(), found["operator"].replace("==", "="), found["value"].strip()
    values = [known for run in runs if (known := run.value(key)) is not None]
    if operator in ORDER and number_in(value) is None and values and all(map(is_number, values)):
        raise KitError(f"filter {text!r}: {key} is a number, as in {key}{operator}{value_text(values[-1])}")
    return Filter(key, operator, value)


def name_filter(text: str, runs: Sequence[IndexedRun]) -> Filter:
    """A filter by experiment, or by the path of a run or of a folder of runs."""
    path = text.rstrip("/")
    for key, pattern in (("experiment", text), ("run", f"{path}*"), ("folder", f"{os.path.abspath(path)}*")):
        if not runs or any(map(Filter(key, "=", pattern).matches, runs)):
            return Filter(key, "=", pattern)
    if BARE_KEY.fullmatch(text) or text in FIELDS:
        example = f"{text}<2" if "/" in text else f"{text}>=1e-3"
        raise KitError(
            f"filter {text!r}: a key needs an operator and a value, in quotes for the shell, as in {example!r}"
        )
    names = {run.experiment for run in runs}
    close = difflib.get_close_matches(text, sorted(names), n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    raise KitError(f"filter {text!r}: no experiment and no run has this name{guess}")
