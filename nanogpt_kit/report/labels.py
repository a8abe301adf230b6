"""Short labels of options, runs and trials in figures. Different names never have equal labels."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

MOST = 28  # characters of a label
CONDITION = re.compile(r"(?P<key>[^@\s]+)@(?P<conditions>[^@\s=,]+=[^@=,]+(?:,[^@\s=,]+=[^@=,]+)*)")


def short_labels(names: Sequence[str], most: int = MOST) -> dict[str, str]:
    """A label of about `most` characters for each name; different names have labels that look different.

    Long names are cut in the middle. Those that this makes equal are cut to where they differ, and numbered if that is
    not enough, even where the numbers require more than `most` characters. The name of a parameter with a condition,
    such as "optimizer.lr@optimizer.use=muon", becomes "optimizer.lr (muon)". Labels are text, not HTML.
    """
    distinct = list(dict.fromkeys(names))
    whole = readable_names(distinct)
    labels = {name: cut_middle(whole[name], most) for name in distinct}
    for group in equal_groups(labels):
        texts = [whole[name] for name in group]
        at = max(0, first_difference(texts) - max(2, most // 4))
        labels |= {name: cut_ends(whole[name], at, most) for name in group}
    taken = {label for label, count in Counter(labels.values()).items() if count == 1}
    for group in equal_groups(labels):
        for name in group:
            labels[name] = numbered(labels[name], taken, most)
            taken.add(labels[name])
    return labels


def readable_names(names: Sequence[str]) -> dict[str, str]:
    """Each name in one line, with its conditions in brackets: only their values where those are enough."""
    brief = {name: visible_line(condition_in_brackets(name, with_keys=False)) or "(empty)" for name in names}
    for group in equal_groups(brief):
        brief |= {name: visible_line(condition_in_brackets(name, with_keys=True)) for name in group}
    for group in equal_groups(brief):
        brief |= {name: visible_line(name) or "(empty)" for name in group}
    return brief


def condition_in_brackets(name: str, with_keys: bool) -> str:
    match = CONDITION.fullmatch(name)
    if match is None:
        return name
    conditions = match["conditions"].split(",")
    shown = [one if with_keys else one.partition("=")[2] for one in conditions]
    return f"{match['key']} ({', '.join(shown).replace('|', ' or ')})"


def visible_line(text: str) -> str:
    """One line without the characters that are not visible or change the direction of others: those are escaped."""
    line = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in line)


def cut_middle(text: str, most: int = MOST) -> str:
    """At most `most` characters, of the beginning and the end of a text."""
    if len(text) <= most:
        return text
    head = most // 2
    return f"{text[:head].rstrip()}…{text[len(text) - (most - 1 - head) :].lstrip()}"


def cut_ends(text: str, start: int, most: int) -> str:
    """About `most` characters from `start` on."""
    before = "…" if start else ""
    rest = text[start:].lstrip()
    if len(rest) <= most - len(before):
        return before + rest
    return f"{before}{rest[: max(1, most - len(before) - 1)].rstrip()}…"


def first_difference(texts: Sequence[str]) -> int:
    """The index of the first character that is not the same in all texts, or the length of the shortest."""
    low, high = min(texts), max(texts)
    return next((at for at, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))


def numbered(label: str, taken: Iterable[str], most: int) -> str:
    """The label with the first number that makes it different from those that are taken."""
    number = 1
    while True:
        end = f" ({number})"
        shown = f"{cut_middle(label, max(3, most - len(end)))}{end}".strip()
        if shown not in taken:
            return shown
        number += 1


def equal_groups(labels: dict[str, str]) -> list[list[str]]:
    """The names whose labels are equal, in groups of at least two."""
    groups: dict[str, list[str]] = {}
    for name, label in labels.items():
        groups.setdefault(label, []).append(name)
    return [group for group in groups.values() if len(group) > 1]
