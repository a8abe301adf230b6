"""Arms with as many parameters, or FLOPs per token, as the base: one whole-number option of each arm is adjusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nanogpt_kit.core.errors import KitError, did_you_mean, dotted
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import leaves
from nanogpt_kit.nn.flops import model_size
from nanogpt_kit.sweep.space.endpoints import value_at_key
from nanogpt_kit.sweep.space.space import is_key_within
from nanogpt_kit.train.before_data import ASSUMED_VOCABULARY

MAX_DIFFERENCE = 0.05  # of an arm's count from the base's
MAX_GAP = 512  # between values that are valid, as multiples of 2 * n_head are with rotary positions
MAX_DOUBLINGS = 24
UNITS = {"parameters": "parameters", "flops": "FLOPs per token"}

CountOfValue = Callable[[int], float | None]  # of the arm with this value of the option; None where it is not valid


@dataclass(frozen=True)
class Match:
    """The value of the option with which an arm is nearest to the base, and both counts."""

    before: int
    value: int
    count: float
    target: float

    @property
    def difference(self) -> float:
        """Of the arm's count from the base's, as a fraction of the latter."""
        return self.count / self.target - 1

    def describe(self, what: str) -> str:
        """ "17,712 parameters, 0.8% more than the base"."""
        if self.count == self.target:
            return f"{self.count:,.0f} {UNITS[what]}, as many as the base"
        size = f"{abs(self.difference):.2%}".replace("0.00%", "less than 0.01%")
        return f"{self.count:,.0f} {UNITS[what]}, {size} {'more' if self.difference > 0 else 'fewer'} than the base"


def count_of_model(experiment: Experiment, what: str) -> float | None:
    """The parameters of the model, or its FLOPs per token; None where they cannot be counted without weights.

    Raises KitError where the parts of the model do not fit together.
    """
    size = model_size(experiment.model, experiment.tokenizer.known_vocab_size() or ASSUMED_VOCABULARY)
    if size is None:
        return None
    return size.total if what == "parameters" else size.flops_per_token


def match_arm(arm: Experiment, make: Callable[[int], Experiment], key: str, what: str, target: float) -> Match:
    """The value of the option `key` with which the arm's count is nearest to `target`; `make` builds it with a value.

    Raises KitError where the option is not a whole number or does not matter, or where the arm cannot be counted.
    """
    before = whole_number(arm, key)
    counts: dict[int, float | None] = {before: count_of_model(arm, what)}
    if counts[before] is None:
        raise KitError(uncountable(what))

    def count(value: int) -> float | None:
        if value not in counts:
            try:
                counts[value] = count_of_model(make(value), what)
            except KitError:  # not valid, such as a width that the heads do not divide
                counts[value] = None
        return counts[value]

    value = nearest_count(count, before, target)
    nearest = count(value)
    assert nearest is not None, "a valid value is chosen"
    valid = [found for found in counts.values() if found is not None]
    if nearest != target and len(valid) > 1 and len(set(valid)) == 1:
        raise KitError(f"{key} has no effect on the {UNITS[what]}, so arms cannot be matched with it")
    return Match(before, value, nearest, target)


def uncountable(what: str) -> str:
    return f"the {UNITS[what]} of the model cannot be counted before it is built, so arms cannot be matched"


def whole_number(experiment: Experiment, key: str) -> int:
    """The value of an option of the model. Raises KitError where it is not a whole number."""
    value = value_at_key(experiment.resolved(), key)
    is_of_model = is_key_within(key, "model")
    if is_of_model and type(value) is int:
        return value
    numbers = {dotted(at) for at, leaf in leaves(experiment.resolved()) if type(leaf) is int and at[0] == "model"}
    got = "is not one of these" if not is_of_model else "has no value" if value is None else f"is {value!r}"
    message = f"{key!r} should be an option of the model that is a whole number, and {got}"
    raise KitError(f"{message}{did_you_mean(key, numbers)}")


def nearest_count(count: CountOfValue, start: int, target: float) -> int:
    """The valid value whose count is nearest to `target`; `start` is valid, and counts grow with the value.

    Bisection over the valid values. Of two that are equally near it is the one nearer to `start`.
    """
    known: dict[int, float] = {}

    def first_valid(values: range) -> int | None:
        for value in values:
            found = count(value)
            if found is not None:
                known[value] = found
                return value
        return None

    first_valid(range(start, start + 1))
    low, high = start, start  # in the end all valid values up to `low` are below the target, and none from `high` on
    while low > 0 and known[low] >= target:
        low = first_valid(range(low // 2, max(0, low // 2 - MAX_GAP), -1)) or 0
    for _ in range(MAX_DOUBLINGS):
        if high not in known or known[high] >= target:
            break
        low, high = high, first_valid(range(2 * high, 2 * high + MAX_GAP)) or 2 * high
        if known.get(high) == known[low]:  # the option has no effect on the count
            break
    while high - low > 1:
        middle = (low + high) // 2
        value = first_valid(range(middle, min(high, middle + MAX_GAP)))
        if value is not None and known[value] < target:
            low = value
        else:
            high = middle
    return min(known, key=lambda value: (abs(known[value] - target), abs(value - start)))
