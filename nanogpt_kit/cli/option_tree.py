"""The dotted keys of an experiment as a tree, for completion: what may follow a key, and what its value may be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nanogpt_kit.cli.candidates import component_names
from nanogpt_kit.cli.option_cache import component_words
from nanogpt_kit.cli.option_words import OptionWords, words_of_options
from nanogpt_kit.core.errors import Key, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.experiment_keys import ExperimentKeys, component_of_list
from nanogpt_kit.core.key_rules import is_named, name_of_element
from nanogpt_kit.core.registry import Registry

Word = tuple[str, str]  # and its help


class CompletionKeys(ExperimentKeys):
    """The rules of an experiment's keys, without importing a component."""

    def option_names(self, key: Key, name: str) -> Sequence[str] | None:
        base = component_of_list(self.root, key)
        return list(component_node(base.kind, name).options) if base else None


@dataclass(frozen=True)
class TableNode:
    """A section, or a component of `kind`, with the values that an experiment gives it."""

    options: dict[str, OptionWords]
    given: dict[str, Any]
    kind: str = ""
    by_name: bool = False  # whether the components of every slot are addressed by their names, as in a list

    def next_parts(self) -> Iterator[Word]:
        """The next part of the key, with "=" where a value follows and "." where another part may."""
        if self.kind:
            yield "use=", f"component of kind {self.kind}"
        for name, option in self.options.items():
            if not option.is_list and option.table is None:
                yield f"{name}=", option.help
            if option.kind or option.table is not None:
                yield f"{name}.", option.help

    def values(self, name: str) -> Iterator[Word]:
        option = self.options.get(name)
        kind = self.kind if name == "use" else option.kind if option and not option.is_list else ""
        if kind:
            yield from component_names(kind)
        if option:
            yield from ((value, "") for value in option.values)

    def takes_path(self, name: str) -> bool:
        return name in self.options and self.options[name].is_path

    def below(self, name: str) -> TableNode | ListNode | ElementsNode | None:
        option, given = self.options.get(name), self.given.get(name)
        if option is None:
            return None
        if option.table is not None:
            return TableNode(option.table, given if isinstance(given, dict) else {}, by_name=self.by_name)
        if option.is_list or (option.kind and self.by_name):
            return ListNode(option.kind, given if isinstance(given, list) else list(option.default or ()), self.by_name)
        if option.kind and isinstance(given, list):
            return ElementsNode(option.kind, given)
        return component_node(option.kind, option.default if given is None else given) if option.kind else None


@dataclass(frozen=True)
class ListNode:
    """A list of components of `kind`, addressed by their names, or by index."""

    kind: str
    given: list[Any]
    by_name: bool = False  # whether every component can be named, with options or without

    def next_parts(self) -> Iterator[Word]:
        for name, distribution in component_names(self.kind):
            options = component_node(self.kind, name).options
            if len(options) == 1 and not self.by_name:  # sampler.temperature=0.6
                yield f"{name}=", next(iter(options.values())).help
            elif options or self.by_name:
                yield f"{name}.", distribution

    def values(self, name: str) -> Iterator[Word]:
        if name.isdecimal():
            yield from component_names(self.kind)
        options = component_node(self.kind, name).options
        yield from ((value, "") for option in options.values() if len(options) == 1 for value in option.values)

    def takes_path(self, name: str) -> bool:
        options = component_node(self.kind, name).options
        return len(options) == 1 and any(option.is_path for option in options.values())

    def below(self, name: str) -> TableNode | None:
        if not name.isdecimal():
            return component_node(self.kind, name)
        return component_node(self.kind, self.given[int(name)]) if int(name) < len(self.given) else None


@dataclass(frozen=True)
class ElementsNode:
    """The list that an experiment has in a slot of its model's layers, addressed by index."""

    kind: str
    given: list[Any]

    def next_parts(self) -> Iterator[Word]:
        for index, element in enumerate(self.given):
            help_text = f"{self.kind} {name_of_element(element)}"
            yield f"{index}=", help_text
            if component_node(self.kind, element).options:
                yield f"{index}.", help_text

    def values(self, name: str) -> Iterator[Word]:
        if name.isdecimal() and int(name) < len(self.given):
            yield from component_names(self.kind)

    def takes_path(self, name: str) -> bool:
        return False

    def below(self, name: str) -> TableNode | None:
        """An element by its index, or by the name that it alone has."""
        named = [element for element in self.given if is_named(element, name)]
        if name.isdecimal():
            named = self.given[int(name) : int(name) + 1]
        return component_node(self.kind, named[0]) if len(named) == 1 else None


def component_node(kind: str, given: Any) -> TableNode:
    """The table of the component that a value of a slot names; without options where there is no such component."""
    table = given if isinstance(given, dict) else {"use": given}
    with suppress(KitError):
        if isinstance(use := table.get("use"), str):
            return TableNode(component_words(Registry.installed().find(kind, use)), table, kind)
    return TableNode({}, table, kind)


def find_node(given: dict[str, Any] | None, key: Sequence[str]) -> TableNode | ListNode | ElementsNode | None:
    """The table or list at a dotted key of an experiment with these values; None where there is none.

    Without an experiment, components are addressed by their names, as in optimizer.muon.lr.
    """
    node: TableNode | ListNode | ElementsNode | None = TableNode(
        words_of_options(Experiment), given or {}, by_name=given is None
    )
    for part in key:
        node = node.below(part) if node else None
    return node
