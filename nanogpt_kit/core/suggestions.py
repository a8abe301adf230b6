"""What to write instead of a key that does not exist: another program's name, an option elsewhere, a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_origin

from nanogpt_kit.core.class_source import read_class_source
from nanogpt_kit.core.errors import Key, KitError, dotted
from nanogpt_kit.core.foreign_names import FOREIGN_NAMES, Answer, foreign_option, plain
from nanogpt_kit.core.key_rules import name_of_element
from nanogpt_kit.core.options import Component, Options, option_classes
from nanogpt_kit.core.registry import Registry

NEAR, NEAR_ELSEWHERE = 0.6, 0.8  # similarity from which a name is suggested: of the same table, of another one
USE = ("name", "type", "kind", "class", "_target_", "algorithm")  # other programs' words for `use`
MAX_KEYS = 3  # in one suggestion


@dataclass(frozen=True)
class Slot:
    """An option that takes components of a kind: one, or a list."""

    key: str
    kind: type[Component]
    is_list: bool


@dataclass
class KeySuggestions:
    """Suggestions for the keys of one experiment: `values` choose the components whose options come first."""

    root: type[Options]
    values: dict[str, Any]
    registry: Registry

    def suggest(self, key: Key, value: Any, owner: type[Options], allowed: Collection[str]) -> str:
        """What to write instead of `key`, as in "did you mean optimizer.lr?"; or empty.

        `owner` has no such option; `allowed` are the keys of its table.
        """
        written, name = str(key[-1]), plain(str(key[-1]))
        if len(key) == 1 and isinstance(value, dict):  # config.n_layer=3
            return self.suggest_section(written, value, allowed) or self.nearest(written, allowed)
        if name in USE and issubclass(owner, Component) and isinstance(value, str):
            return question([(dotted((*key[:-1], "use")), "")])
        is_experiment = len(self.root.model_fields) > 1  # whose keys are the answers for other programs' names
        answer = foreign_option(name, str(key[0])) if is_experiment else None
        if answer and answer[0] != dotted(key):
            own = (*key[:-1], last_part(answer[0]))  # of model.norm.epsilon: not optimizer.eps
            is_own = own[-1] in allowed and dotted(own) != answer[0]
            return question([(dotted(own), "")] if is_own else [answer])
        others = self.components_with(name, owner) if issubclass(owner, Component) else []
        if others and issubclass(owner, Component):
            verb, name_of_owner = "has" if len(others) == 1 else "have", self.registry.name_of(owner)
            return f"{enumeration(others, 'and')} {verb} this option, but {name_of_owner!r} does not."
        if name in self.chosen:
            return question(self.chosen[name])
        near = self.nearest(written, allowed)
        return near or question(self.available.get(name, [])) or self.nearest_available(name)

    def suggest_section(self, written: str, table: dict[str, Any], allowed: Collection[str]) -> str:
        """The section that is meant by `written` and has a key of `table`; else where such a key is."""
        meant = foreign_option(written)
        near = difflib.get_close_matches(plain(written), sorted(allowed), cutoff=NEAR)
        sections = [meant[0], *near] if meant else near
        for inner in table:
            for section in sections:
                if f"{section}.{plain(inner)}" in self.keys or (inner == "use" and self.keys.get(section)):
                    return question([(repr(section), "")])
        answers = next(filter(None, map(self.find, table)), [])
        within = [answer for answer in answers if f".{plain(written)}." in answer[0]]  # early_stopping.patience=3
        return "" if plain(written) in allowed else question(within or answers)

    def find(self, name: str) -> list[Answer]:
        """What a name without its section may mean, here or in another program; the likeliest first."""
        answer = foreign_option(name)
        return [answer] if answer else self.chosen.get(plain(name)) or self.available.get(plain(name), [])

    def nearest(self, name: str, allowed: Collection[str]) -> str:
        """The most similar name of the table, of another one, or of another program; or empty."""
        own, likeness = most_similar(name, allowed)
        other, other_likeness = most_similar(plain(name), self.known_names)
        if likeness >= NEAR and (likeness >= other_likeness or other_likeness < NEAR_ELSEWHERE):
            return question([(repr(own), "")])
        return question(self.find(other)) if other_likeness >= NEAR_ELSEWHERE else ""

    def nearest_available(self, name: str) -> str:
        """The most similar name of what the experiment does not have, but may; or empty."""
        other, likeness = most_similar(name, self.available)
        return question(self.available[other]) if likeness >= NEAR_ELSEWHERE else ""

    def nearest_name(self, name: str) -> str:
        """The most similar name of an option, here or in another program; or empty."""
        other, likeness = most_similar(plain(name), self.known_names)
        return other if likeness >= NEAR_ELSEWHERE else ""

    @property
    def known_names(self) -> set[str]:
        return self.chosen.keys() | FOREIGN_NAMES.keys()

    def components_with(self, option: str, owner: type[Component]) -> list[str]:
        """The other components of the owner's kind that have this option."""
        kind = next((base for base in owner.__mro__ if "kind" in vars(base)), None)
        if kind is None or kind is owner or not issubclass(kind, Component):
            return []
        return [name for name, fields in self.options_by_name(kind).items() if option in fields]

    def options_by_name(self, kind: type[Component]) -> dict[str, Iterable[str]]:
        """The options of every component of a kind; of plugins those in their source, since only a name imports one."""
        found: dict[str, Iterable[str]] = {}
        for entry in self.registry.of_kind(kind.kind):
            if entry.is_plugin:
                source = read_class_source(entry.target)
                found[self.registry.shortest_name(entry)] = sorted(source.options) if source else ()
            elif (component := self.load(kind, entry.name)) is not None:
                found[entry.name] = component.model_fields
        return found

    def load(self, kind: type[Component], use: Any) -> type[Component] | None:
        try:
            return self.registry.load(kind, use) if isinstance(use, str) else None
        except KitError:
            return None

    @cached_property
    def chosen(self) -> dict[str, list[Answer]]:
        """The keys of this experiment by their last part: {"lr": [("optimizer.lr", "")]}."""
        return by_name((last_part(key), (key, "")) for key in self.keys if self.is_set(key))

    @cached_property
    def keys(self) -> dict[str, Slot | None]:
        """Every key of this experiment, and its slot where it takes components."""
        return dict(self.walk(self.root, self.values, ()))

    def is_set(self, key: str) -> bool:
        """Whether the experiment has the section of a key; it may have no [sweep]."""
        section = key.partition(".")[0]
        return self.values.get(section, self.root.model_fields[section].default) is not None

    @cached_property
    def available(self) -> dict[str, list[Answer]]:
        """What the experiment does not have, but may: {"muon": [("optimizer=muon", "")]}, and options of components."""
        found = [(last_part(key), (key, "")) for key in self.keys if not self.is_set(key)]
        for slot in filter(None, self.keys.values()):
            for name, options in self.options_by_name(slot.kind).items():
                element = f"{slot.key}.{name}" if slot.is_list else f"{slot.key}={name}"
                table, remark = (element, "") if slot.is_list else (slot.key, f"of {element}")
                found += [(name, (element, "")), *((option, (f"{table}.{option}", remark)) for option in options)]
        return by_name(found)

    def walk(self, owner: type[Options], values: Any, at: Key) -> Iterator[tuple[str, Slot | None]]:
        """Every key at or below the table `at`, and its slot where it takes components."""
        for name, field in owner.model_fields.items():
            key = (*at, name)
            classes = option_classes(field.annotation)
            value = values[name] if isinstance(values, dict) and name in values else field.default
            kind = classes[0] if classes and issubclass(classes[0], Component) else None
            is_list, several = get_origin(field.annotation) is tuple, isinstance(value, list | tuple)
            elements = value if several else () if is_list else [value]
            if kind is None:
                yield dotted(key), None
                for index, table in enumerate(elements) if classes else ():
                    yield from self.walk(classes[0], table, (*key, index) if is_list else key)
                continue
            yield dotted(key), Slot(dotted(key), kind, is_list)
            for index, element in enumerate(elements):
                use = name_of_element(element)
                component = self.load(kind, use)
                if component is not None:
                    yield from self.walk(component, element, (*key, use if is_list else index) if several else key)


def means(written: str, name: str, section: str) -> bool:
    """Whether a key in a section is a spelling, or another program's name, of the option `name`."""
    answer = foreign_option(written, section)
    if answer is not None and last_part(answer[0].partition("=")[0]) == name:
        return True
    return difflib.SequenceMatcher(None, plain(written), name).ratio() >= NEAR


def last_part(key: str) -> str:
    return key.rpartition(".")[2]


def by_name(pairs: Iterable[tuple[str, Answer]]) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    for name, answer in pairs:
        answers = found.setdefault(plain(name), [])
        if answer not in answers:
            answers.append(answer)
    return found


def most_similar(name: str, names: Iterable[str]) -> tuple[str, float]:
    """(the most similar of `names`, its similarity from 0 to 1)."""
    close = difflib.get_close_matches(name, sorted(names), n=1)
    return (close[0], difflib.SequenceMatcher(None, name, close[0]).ratio()) if close else ("", 0.0)


def enumeration(names: list[str], last: str = "or") -> str:
    """ "a, b or c"; of many the first ones."""
    names = names[:MAX_KEYS]
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def question(answers: list[Answer]) -> str:
    """ "did you mean optimizer.lr?", the remark of an answer that names no key, or nothing where there is none."""
    if not answers:
        return ""
    if not answers[0][0]:
        return f"{answers[0][1]}."
    return f"did you mean {enumeration(list(map(with_remark, answers)))}?"


def with_remark(answer: Answer) -> str:
    key, remark = answer
    return f"{key} ({remark})" if remark else key
