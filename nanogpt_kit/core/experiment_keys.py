"""The keys of an experiment, as merging layers must know them: the lists of components, by the fields of its class."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from nanogpt_kit.core.errors import Key, KitError
from nanogpt_kit.core.key_rules import KeyRules, name_of_element
from nanogpt_kit.core.layered_slots import is_layered_slot, listed_slot
from nanogpt_kit.core.options import Component, Options, option_classes
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.sections import is_free_form


@dataclass(frozen=True)
class ExperimentKeys(KeyRules):
    """The rules of the sections that are fields of `root`."""

    root: type[Options]

    def is_free_form(self, key: Key, over_list: bool) -> bool:
        return is_free_form(key, over_list)

    def default_list(self, key: Key) -> list[Any] | None:
        if component_of_list(self.root, key) is None:
            return None
        default = self.root.model_fields[str(key[0])].default
        return list(default) if isinstance(default, tuple) else None

    def component_names(self, key: Key, values: dict[str, Any]) -> Collection[str]:
        """The installed ones, and the local files that `values` name: these are loaded after the layers are merged."""
        base = component_of_list(self.root, key) or self.kind_of_one_or_list(key, values)
        if base is None:
            return ()
        files = values.get("components")
        stems = {PurePath(file).stem for file in files if isinstance(file, str)} if isinstance(files, list) else set()
        return stems | {entry.name for entry in Registry.installed().of_kind(base.kind)}

    def takes_component(self, key: Key) -> bool:
        return component_of_list(self.root, key) is None

    def is_listed(self, key: Key, values: dict[str, Any]) -> bool:
        """Of components in local files it is not known yet: they are loaded after the layers are merged."""
        return self.slot_of_one_or_list(key, values) is not None

    def is_layered(self, key: Key, values: dict[str, Any]) -> bool:
        field = self.slot_of_one_or_list(key, values)
        return field is not None and is_layered_slot(field)

    def default_component(self, key: Key, values: dict[str, Any]) -> str | None:
        field = self.slot_of_one_or_list(key, values)
        return field.default if field and isinstance(field.default, str) else None

    def kind_of_one_or_list(self, key: Key, values: dict[str, Any]) -> type[Component] | None:
        """The kind of the components of the slot of one or a list at `key`; None for another key."""
        field = self.slot_of_one_or_list(key, values)
        return next(kind for kind in option_classes(field.annotation) if issubclass(kind, Component)) if field else None

    def slot_of_one_or_list(self, key: Key, values: dict[str, Any]) -> FieldInfo | None:
        owner = self.root if len(key) == 1 else self.component_above(key, values)
        field = owner.model_fields.get(str(key[-1])) if owner else None
        return field if field and listed_slot(field) else None

    def component_above(self, key: Key, values: dict[str, Any]) -> type[Component] | None:
        """The class of the component whose option is at `key`, as `model` has; None where it is not known."""
        field = self.root.model_fields.get(str(key[0])) if len(key) == 2 else None
        base = field.annotation if field else None
        if not (isinstance(base, type) and issubclass(base, Component)):
            return None
        use = name_of_element(values.get(str(key[0])))
        try:
            return Registry.installed().load(base, use) if isinstance(use, str) else None
        except KitError:
            return None

    def is_same_component(self, one: str, other: str) -> bool:
        if one == other or one.rpartition("/")[2] != other.rpartition("/")[2]:
            return one == other
        bare, qualified = sorted((one, other), key=lambda name: "/" in name)
        entries = Registry.installed().entries
        kinds = {entry.kind for entry in entries if entry.qualified == qualified}
        return {entry.qualified for entry in entries if entry.kind in kinds and entry.name == bare} == {qualified}

    def option_names(self, key: Key, name: str) -> Sequence[str] | None:
        base = component_of_list(self.root, key)
        if base is None:
            return None
        try:
            return list(Registry.installed().load(base, name).model_fields)
        except KitError:
            return None


def component_of_list(root: type[Options], key: Key) -> type[Component] | None:
    """The kind of the components in the list at `key`; None for another key."""
    field = root.model_fields.get(str(key[0])) if len(key) == 1 else None
    if field is None or get_origin(field.annotation) is not tuple:
        return None
    element = get_args(field.annotation)[0]
    return element if isinstance(element, type) and issubclass(element, Component) else None
